-- differs
-- workers: 3
CREATE TABLE t0 (c0 INT, c1 VARCHAR(9), c2 SMALLINT, c3 BOOLEAN);
CREATE TABLE t1 (c0 SMALLINT, c1 TEXT, c2 SMALLINT, c3 VARCHAR(9), c4 TEXT, PRIMARY KEY (c0));
CREATE TABLE t2 (c0 INT, c1 TEXT, c2 INT, c3 NUMERIC(10, 2), PRIMARY KEY (c0, c1));
CREATE MATERIALIZED VIEW w AS SELECT a1.c0 AS x501, CASE WHEN a2.item <= 5 THEN a1.c0 ELSE 1 END AS x502 FROM t2 AS a1 CROSS JOIN unnest(ARRAY[coalesce(a1.c2, 2), a1.c0]) AS a2 (item) CROSS JOIN unnest(ARRAY[a1.c0, a1.c0]) AS a3 (item) ORDER BY a3.item DESC, a1.c0, a1.c1, a1.c2, a1.c3, a2.item LIMIT 1 OFFSET 1;
BEGIN; UPDATE t1 SET c2 = (c2 + 1) % 6 WHERE c3 = 'ab'; INSERT INTO t1 VALUES (3, '', NULL, 'b', '') ON CONFLICT (c0) DO UPDATE SET c1 = excluded.c1, c2 = excluded.c2, c3 = excluded.c3, c4 = excluded.c4; INSERT INTO t2 VALUES (6, '', 2, 3) ON CONFLICT (c0, c1) DO UPDATE SET c2 = excluded.c2, c3 = excluded.c3; INSERT INTO t2 VALUES (8, '', NULL, 1) ON CONFLICT (c0, c1) DO UPDATE SET c2 = excluded.c2, c3 = excluded.c3; INSERT INTO t2 VALUES (1, '', 3, 1) ON CONFLICT (c0, c1) DO UPDATE SET c2 = excluded.c2, c3 = excluded.c3; COMMIT;
