-- A week in the shop.
UPDATE raw.customers SET status = 'gold', updated_at = '2024-03-05 12:00+00' WHERE customer_id = 1;
UPDATE raw.customers SET email = 'BOB@example.org', visits = 9, updated_at = '2024-03-06 12:00+00' WHERE customer_id = 2;
UPDATE raw.customers SET email = 'cy@example.org', city = 'Tromsø', updated_at = '2024-03-07 08:00+00' WHERE customer_id = 3;
DELETE FROM raw.customers WHERE customer_id = 4;
INSERT INTO raw.customers VALUES (5, 'eve@example.org', 'new', 'Bodø', 1, '2024-03-07 09:00+00');
