-- VALIDATE fails with 22000: Expects PARTITION BY expression to be ordered
-- workers: 3
CREATE TABLE t1 (c0 BIGINT, c1 TEXT, c2 TEXT, c3 NUMERIC(10, 2), c4 BOOLEAN, PRIMARY KEY (c0));
CREATE MATERIALIZED VIEW w AS SELECT x501 FROM (SELECT a1.c0 AS x501, row_number() OVER (PARTITION BY a1.c0 + 1, a1.c0 ORDER BY a1.c0, a1.c1, a1.c2, a1.c3, a1.c4, a2.y0, a2.y1) AS n FROM t1 AS a1 JOIN (VALUES (1, 'a'), (2, NULL), (NULL, 'b'), (2, 'ab')) AS a2 (y0, y1) ON a1.c0 = a2.y0) AS numbered WHERE n <= 1;
