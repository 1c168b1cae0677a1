-- Two lists' items of the same name, the second made of the first.
-- workers: 3
CREATE TABLE t1 (c0 INT, c1 TEXT, PRIMARY KEY (c0));
CREATE MATERIALIZED VIEW w AS SELECT a1.c0 AS x1, a2.item AS x2, a3.item AS x3 FROM t1 AS a1 CROSS JOIN unnest(ARRAY[a1.c0, 3]) AS a2 (item) LEFT JOIN unnest(ARRAY[a2.item, a1.c0]) AS a3 (item) ON true;
INSERT INTO t1 VALUES (1, 'a'), (2, NULL);
UPDATE t1 SET c0 = 5 WHERE c0 = 2;
