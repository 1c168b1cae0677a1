//! State is really let go: a day of event time through each windowed and joined view.
//!
//! ```text
//!   a day, two rows a minute ─▶ sources a and b ─▶ view ─▶ state entries of all its operators   bounded by the horizon of
//!                                                          (EXPLAIN ANALYZE)                     the query, not by the day
//! ```

use std::fmt::Write;
use std::path::Path;

use crate::harness::{Instance, start};

/// Rows of each source: two a minute, out of order by up to 40 seconds, of four keys.
const ROWS: usize = 2880;
/// Rows of a source that lie within an hour.
const HOUR: u64 = 120;

/// Name, query, and the most state entries that it may have when the day is over.
const VIEWS: [(&str, &str, u64); 23] = [
    (
        "tumble",
        "SELECT window_start, k, count(*) AS n, min(v) AS m FROM TUMBLE(a, ts, INTERVAL '10 minutes') GROUP BY window_start, k",
        20,
    ),
    (
        "tumble_closed",
        "SELECT window_start, k, count(*) AS n FROM TUMBLE(a, ts, INTERVAL '10 minutes') GROUP BY window_start, k EMIT ON WINDOW CLOSE",
        20,
    ),
    (
        "hop",
        "SELECT window_start, window_end, count(DISTINCT v) AS n FROM HOP(a, ts, INTERVAL '7 minutes', INTERVAL '30 minutes') GROUP BY window_start, window_end",
        300,
    ),
    (
        "cumulate",
        "SELECT window_start, window_end, k, sum(v) AS s FROM CUMULATE(a, ts, INTERVAL '10 minutes', INTERVAL '1 hour') GROUP BY window_start, window_end, k",
        40,
    ),
    (
        "listed",
        "SELECT window_start, array_agg(v ORDER BY ts) AS l FROM TUMBLE(a, ts, INTERVAL '10 minutes') GROUP BY window_start",
        60,
    ),
    (
        "sessions",
        "SELECT k, window_start, window_end, v FROM SESSION(a PARTITION BY k, ts, INTERVAL '3 minutes', INTERVAL '1 hour')",
        3 * HOUR,
    ),
    (
        "sessions_counted",
        "SELECT k, window_start, window_end, count(*) AS n FROM SESSION(a PARTITION BY k, ts, INTERVAL '3 minutes') GROUP BY k, window_start, window_end",
        20,
    ),
    ("distinct_rows", "SELECT DISTINCT window_start, v FROM TUMBLE(a, ts, INTERVAL '10 minutes')", 60),
    (
        "top",
        "SELECT window_start, k, v FROM (SELECT window_start, k, v, row_number() OVER (PARTITION BY window_start ORDER BY v DESC) AS n FROM TUMBLE(a, ts, INTERVAL '10 minutes')) AS s WHERE n <= 3",
        20,
    ),
    (
        "top_closed",
        "SELECT window_start, k, v FROM (SELECT window_start, k, v, row_number() OVER (PARTITION BY window_start ORDER BY v DESC) AS n FROM TUMBLE(a, ts, INTERVAL '10 minutes')) AS s WHERE n <= 3 EMIT ON WINDOW CLOSE",
        30,
    ),
    (
        "over",
        "SELECT window_start, v, sum(v) OVER (PARTITION BY window_start ORDER BY ts, v) AS s FROM TUMBLE(a, ts, INTERVAL '10 minutes')",
        60,
    ),
    (
        "pairs",
        "SELECT a.v, b.v AS w FROM a JOIN b ON a.k = b.k AND b.ts BETWEEN a.ts - INTERVAL '5 minutes' AND a.ts + INTERVAL '10 minutes'",
        HOUR,
    ),
    (
        "lefts",
        "SELECT a.v, b.v AS w FROM a LEFT JOIN b ON a.k = b.k AND b.ts - a.ts BETWEEN INTERVAL '0 seconds' AND INTERVAL '10 minutes'",
        HOUR,
    ),
    (
        "fulls",
        "SELECT a.v, b.v AS w FROM a FULL JOIN b ON a.v = b.v AND b.ts > a.ts AND b.ts < a.ts + INTERVAL '10 minutes' EMIT ON WINDOW CLOSE",
        HOUR,
    ),
    (
        "alone",
        "SELECT a.v, a.ts FROM a WHERE NOT EXISTS (SELECT 1 FROM b WHERE a.k = b.k AND b.ts BETWEEN a.ts - INTERVAL '1 minute' AND a.ts)",
        HOUR,
    ),
    (
        "windows_joined",
        "SELECT x.window_start, x.v, y.v AS w FROM TUMBLE(a, ts, INTERVAL '10 minutes') AS x JOIN TUMBLE(b, ts, INTERVAL '10 minutes') AS y ON x.k = y.k AND x.window_start = y.window_start",
        HOUR,
    ),
    (
        "counts_joined",
        "SELECT x.window_start, x.n, y.n AS m FROM (SELECT window_start, count(*) AS n FROM TUMBLE(a, ts, INTERVAL '10 minutes') GROUP BY window_start) AS x FULL JOIN (SELECT window_start, count(*) AS n FROM TUMBLE(b, ts, INTERVAL '10 minutes') GROUP BY window_start) AS y ON x.window_start = y.window_start",
        20,
    ),
    (
        "union_counted",
        "SELECT window_start, count(*) AS n FROM TUMBLE((SELECT * FROM a UNION ALL SELECT * FROM b), ts, INTERVAL '10 minutes') GROUP BY window_start",
        20,
    ),
    ("versions", "SELECT a.v, b.v AS w FROM a ASOF LEFT JOIN b ON a.k = b.k AND a.ts >= b.ts", HOUR),
    ("next_versions", "SELECT a.v, b.v AS w FROM a ASOF LEFT JOIN b ON a.k = b.k AND a.ts <= b.ts", HOUR),
    ("next_found", "SELECT a.v, b.v AS w FROM a ASOF JOIN b ON a.k = b.k AND a.ts < b.ts", HOUR),
    ("since_last", "SELECT k, v, ts, lag(ts) OVER (PARTITION BY k ORDER BY ts) AS last FROM a", HOUR),
    (
        "versions_closed",
        "SELECT a.v, a.ts, b.v AS w FROM a LEFT JOIN b FOR SYSTEM_TIME AS OF a.ts ON a.k = b.k EMIT ON WINDOW CLOSE",
        HOUR,
    ),
];

#[tokio::test]
async fn a_day_leaves_no_more_than_its_horizon() {
    let instance = start().await;
    for (name, shift) in [("a", 0), ("b", 17)] {
        let dir = instance.dir.path().join(name);
        let source = format!(
            "CREATE SOURCE {name} (k INT, v INT, ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '1 minute') WITH \
             (connector = 'file', path = '{}', poll_interval = '50ms', header = 'false') FORMAT PLAIN ENCODE CSV",
            dir.display()
        );
        std::fs::create_dir_all(&dir).unwrap();
        write_piece(&dir, 0, shift);
        instance.run(&source).await;
    }
    for (name, query, _) in VIEWS {
        instance.run(&format!("CREATE MATERIALIZED VIEW {name} AS {query}")).await;
    }
    for piece in 1..4 {
        for (name, shift) in [("a", 0), ("b", 17)] {
            write_piece(&instance.dir.path().join(name), piece, shift);
        }
    }
    let all = ROWS.to_string();
    instance.wait_for("SELECT rows FROM tidemark.sources ORDER BY name", &[all.as_str(), all.as_str()]).await;
    for (name, _, most) in VIEWS {
        let (rows_in, entries) = counted(&instance, name).await;
        assert!(rows_in >= ROWS as u64, "{name} has seen {rows_in} rows");
        assert!(entries > 0 && entries <= most, "{name} keeps {entries} entries, of {most} at most");
        assert_eq!(instance.lines("SELECT late_rows FROM tidemark.sources ORDER BY name").await, ["0", "0"]);
    }
}

/// A quarter of the day.
fn write_piece(dir: &Path, piece: usize, shift: usize) {
    let mut text = String::new();
    for row in piece * ROWS / 4..(piece + 1) * ROWS / 4 {
        let second = row * 30 + (row * 7 + shift) % 40;
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        let (day, hour) = (1 + hour / 24, hour % 24);
        writeln!(text, "{},{},2024-01-{day:02} {hour:02}:{minute:02}:{second:02}", row % 4, (row * 31 + shift) % 97)
            .unwrap();
    }
    std::fs::write(dir.join("_partial"), text).unwrap();
    std::fs::rename(dir.join("_partial"), dir.join(format!("{piece}.csv"))).unwrap();
}

/// Rows that came in, and the state entries of all operators, as EXPLAIN ANALYZE tells them.
async fn counted(instance: &Instance, view: &str) -> (u64, u64) {
    let lines = instance.lines(&format!("EXPLAIN ANALYZE MATERIALIZED VIEW {view}")).await;
    let table = lines.iter().skip_while(|line| !line.starts_with("node")).skip(1);
    let (mut rows_in, mut entries) = (0, 0);
    for line in table {
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [_, node_in, _, node_entries, ..] = numbers.as_slice() else { continue };
        rows_in = rows_in.max(*node_in);
        entries += node_entries;
    }
    (rows_in, entries)
}
