-- A number in an aggregate's ORDER BY was the number of a column.
-- workers: 2
CREATE TABLE t (a INT, b INT);
CREATE MATERIALIZED VIEW w AS SELECT a, array_agg(b ORDER BY 0 DESC) AS x, array_agg(b ORDER BY b, 1) AS y FROM t GROUP BY a;
INSERT INTO t VALUES (1, 3), (1, 2), (2, 1);
DELETE FROM t WHERE b = 3;
