-- Open: DataFusion replaces columns that a join made equal inside a sort key, and does not find the required order again.
-- VALIDATE fails with 42804: Plan: [ba c\last_value(a.x) PARTITION BY [CASE WHEN a.x IS
-- workers: 3
CREATE TABLE t2 (c0 INT, c1 TEXT, c2 DOUBLE PRECISION, c3 TEXT, c4 DOUBLE PRECISION);
CREATE MATERIALIZED VIEW v3 AS SELECT a2.x302 AS x303, a2.x301 AS x304, grouping(a2.x302, a2.x301) AS x305, percentile_cont(0.5) WITHIN GROUP (ORDER BY a2.x302 * 2) FILTER (WHERE a2.x301 NOT LIKE 'a%') AS x306 FROM (SELECT min(a1.c1) AS x301, last_value(a1.c2 ORDER BY a1.c4, a1.c0, a1.c1, a1.c2, a1.c3) AS x302 FROM t2 AS a1 WHERE a1.c1 NOT IN ('b', '', NULL)) AS a2 LEFT JOIN unnest(ARRAY[3, 3]) AS a3 (item) ON true GROUP BY GROUPING SETS ((a2.x302), (a2.x301), ());
CREATE MATERIALIZED VIEW w AS SELECT a1.x303 AS x501, last_value(a1.x303) OVER (PARTITION BY CASE WHEN (a1.x303 IS NOT NULL OR (a1.x306, a2.c1) <= (CASE WHEN a1.x303 IS NOT NULL THEN a2.c2 ELSE 3::float8 END, 'ba c')) THEN a1.x305 ELSE 5 END, a1.x303 ORDER BY a1.x304, a1.x303, a1.x305, a1.x306, a2.c0, a2.c1, a2.c2, a2.c3, a2.c4) AS x502 FROM v3 AS a1 JOIN t2 AS a2 ON a1.x303 = a2.c2;
