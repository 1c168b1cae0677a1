-- differs
-- workers: 3
CREATE TABLE t0 (c0 BIGINT, c1 TEXT, c2 TEXT, c3 NUMERIC, c4 DOUBLE PRECISION, c5 DATE);
CREATE TABLE t1 (c0 BIGINT, c1 VARCHAR(9), c2 TEXT, c3 NUMERIC, PRIMARY KEY (c0));
CREATE MATERIALIZED VIEW w AS SELECT count(*) AS x501, first_value(a1.c0 ORDER BY a1.c0, a1.c1, a1.c2, a1.c3, a2.c0, a2.c1, a2.c2, a2.c3, a2.c4, a2.c5) AS x502 FROM t1 AS a1 RIGHT JOIN t0 AS a2 ON a1.c2 = a2.c1 WHERE (a2.c4, a1.c1) < (a2.c4 * 2, 'a');
INSERT INTO t1 VALUES (2, '', 'ba c', 1.50) ON CONFLICT (c0) DO UPDATE SET c1 = excluded.c1, c2 = excluded.c2, c3 = excluded.c3; INSERT INTO t1 VALUES (7, NULL, 'ab', 1) ON CONFLICT (c0) DO UPDATE SET c1 = excluded.c1, c2 = excluded.c2, c3 = excluded.c3; INSERT INTO t1 VALUES (5, 'B', '', 1) ON CONFLICT (c0) DO UPDATE SET c1 = excluded.c1, c2 = excluded.c2, c3 = excluded.c3;
INSERT INTO t0 VALUES (0, 'ba c', 'ba c', 1.5, 3, '2024-02-27'), (0, 'ba c', NULL, NULL, 0, '2024-02-29'), (0, 'a', 'b', 3, 3, NULL), (3, 'a', 'b', NULL, 0.2, '2024-02-28'), (5, 'ba c', NULL, -2.25, 3, '2024-02-28');
