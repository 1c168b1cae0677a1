-- ARRAY[..] forgot the tables before it.
-- workers: 1
CREATE TABLE t0 (c0 INT, c1 INT);
CREATE MATERIALIZED VIEW w AS SELECT a1.c0 AS x1, a2.item AS x2 FROM t0 AS a1 CROSS JOIN unnest(ARRAY[a1.c0, coalesce(a1.c1, 4)]) AS a2 (item) FULL JOIN t0 AS a4 ON a2.item = a4.c0;
INSERT INTO t0 VALUES (1, 4), (1, NULL), (NULL, 2), (4, 1);
-- restart
DELETE FROM t0 WHERE c0 = 4;
