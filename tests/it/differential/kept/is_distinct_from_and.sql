-- IS DISTINCT FROM took AND and all behind it for its operand.
-- workers: 3
CREATE TABLE t0 (c0 INT, c1 TEXT);
CREATE MATERIALIZED VIEW w AS SELECT a1.c0 AS x1 FROM t0 AS a1 JOIN t0 AS a2 ON a1.c0 = a2.c0 AND (a1.c1 IS DISTINCT FROM a2.c1 AND a1.c0 IS NOT NULL OR a1.c0 = 3);
INSERT INTO t0 VALUES (1, 'a'), (1, NULL), (NULL, 'a'), (3, 'b');
DELETE FROM t0 WHERE c1 = 'a';
