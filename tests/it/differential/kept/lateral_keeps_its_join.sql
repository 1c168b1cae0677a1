-- CREATE fails with 42P01P: missing FROM-clause entry for table 
-- workers: 1
CREATE TABLE t0 (c0 BIGINT, c1 TEXT, c2 NUMERIC(10, 2), c3 TIMESTAMP, c4 DATE);
CREATE TABLE t1 (c0 INT, c1 VARCHAR(9), c2 TEXT, c3 TEXT, PRIMARY KEY (c0));
CREATE TABLE t2 (c0 INT, c1 TEXT, c2 DOUBLE PRECISION, c3 TIMESTAMP, PRIMARY KEY (c0, c1));
CREATE MATERIALIZED VIEW v3 AS SELECT x301, x302, x303, n FROM (SELECT coalesce(a7.r, '') AS x301, a1.c0 AS x302, coalesce(a7.k, '') AS x303, row_number() OVER (ORDER BY a1.c2 DESC NULLS LAST, a1.c0, a1.c1, a1.c3, a2.c0, a2.c1, a2.c2, a2.c3, a7.k, a7.l, a7.r) AS n FROM t1 AS a1 JOIN t2 AS a2 ON a1.c0 = a2.c0 RIGHT JOIN (SELECT coalesce(k, a5.k, a6.k) AS k, l, a6.r FROM (SELECT a3.c1 AS k, a3.c4 AS l FROM t0 AS a3) AS a5 FULL JOIN (SELECT a4.c3 AS k, a4.c3 AS r FROM t1 AS a4) AS a6 USING (k)) AS a7 ON a1.c2 = a7.k AND a2.c1 <= a7.r WHERE NOT ((a7.r, a1.c3) NOT IN (('b', 'ba c'), ('', 'a')))) AS numbered WHERE n < 1;
CREATE MATERIALIZED VIEW w AS SELECT DISTINCT a1.c0 AS x503 FROM t0 AS a1 LEFT JOIN t0 AS a2 ON a1.c0 = a2.c0 CROSS JOIN LATERAL (SELECT a3.c0 AS x501, a3.c0 AS x502 FROM t0 AS a3 WHERE a3.c1 = a2.c1) AS a4;
