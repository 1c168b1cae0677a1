-- The shop's own database, as its application has it: one row a customer, overwritten at every change.
CREATE SCHEMA raw;
CREATE TABLE raw.customers (
    customer_id BIGINT PRIMARY KEY,
    email       TEXT,
    status      TEXT,
    city        TEXT,
    visits      INT NOT NULL DEFAULT 0,
    updated_at  TIMESTAMPTZ NOT NULL
);
INSERT INTO raw.customers VALUES
    (1, ' Ann@Example.org', 'new',   'Oslo',   1, '2024-03-01 09:00+00'),
    (2, 'bob@example.org',  'new',   'Bergen', 1, '2024-03-01 09:30+00'),
    (3, 'cy (at) example',  'gold',  '',       7, '2024-03-01 10:00+00'),
    (4, 'DEE@EXAMPLE.ORG ', 'trial', 'Oslo',   1, '2024-03-01 10:30+00');
