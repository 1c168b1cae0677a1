-- CREATE fails with no answerconnection: Error { kind: Closed, cause: None }
-- workers: 1
CREATE TABLE t0 (c0 SMALLINT, c1 VARCHAR(9), c2 TEXT, c3 TIMESTAMP, c4 BIGINT, c5 BOOLEAN);
CREATE MATERIALIZED VIEW w AS SELECT a2.x501 AS x504, a2.x501 AS x505, rank() OVER () AS x506, rank() OVER () AS x507 FROM (SELECT x501, x502, x503 FROM (SELECT coalesce(a1.c1, 'ab') AS x501, a1.c0 AS x502, a1.c0 AS x503, dense_rank() OVER (ORDER BY a1.c0) AS n FROM t0 AS a1) AS numbered WHERE n <= 1) AS a2 WHERE NOT ((a2.x501, TIMESTAMP '2024-01-02 11:30') = ANY (SELECT a3.c1, a3.c3 FROM t0 AS a3 JOIN LATERAL (SELECT count(*) AS x508, count(*) AS x509 FROM t0 AS a4 WHERE a4.c2 = a3.c1 AND a4.c0 IS NOT NULL) AS a5 ON true WHERE a3.c0 IS NOT NULL));
