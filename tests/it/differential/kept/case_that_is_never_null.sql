-- GROUP BY over a CASE that the logical plan knew to be never NULL, and the physical plan did not.
-- workers: 1
CREATE TABLE t0 (c0 INT, c1 VARCHAR(9));
CREATE MATERIALIZED VIEW w AS SELECT CASE WHEN (a1.c0 IS NOT NULL AND a1.c1 LIKE 'a%') THEN a1.c1 ELSE 'a' END AS x2, count(*) AS x3 FROM t0 AS a1 GROUP BY 1;
INSERT INTO t0 VALUES (1, 'ab'), (1, NULL), (NULL, 'ab'), (3, 'b');
UPDATE t0 SET c1 = 'a' WHERE c0 = 1;
