SELECT customer_id, email, status, city, valid_from, valid_to FROM dwh.dim_customer WHERE customer_id <> 4 ORDER BY customer_id, valid_from;

-- Who was gold, and who is?
SELECT count(*) FILTER (WHERE valid_from <= '2024-03-04' AND coalesce(valid_to > '2024-03-04', true)) AS on_4_march,
       count(*) FILTER (WHERE is_current) AS now
FROM dwh.dim_customer WHERE status = 'gold';

-- Who has left?
SELECT customer_id, max(email) AS email FROM dwh.dim_customer GROUP BY customer_id HAVING NOT bool_or(is_current);
