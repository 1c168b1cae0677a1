-- ORDER BY a2.c1 beside an output column c1 was said to be ambiguous.
-- workers: 1
CREATE TABLE t0 (c0 INT, c1 INT);
CREATE MATERIALIZED VIEW w AS SELECT a2.c0 + 1 AS c1, a2.c1 AS c0 FROM t0 AS a2 ORDER BY a2.c1 DESC, a2.c0 LIMIT 2;
INSERT INTO t0 VALUES (1, 4), (1, NULL), (NULL, 2), (4, 1);
DELETE FROM t0 WHERE c1 IS NULL;
