//! Sources and sinks with their files: what goes out comes in again, the same rows in every run.

use std::path::Path;

use crate::harness::{Instance, repository, start};

#[tokio::test]
async fn parquet_files() {
    let instance = start().await;
    let path = repository().join("examples/flights/*.parquet");
    instance
        .run(&format!(
            "CREATE SOURCE flights (*) INCLUDE file AS path WITH (connector = 'file', path = '{}', bounded = true)",
            path.display()
        ))
        .await;
    instance
        .run("CREATE MATERIALIZED VIEW by_origin AS SELECT origin, count(*) AS n, count(dep_delay) AS left_at_all FROM flights GROUP BY origin")
        .await;
    instance.wait_for("SELECT sum(n) FROM by_origin", &["27004"]).await;
    assert_eq!(instance.lines("SELECT origin FROM by_origin ORDER BY origin").await, ["EWR", "JFK", "LGA"]);
    instance.wait_for("SELECT state FROM tidemark.sources WHERE name = 'flights'", &["finished"]).await;
}

/// A batch query over files that were read to their ends is DataFusion's own scan, unless only the source's reader gives its rows.
#[tokio::test]
async fn parquet_files_as_batches() {
    let instance = start().await;
    let examples = repository().join("examples/flights");
    let options = |path: &Path| format!("connector = 'file', path = '{}', bounded = true", path.display());
    let spaced = instance.dir.path().join("a b");
    std::fs::create_dir(&spaced).unwrap();
    for file in std::fs::read_dir(&examples).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "parquet") {
            std::fs::copy(&path, spaced.join(format!("a {}", path.file_name().unwrap().display()))).unwrap();
        }
    }
    let here = options(&examples.join("*.parquet"));
    let sources = [
        ("plain", format!("(*) INCLUDE file AS path WITH ({here})"), true),
        (
            "converted",
            format!(
                "(origin TEXT, dep_delay TEXT, distance BIGINT, carrier TEXT) WITH ({here}) FORMAT PLAIN ENCODE PARQUET"
            ),
            false,
        ),
        ("named", format!("(*) WITH ({})", options(&spaced.join("*.parquet"))), false),
    ];
    for (name, rest, _) in &sources {
        instance.run(&format!("CREATE SOURCE {name} {rest}")).await;
    }
    instance.wait_for("SELECT count(*) FROM tidemark.sources WHERE state = 'finished'", &["3"]).await;
    let query = |name: &str, columns: &str| {
        format!(
            "SELECT {columns} FROM {name} WHERE origin = 'JFK' AND dep_delay::int > 60 GROUP BY carrier ORDER BY carrier"
        )
    };
    let columns = "carrier, count(*), sum(distance)";
    let expected = instance.lines(&query("named", columns)).await;
    assert!(expected.len() > 3);
    for (name, _, direct) in &sources {
        let plan = instance.lines(&format!("EXPLAIN ANALYZE {}", query(name, columns))).await.join("\n");
        assert_eq!(plan.contains("DataSourceExec"), *direct, "{name}: {plan}");
        assert_eq!(instance.lines(&query(name, columns)).await, expected, "{name}");
    }
    // Text is compared before it is unpacked.
    for condition in [
        "origin = 'JFK'",
        "'EWR' < origin AND distance > 1000",
        "origin > dest",
        "carrier IN ('AA', 'DL', 'zz')",
        "carrier NOT IN ('AA', NULL) OR dest = 'BOS'",
        "dest LIKE 'B%' AND dest NOT ILIKE '%o%'",
        "tailnum IS NULL OR tailnum LIKE 'N_%AA'",
        "NOT (tailnum = 'N14228') AND carrier IS DISTINCT FROM 'UA'",
        "lower(carrier) || dest > 'm' AND tailnum IS NOT NULL",
        "CASE WHEN origin = 'LGA' THEN dest ELSE carrier END = 'ATL'",
        "length(tailnum) <> 6 OR coalesce(tailnum, carrier) = 'AA'",
        "dest = 'nowhere'",
        "origin = NULL",
    ] {
        let found = |name: &str| {
            format!(
                "SELECT count(*), min(dest), max(tailnum), count(tailnum), sum(distance) FROM {name} WHERE {condition}"
            )
        };
        assert_eq!(instance.lines(&found("plain")).await, instance.lines(&found("named")).await, "{condition}");
    }
    // Row groups are passed over by what is known of them.
    let plan = instance.lines("EXPLAIN ANALYZE SELECT count(*) FROM plain WHERE distance < 0").await.join("\n");
    assert!(plan.contains("bytes_scanned=0"), "{plan}");
    // Only the reader knows which file a row is of.
    let paths = instance.lines(&query("plain", "carrier, count(*), sum(distance), count(path) - count(*)")).await;
    assert_eq!(paths, expected.iter().map(|line| format!("{line} 0")).collect::<Vec<_>>());
}

/// Of the least and the largest value that a Parquet file tells NaN, which is larger than all numbers, is no part.
#[tokio::test]
async fn not_a_number_is_beyond_what_a_file_tells() {
    let instance = start().await;
    let path = format!("path = '{}'", instance.dir.path().join("numbers").display());
    instance.run("CREATE SOURCE made (id INT) WITH (connector = 'datagen', rows = 4, rows_per_second = 'unlimited', fields.id.kind = 'sequence')").await;
    let x = "CASE id WHEN 2 THEN 'NaN'::double precision WHEN 3 THEN NULL ELSE id END AS x";
    instance.run(&format!("CREATE MATERIALIZED VIEW t AS SELECT id, {x} FROM made")).await;
    instance.run(&format!("CREATE SINK s FROM t WITH (connector = 'file', {path}) FORMAT PLAIN ENCODE PARQUET")).await;
    instance.wait_for("SELECT rows FROM tidemark.sinks", &["4"]).await;
    instance
        .run(&format!(
            "CREATE SOURCE f (id INT, x DOUBLE PRECISION) WITH (connector = 'file', {path}, bounded = true) FORMAT PLAIN ENCODE PARQUET"
        ))
        .await;
    instance.wait_for("SELECT state FROM tidemark.sources WHERE name = 'f'", &["finished"]).await;
    let plan = instance.lines("EXPLAIN SELECT id FROM f WHERE x > 5").await.join("\n");
    assert!(plan.contains("DataSourceExec"), "{plan}");
    for (query, expected) in [
        ("SELECT id FROM f WHERE x > 5", "2"),
        ("SELECT id FROM f WHERE x >= 2 AND id < 3", "2"),
        ("SELECT id FROM f WHERE x = 'NaN'", "2"),
        ("SELECT id FROM f WHERE x IS NOT NULL ORDER BY x DESC LIMIT 1", "2"),
        ("SELECT f.id FROM f JOIN t ON f.x = t.x WHERE t.id = 2", "2"),
    ] {
        assert_eq!(instance.lines(query).await, [expected], "{query}");
    }
}

const TYPES: &str =
    "id INT, a BOOLEAN, b BIGINT, c DOUBLE PRECISION, d NUMERIC(10,2), e TEXT, f DATE, g TIMESTAMP, h UUID, i INT[]";

/// A sink's files are a source's files. `place`: the options that say where.
pub async fn round_trip(instance: &Instance, format: &str, place: &str) {
    let lower = format.to_lowercase();
    instance.run(&format!("CREATE SOURCE made_{lower} (id INT) WITH (connector = 'datagen', rows = 100, rows_per_second = 'unlimited', fields.id.kind = 'sequence')")).await;
    let nested =
        if format == "CSV" { "NULL::int[]" } else { "CASE WHEN id % 3 = 0 THEN NULL ELSE ARRAY[id, NULL] END" };
    let columns = format!(
        "id, id % 2 = 0 AS a, id * 10000000000 AS b, id / 8.0::double precision AS c, (id / 4.0)::numeric(10,2) AS d, \
         CASE WHEN id % 5 = 0 THEN NULL ELSE 'say \"' || id || '\", ü' END AS e, DATE '2024-02-28' + id AS f, \
         TIMESTAMP '2024-02-28 12:00:00.5' + id * INTERVAL '1 second' AS g, \
         ('a0eebc99-9c0b-4ef8-bb6d-6bb9bd38' || (1000 + id))::uuid AS h, {nested} AS i"
    );
    instance.run(&format!("CREATE MATERIALIZED VIEW out_{lower} AS SELECT {columns} FROM made_{lower}")).await;
    instance
        .run(&format!(
            "CREATE SINK sink_{lower} FROM out_{lower} WITH (connector = 'file', {place}) FORMAT PLAIN ENCODE {format}"
        ))
        .await;
    instance.wait_for(&format!("SELECT rows FROM tidemark.sinks WHERE name = 'sink_{lower}'"), &["100"]).await;
    instance
        .run(&format!(
            "CREATE SOURCE in_{lower} ({TYPES}) WITH (connector = 'file', {place}, poll_interval = '50ms') FORMAT PLAIN ENCODE {format}"
        ))
        .await;
    instance.run(&format!("CREATE MATERIALIZED VIEW back_{lower} AS SELECT * FROM in_{lower}")).await;
    instance.wait_for(&format!("SELECT count(*) FROM back_{lower}"), &["100"]).await;
    let sent = instance.lines(&format!("SELECT * FROM out_{lower} ORDER BY id")).await;
    let came = instance.lines(&format!("SELECT * FROM back_{lower} ORDER BY id")).await;
    assert_eq!(came, sent, "{format}");
    for condition in ["true", "b > 50 * 10000000000 AND a", "e IS NULL OR f = '2024-03-01'", "i IS NULL", "d < 3.25"] {
        let select = |from: &str| format!("SELECT * FROM {from}_{lower} WHERE {condition} ORDER BY id");
        assert_eq!(instance.lines(&select("in")).await, instance.lines(&select("out")).await, "{format}: {condition}");
    }
}

#[tokio::test]
async fn what_a_sink_writes_a_source_reads() {
    let instance = start().await;
    for format in ["JSON", "PARQUET", "CSV"] {
        round_trip(&instance, format, &format!("path = '{}'", instance.dir.path().join(format).display())).await;
    }
}

/// The same options give the same rows, on another server, on another day.
#[tokio::test]
async fn generators_repeat_themselves() {
    let mut answers = Vec::new();
    for _ in 0..2 {
        let instance = start().await;
        instance
            .run(
                "CREATE SOURCE g (a INT, b TEXT, c DOUBLE PRECISION, d TIMESTAMP, e UUID) \
                 WITH (connector = 'datagen', rows = 5000, rows_per_second = 'unlimited', seed = 42)",
            )
            .await;
        instance
            .run("CREATE SOURCE n WITH (connector = 'nexmark', nexmark.table.type = 'bid', nexmark.event.num = 5000)")
            .await;
        instance.run("CREATE MATERIALIZED VIEW gv AS SELECT a, b, c, d, e FROM g").await;
        instance.run("CREATE MATERIALIZED VIEW nv AS SELECT * FROM n").await;
        instance.wait_for("SELECT (SELECT count(*) FROM gv), (SELECT count(*) FROM nv)", &["5000 4600"]).await;
        let mut rows = instance.lines("SELECT * FROM gv").await;
        rows.extend(instance.lines("SELECT * FROM nv").await);
        rows.sort();
        answers.push(rows);
    }
    assert!(answers[0] == answers[1], "two runs differ");
}

/// Writes a file whole: under a name that is passed over, then renamed.
fn write(dir: &Path, name: &str, text: &str) {
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join("_partial"), text).unwrap();
    std::fs::rename(dir.join("_partial"), dir.join(name)).unwrap();
}

/// Of two sources the slower one's watermark counts, unless it is idle for longer than the user is willing to wait.
#[tokio::test]
async fn watermarks_of_two_sources() {
    let instance = start().await;
    let (one, two) = (instance.dir.path().join("one"), instance.dir.path().join("two"));
    write(&one, "1.csv", "1,2024-01-01 10:00:30\n2,2024-01-01 10:05:00\n");
    write(&two, "1.csv", "3,2024-01-01 10:00:40\n");
    for (name, dir, extra) in [("s1", &one, ""), ("s2", &two, ""), ("s3", &two, ", idle_timeout = '1 second'")] {
        instance
            .run(&format!(
                "CREATE SOURCE {name} (id INT, ts TIMESTAMP, WATERMARK FOR ts AS ts) \
                 WITH (connector = 'file', path = '{}', poll_interval = '50ms'{extra}) FORMAT PLAIN ENCODE CSV (header = 'false')",
                dir.display()
            ))
            .await;
    }
    for (view, other) in [("strict", "s2"), ("patient", "s3")] {
        instance
            .run(&format!(
                "CREATE VIEW {view}_input AS SELECT id, ts FROM s1 UNION ALL SELECT id, ts FROM {other}; \
                 CREATE MATERIALIZED VIEW {view} AS SELECT window_start, count(*) AS n \
                 FROM TUMBLE({view}_input, ts, INTERVAL '1 minute') GROUP BY window_start EMIT ON WINDOW CLOSE"
            ))
            .await;
    }
    // s3 says nothing for a second, so the other input closes the window.
    instance.wait_for("SELECT window_start, n FROM patient", &["2024-01-01 10:00:00 2"]).await;
    assert_eq!(instance.value("SELECT count(*) FROM strict").await, "0", "s2 is still at 10:00:40");
    write(&two, "2.csv", "4,2024-01-01 10:02:00\n");
    instance.wait_for("SELECT window_start, n FROM strict", &["2024-01-01 10:00:00 2"]).await;
}

/// A closed window stays as it was, also across a restart.
#[tokio::test]
async fn closed_windows_survive_a_restart() {
    let mut instance = start().await;
    let dir = instance.dir.path().join("in");
    write(&dir, "1.csv", "1,2024-01-01 10:00:30\n2,2024-01-01 10:01:30\n");
    instance
        .run(&format!(
            "CREATE SOURCE s (id INT, ts TIMESTAMP, WATERMARK FOR ts AS ts) \
             WITH (connector = 'file', path = '{}', poll_interval = '50ms') FORMAT PLAIN ENCODE CSV (header = 'false')",
            dir.display()
        ))
        .await;
    instance
        .run(
            "CREATE MATERIALIZED VIEW closed AS SELECT window_start, count(*) AS n, sum(id) AS s \
             FROM TUMBLE(s, ts, INTERVAL '1 minute') GROUP BY window_start EMIT ON WINDOW CLOSE",
        )
        .await;
    instance.wait_for("SELECT window_start, n, s FROM closed", &["2024-01-01 10:00:00 1 1"]).await;
    instance.server.kill_and_restart().await.unwrap();
    // One late, two for the window that was open when the server was killed.
    write(&dir, "2.csv", "9,2024-01-01 10:00:59\n3,2024-01-01 10:01:40\n4,2024-01-01 10:03:00\n");
    instance
        .wait_for(
            "SELECT window_start, n, s FROM closed ORDER BY 1",
            &["2024-01-01 10:00:00 1 1", "2024-01-01 10:01:00 2 5"],
        )
        .await;
    instance.wait_for("SELECT late_rows FROM tidemark.sources WHERE name = 's'", &["1"]).await;
}

/// Paused, a source keeps its place; resumed, it goes on from there.
#[tokio::test]
async fn pause_and_resume() {
    let instance = start().await;
    let dir = instance.dir.path().join("in");
    write(&dir, "1.csv", "1\n2\n");
    instance
        .run(&format!(
            "CREATE SOURCE s (id INT) WITH (connector = 'file', path = '{}', poll_interval = '50ms') FORMAT PLAIN ENCODE CSV (header = 'false')",
            dir.display()
        ))
        .await;
    instance.run("CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n FROM s").await;
    instance.wait_for("SELECT n FROM v", &["2"]).await;
    instance.run("ALTER SOURCE s PAUSE").await;
    instance.wait_for("SELECT state FROM tidemark.sources WHERE name = 's'", &["paused"]).await;
    write(&dir, "2.csv", "3\n");
    instance.run("ALTER SOURCE s RESUME").await;
    instance.wait_for("SELECT n FROM v", &["3"]).await;
}

/// A source that was idle and comes back may change what the others have gone on without: such changes are left out, and no view
/// fails of them.
#[tokio::test]
async fn an_idle_source_comes_back() {
    let instance = start().await;
    let (one, two) = (instance.dir.path().join("one"), instance.dir.path().join("two"));
    write(&one, "1.csv", "1,2024-01-01 10:00:10\n");
    write(&two, "1.csv", "1,2024-01-01 10:00:20\n");
    for (name, dir, extra) in [("a", &one, ", idle_timeout = '1 second'"), ("b", &two, "")] {
        instance
            .run(&format!(
                "CREATE SOURCE {name} (k INT, ts TIMESTAMP, WATERMARK FOR ts AS ts) WITH (connector = 'file', \
                 path = '{}', poll_interval = '50ms', header = 'false'{extra}) FORMAT PLAIN ENCODE CSV",
                dir.display()
            ))
            .await;
        instance
            .run(&format!(
                "CREATE MATERIALIZED VIEW {name}w AS SELECT window_start, k, count(*) AS n \
                 FROM TUMBLE({name}, ts, INTERVAL '1 minute') GROUP BY window_start, k"
            ))
            .await;
    }
    for (name, query) in [
        ("j", "SELECT x.k, x.n, y.n AS m FROM aw AS x JOIN bw AS y ON x.window_start = y.window_start AND x.k = y.k"),
        (
            "l",
            "SELECT x.k, x.n, y.n AS m FROM aw AS x LEFT JOIN bw AS y ON x.window_start = y.window_start AND x.k = y.k",
        ),
        ("u", "SELECT window_start, k, n FROM aw UNION ALL SELECT window_start, k, n FROM bw"),
    ] {
        instance.run(&format!("CREATE MATERIALIZED VIEW {name} AS {query}")).await;
    }
    instance.run("CREATE MATERIALIZED VIEW uj AS SELECT u.k, u.n, b.n AS m FROM u JOIN bw AS b ON u.window_start = b.window_start AND u.k = b.k").await;
    instance.run("CREATE MATERIALIZED VIEW uc AS SELECT window_start, k, n FROM u EMIT ON WINDOW CLOSE").await;
    instance.wait_for("SELECT k, n, m FROM j", &["1 1 1"]).await;
    write(&two, "2.csv", "2,2024-01-01 11:00:00\n");
    // a says nothing for a second: what belongs to the first window is over.
    instance.wait_for("SELECT count(*) FROM uc", &["2"]).await;
    write(&one, "2.csv", "1,2024-01-01 10:00:30\n");
    instance.wait_for("SELECT sum(n) FROM aw", &["2"]).await;
    write(&two, "3.csv", "2,2024-01-01 12:00:00\n");
    instance.wait_for("SELECT count(*) FROM bw", &["3"]).await;
    let states = "SELECT name, state FROM tidemark.materialized_views WHERE state <> 'running' ORDER BY name";
    assert!(instance.lines(states).await.is_empty(), "{:?}", instance.lines(states).await);
    assert_eq!(instance.value("SELECT count(*) FROM j").await, "1");
}
