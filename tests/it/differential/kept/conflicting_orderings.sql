-- VALIDATE fails with 0A000A: Conflicting ordering requirements in aggregate functions 
-- workers: 3
CREATE TABLE t0 (c0 INT, c1 TEXT, c2 DOUBLE PRECISION, c3 DOUBLE PRECISION, c4 DATE);
CREATE TABLE t1 (c0 INT, c1 TEXT, c2 BOOLEAN, c3 NUMERIC, c4 TEXT, PRIMARY KEY (c0));
CREATE MATERIALIZED VIEW w AS SELECT a1.c0 AS x501, count(*) AS x502, string_agg(a1.c1, ',' ORDER BY a1.c1) AS x503 FROM t1 AS a1 GROUP BY 1 HAVING string_agg(coalesce(a1.c1, 'a'), ',' ORDER BY coalesce(a1.c1, 'a')) >= (SELECT min(a2.c1) FROM t0 AS a2);
