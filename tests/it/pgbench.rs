//! PostgreSQL's own benchmark client runs against us, in each of its protocol modes.

use std::path::PathBuf;
use std::process::Command;

use crate::harness::{start, text};

/// Debian keeps it beside the server's binaries.
fn pgbench() -> PathBuf {
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin/pgbench")))
        .filter(|path| path.is_file())
        .collect();
    found.sort();
    found.pop().unwrap_or_else(|| "pgbench".into())
}

#[tokio::test]
async fn reads_and_writes_in_every_mode() {
    let instance = start().await;
    instance.run("CREATE TABLE points (id INT PRIMARY KEY, n INT NOT NULL)").await;
    instance.run("INSERT INTO points SELECT i, 0 FROM generate_series(1, 1000) AS g (i)").await;
    instance.run("CREATE MATERIALIZED VIEW total AS SELECT sum(n) AS n FROM points").await;
    let script = instance.dir.path().join("script.sql");
    std::fs::write(
        &script,
        "\\set id random(1, 1000)\nSELECT n FROM points WHERE id = :id;\nUPDATE points SET n = n + 1 WHERE id = :id;\n",
    )
    .unwrap();
    let mut expected = 0;
    for mode in ["simple", "extended", "prepared"] {
        let output = Command::new(pgbench())
            .args(["-n", "-M", mode, "-c", "1", "-t", "50", "-f", script.to_str().unwrap()])
            .args(["-h", "127.0.0.1", "-U", "tidemark", "-p", &instance.server.port.to_string(), "tidemark"])
            .output()
            .expect("pgbench is installed (make setup)");
        assert!(output.status.success(), "{mode}: {}{}", text(&output.stderr), instance.server.log_tail());
        expected += 50;
        assert_eq!(instance.value("SELECT n FROM total").await, expected.to_string(), "{mode}");
    }
}
