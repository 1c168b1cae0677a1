-- Where the shop is. The password is in the server's environment; neither SHOW CREATE nor a log ever shows it.
CREATE SECRET shop_password FROM ENV 'SHOP_PASSWORD';
CREATE CONNECTION shop WITH (
    type = 'postgres', host = '${SHOP_HOST}', port = '${SHOP_PORT}', database = 'shop',
    user = 'tidemark', password = SECRET shop_password);

-- Every version of every customer: which columns make one, when it begins, what becomes of those who are gone, and where it is kept.
CREATE TABLE dim_customer (
    customer_id BIGINT PRIMARY KEY,
    email       TEXT NORMALIZE (trim, lower, email, on_failure = null),
    status      TEXT,
    city        TEXT NORMALIZE (trim, empty_to_null, default('unknown')),
    visits      INT,
    updated_at  TIMESTAMPTZ
) WITH (
    strategy = 'scd2', compare_columns = 'email, status, city', event_time = 'updated_at', deletes = 'soft',
    connection = 'shop', table = 'dwh.dim_customer');

-- What fills it, and when. Run by hand as often as you like, too.
CREATE PIPELINE sync_customers INTO dim_customer SCHEDULE '0 3 * * *' WITH (retries = 3)
AS SELECT customer_id, email, status, city, visits, updated_at FROM shop.raw.customers;
