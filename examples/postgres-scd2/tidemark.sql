-- Where the shop is. The password is in the server's environment; neither SHOW CREATE nor a log ever shows it.
CREATE SECRET shop_password FROM ENV 'SHOP_PASSWORD';
CREATE CONNECTION shop WITH (
    type = 'postgres', host = '${SHOP_HOST}', port = '${SHOP_PORT}', database = 'shop',
    user = 'tidemark', password = SECRET shop_password);

-- Every version of every customer. Which columns make a version, when it begins, and what becomes of those that are gone.
CREATE TABLE dim_customer (
    customer_id BIGINT PRIMARY KEY,
    email       TEXT NORMALIZE (trim, lower, email, on_failure = null),
    status      TEXT,
    city        TEXT NORMALIZE (trim, empty_to_null, default('unknown')),
    visits      INT,
    updated_at  TIMESTAMPTZ
) WITH (strategy = 'scd2', compare_columns = 'email, status, city', event_time = 'updated_at', deletes = 'soft');

-- What one would write as MERGE and a cron job elsewhere.
CREATE PIPELINE sync_customers INTO dim_customer EVERY INTERVAL '1 hour'
  WITH (retries = 3)
AS SELECT customer_id, email, status, city, visits, updated_at FROM shop.raw.customers;
