-- What one would write as MERGE elsewhere. Run it as often as you like.
INSERT INTO dim_customer
SELECT customer_id, email, status, city, visits, updated_at FROM shop.raw.customers;
