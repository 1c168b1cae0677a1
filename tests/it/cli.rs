//! The command line, the settings, starting and stopping, the HTTP port.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::harness::{Server, binary, start, start_with, text};

/// The binary, away from any settings file and environment of the developer's.
fn tidemark(dir: &Path, args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(binary());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TIDEMARK_") {
            command.env_remove(name);
        }
    }
    command.args(args).envs(env.iter().copied()).current_dir(dir).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn help_names_commands_and_settings() {
    let dir = tempfile::tempdir().unwrap();
    let output = tidemark(dir.path(), &["--help"], &[]);
    assert!(output.status.success());
    let help = text(&output.stdout);
    for word in
        ["serve", "run", "config", "--data-dir", "--listen", "127.0.0.1:8433", "--http", "psql -h 127.0.0.1 -p 8433"]
    {
        assert!(help.contains(word), "{word} is missing in\n{help}");
    }
    assert!(!tidemark(dir.path(), &["--no-such-flag"], &[]).status.success());
    assert!(text(&tidemark(dir.path(), &["--version"], &[]).stdout).starts_with("tidemark "));
}

#[test]
fn settings_come_from_flag_then_environment_then_file() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tidemark.toml"), "workers = 2\nmax_connections = 20\nsync = false\n").unwrap();
    let output = tidemark(
        dir.path(),
        &["config", "--workers", "4"],
        &[("TIDEMARK_MAX_CONNECTIONS", "30"), ("TIDEMARK_PASSWORD", "sesame")],
    );
    let listing = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let line = |name: &str| {
        let line = listing.lines().find(|l| l.starts_with(name)).unwrap_or_else(|| panic!("{name} in\n{listing}"));
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(line("workers"), "workers 4 flag --workers");
    assert_eq!(line("max_connections"), "max_connections 30 environment TIDEMARK_MAX_CONNECTIONS");
    assert_eq!(line("sync"), "sync off file tidemark.toml");
    assert_eq!(line("listen"), "listen 127.0.0.1:8433 default");
    assert_eq!(line("password"), "password *** environment TIDEMARK_PASSWORD");
    assert!(!listing.contains("sesame"));
}

#[test]
fn an_unknown_key_in_the_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tidemark.toml"), "data_dri = 'x'\n").unwrap();
    let output = tidemark(dir.path(), &["serve"], &[]);
    assert!(!output.status.success());
    let error = text(&output.stderr);
    assert!(error.contains("data_dri") && error.contains("data_dir"), "{error}");
}

#[test]
fn an_open_address_needs_a_password() {
    let dir = tempfile::tempdir().unwrap();
    let output = tidemark(dir.path(), &["serve", "--listen", "0.0.0.0:0", "--http", "off"], &[]);
    assert!(!output.status.success());
    let error = text(&output.stderr);
    assert!(error.contains("0.0.0.0:0") && error.contains("password"), "{error}");
    assert!(!dir.path().join("tidemark-data").exists(), "nothing may be touched");
}

#[tokio::test]
async fn a_password_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(&dir.path().join("data"), &[], &[("TIDEMARK_PASSWORD", "sesame")]).await.unwrap();
    assert!(server.connect().await.err().expect("let in without a password").0.contains("password"));
    let connect = |password: &str| {
        let url = format!("{} password={password}", server.url());
        async move { tokio_postgres::connect(&url, tokio_postgres::NoTls).await }
    };
    let error = connect("wrong").await.err().expect("let in with a wrong password");
    assert_eq!(error.as_db_error().map(|e| e.code().code()), Some("28P01"), "{error:?}");
    assert!(connect("sesame").await.is_ok());
}

#[tokio::test]
async fn a_second_server_on_the_directory_is_refused() {
    let first = start().await;
    first.run("CREATE TABLE t (a INT)").await;
    let second = Server::start(first.server.dir()).await;
    let failure = second.err().expect("two servers on one directory").0;
    assert!(failure.contains("ended at once"), "{failure}");
    assert!(failure.contains("another") || failure.contains("in use") || failure.contains("lock"), "{failure}");
    first.run("INSERT INTO t VALUES (1)").await;
}

#[tokio::test]
async fn sigterm_stops_it_and_everything_is_there_afterwards() {
    let mut instance = start().await;
    instance.run("CREATE TABLE t (a INT); INSERT INTO t VALUES (1), (2)").await;
    instance.run("CREATE MATERIALIZED VIEW v AS SELECT sum(a) AS s FROM t").await;
    assert!(instance.server.terminate().unwrap().success());
    instance.server = Server::start(instance.server.dir()).await.unwrap();
    assert_eq!(instance.value("SELECT s FROM v").await, "3");
    assert_eq!(instance.value("SELECT count(*) FROM t").await, "2");
}

#[tokio::test]
async fn the_http_port_tells_how_it_is() {
    let instance = start().await;
    assert_eq!(instance.http("/healthz").await.0, 200);
    assert_eq!(instance.http("/readyz").await.0, 200);
    let (status, metrics) = instance.http("/metrics").await;
    assert_eq!(status, 200);
    assert!(metrics.lines().any(|l| l.starts_with("# TYPE tidemark_")), "{metrics}");
    // What is not a comment is `name{labels} number`.
    for line in metrics.lines().filter(|l| !l.starts_with('#')) {
        let value = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}")).1;
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
    assert!(instance.http("/").await.1.contains("Tidemark"));
}

#[tokio::test]
async fn connections_beyond_the_limit_are_refused() {
    let instance = start_with(&["--max-connections", "2"]).await;
    let mut open = Vec::new();
    while open.len() < 2 {
        // The session by which the start was noticed may not have ended yet.
        match instance.server.connect().await {
            Ok(client) => open.push(client),
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
        }
    }
    let error = tokio_postgres::connect(&instance.server.url(), tokio_postgres::NoTls).await.err().expect("refused");
    assert_eq!(error.as_db_error().map(|e| e.code().code()), Some("53300"), "{error:?}");
}

fn run_script(script: &str, args: &[&str]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("script.sql");
    std::fs::write(&file, script).unwrap();
    let mut all = vec!["run", file.to_str().unwrap()];
    all.extend(args);
    tidemark(dir.path(), &all, &[])
}

#[test]
fn run_executes_a_script_and_exits() {
    let output =
        run_script("CREATE TABLE t (a INT);\nINSERT INTO t VALUES (41), (1);\nSELECT sum(a) AS total FROM t;\n", &[]);
    let out = text(&output.stdout);
    assert!(output.status.success(), "{out}{}", text(&output.stderr));
    assert!(out.contains("total") && out.contains("42"), "{out}");
}

#[test]
fn run_stops_at_the_first_error() {
    let output = run_script("SELECT 1;\nSELECT nothing;\nSELECT 'not reached';\n", &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("nothing"), "{}", text(&output.stderr));
    assert!(!text(&output.stdout).contains("not reached"));
}

#[test]
fn run_keeps_a_named_directory() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("kept").display().to_string();
    assert!(run_script("CREATE TABLE t (a INT); INSERT INTO t VALUES (7);", &["--data-dir", &data]).status.success());
    let output = run_script("SELECT a FROM t;", &["--data-dir", &data]);
    assert!(text(&output.stdout).contains('7'), "{}{}", text(&output.stdout), text(&output.stderr));
}

#[test]
fn run_reads_standard_input() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(binary())
        .args(["run", "-"])
        .current_dir(dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"SELECT 40 + 2 AS answer;").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && text(&output.stdout).contains("42"));
    assert!(!dir.path().join("tidemark-data").exists(), "a temporary instance leaves nothing");
}

#[test]
fn a_missing_script_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let output = tidemark(dir.path(), &["run", "nowhere.sql"], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("nowhere.sql"));
}
