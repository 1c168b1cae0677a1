//! Files in an object store, spoken to over S3: a server that checks signatures, its objects files of a directory.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{Random, repository, start};
use crate::sources::round_trip;

const KEY: &str = "the-key-id";
const SECRET: &str = "a-secret/that+nobody=sees";

/// Gone when dropped.
struct S3 {
    process: Child,
    port: u16,
    root: tempfile::TempDir,
}

impl Drop for S3 {
    fn drop(&mut self) {
        // It may have ended by itself, and a test that has failed has said why.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The server's binary, which `make test` installs beside what cargo builds.
fn binary() -> PathBuf {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("s3s");
    let binary = root.join("bin/s3s-fs");
    assert!(
        binary.exists(),
        "these tests need an S3 server that is not installed: run scripts/s3s.sh {} (once, some minutes)",
        root.display()
    );
    binary
}

async fn serve() -> S3 {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("store/lake")).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let process = Command::new(binary())
        .args(["--host", "127.0.0.1", "--port", &port.to_string(), "--access-key", KEY, "--secret-key", SECRET])
        .arg(root.path().join("store"))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let s3 = S3 { process, port, root };
    let began = Instant::now();
    while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        assert!(began.elapsed() < Duration::from_secs(30), "the S3 server does not listen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    s3
}

impl S3 {
    /// The options that say where.
    fn place(&self, path: &str) -> String {
        place(path, self.port, SECRET)
    }

    fn dir(&self, key: &str) -> PathBuf {
        self.root.path().join("store/lake").join(key)
    }

    /// An object appears whole, as with a PUT.
    fn put(&self, key: &str, bytes: &[u8]) {
        let partial = self.root.path().join("partial");
        std::fs::write(&partial, bytes).unwrap();
        std::fs::create_dir_all(self.dir(key).parent().unwrap()).unwrap();
        std::fs::rename(partial, self.dir(key)).unwrap();
    }
}

fn place(path: &str, port: u16, secret: &str) -> String {
    format!(
        "path = '{path}', s3.endpoint = 'http://127.0.0.1:{port}', s3.region = 'us-east-1', \
         s3.access_key_id = '{KEY}', s3.secret_access_key = '{secret}'"
    )
}

fn gzip(text: &str) -> Vec<u8> {
    use std::io::Write;
    let mut child = Command::new("gzip").arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    child.wait_with_output().unwrap().stdout
}

#[tokio::test]
async fn what_a_sink_writes_a_source_reads() {
    let (s3, instance) = (serve().await, start().await);
    for format in ["JSON", "PARQUET", "CSV"] {
        round_trip(&instance, format, &s3.place(&format!("s3://lake/out/{format}"))).await;
    }
}

/// Objects that are there, and those that come; plain and compressed; columns taken from the data.
#[tokio::test]
async fn new_objects_are_picked_up() {
    let (s3, instance) = (serve().await, start().await);
    s3.put("in/a/1.csv", b"id,name\n1,one\n2,two\n");
    s3.put("in/a/2.csv.gz", &gzip("id,name\n3,three\n"));
    s3.put("in/a/_passed_over.csv", b"id,name\n9,nine\n");
    s3.put("other/1.csv", b"id,name\n8,eight\n");
    for (name, path) in
        [("prefix", "s3://lake/in/a/"), ("no_slash", "s3://lake/in/a"), ("pattern", "s3://lake/in/*/*.csv*")]
    {
        instance
            .run(&format!(
                "CREATE SOURCE {name} (*) INCLUDE file WITH (connector = 'file', {}, poll_interval = '50ms') \
                 FORMAT PLAIN ENCODE CSV",
                s3.place(path)
            ))
            .await;
        instance.run(&format!("CREATE MATERIALIZED VIEW {name}_v AS SELECT id, name FROM {name}")).await;
        instance.wait_for(&format!("SELECT * FROM {name}_v ORDER BY id"), &["1 one", "2 two", "3 three"]).await;
    }
    s3.put("in/a/3.csv.gz", &gzip("id,name\n4,four\n"));
    for name in ["prefix", "no_slash", "pattern"] {
        instance.wait_for(&format!("SELECT count(*), max(name) FROM {name}_v"), &["4 two"]).await;
    }
    s3.put("lines/1.jsonl", b"{\"id\": 1, \"name\": \"one\"}\n");
    instance
        .run(&format!(
            "CREATE SOURCE single (id INT, name TEXT) WITH (connector = 'file', {}, bounded = true)",
            s3.place("s3://lake/lines/1.jsonl")
        ))
        .await;
    instance.wait_for("SELECT * FROM single", &["1 one"]).await;
}

#[tokio::test]
async fn the_example_of_the_docs() {
    let (s3, instance) = (serve().await, start().await);
    s3.put("clicks/1.jsonl.gz", &gzip("{\"user_id\": 7, \"page\": \"/\", \"ts\": \"2024-01-01T00:00:00Z\"}\n"));
    let docs = std::fs::read_to_string(repository().join("docs/connectors.md")).unwrap();
    let example =
        docs.split("```").find(|block| block.contains("s3://lake/clicks/")).unwrap().trim_start_matches("sql");
    let example = example.replace("http://localhost:9000", &format!("http://127.0.0.1:{}", s3.port));
    for (secret, value) in [("lake_id", KEY), ("lake_key", SECRET)] {
        let file = instance.dir.path().join(secret);
        std::fs::write(&file, value).unwrap();
        instance.run(&format!("CREATE SECRET {secret} FROM FILE '{}'", file.display())).await;
    }
    instance.run(&example).await;
    instance.run("CREATE MATERIALIZED VIEW v AS SELECT user_id, page FROM clicks").await;
    instance.wait_for("SELECT * FROM v", &["7 /"]).await;
}

/// Neither lost nor counted twice, from bucket to view to bucket.
#[tokio::test]
async fn exactly_once_over_kill_9() {
    const ROUNDS: i64 = 8;
    const ROWS: i64 = 500;
    let (s3, mut instance) = (serve().await, start().await);
    instance
        .run(&format!(
            "CREATE SOURCE s (id BIGINT) WITH (connector = 'file', {}, poll_interval = '20ms', rows_per_second = 5000) \
             FORMAT PLAIN ENCODE CSV (header = 'false')",
            s3.place("s3://lake/in/")
        ))
        .await;
    instance
        .run("CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n, count(DISTINCT id) AS d, sum(id) AS s FROM s")
        .await;
    instance
        .run(&format!(
            "CREATE SINK k AS SELECT id FROM s WITH (connector = 'file', {}) FORMAT PLAIN ENCODE JSON",
            s3.place("s3://lake/out")
        ))
        .await;
    let mut random = Random::new(11);
    for round in 0..ROUNDS {
        let ids: String = (round * ROWS..(round + 1) * ROWS).map(|id| format!("{id}\n")).collect();
        s3.put(&format!("in/{round:03}.csv"), ids.as_bytes());
        tokio::time::sleep(Duration::from_millis(random.below(250))).await;
        instance.server.kill_and_restart().await.unwrap();
    }
    let all = ROUNDS * ROWS;
    instance.wait_for("SELECT n, d, s FROM v", &[format!("{all} {all} {}", all * (all - 1) / 2).as_str()]).await;
    instance.wait_for("SELECT epochs_behind FROM tidemark.sinks WHERE name = 'k'", &["0"]).await;
    let mut sent: Vec<i64> = Vec::new();
    for file in std::fs::read_dir(s3.dir("out")).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|e| e == "json") {
            let text = std::fs::read_to_string(path).unwrap();
            sent.extend(
                text.lines().map(|l| l.trim_start_matches("{\"id\":").trim_end_matches('}').parse::<i64>().unwrap()),
            );
        }
    }
    sent.sort_unstable();
    assert_eq!(sent, (0..all).collect::<Vec<_>>());
}

/// What cannot be reached is named with its bucket and key, at CREATE, and the secret is not.
#[tokio::test]
async fn errors_name_the_place_and_no_secret() {
    let (s3, instance) = (serve().await, start().await);
    s3.put("in/1.csv", b"1\n");
    let wrong = "another/secret+nobody=sees";
    let cases = [
        (place("s3://lake/in/", s3.port, wrong), "42501", "s3://lake/in/"),
        (place("s3://lake/in/1.csv", s3.port, wrong), "42501", "s3://lake/in/1.csv"),
        (s3.place("s3://nowhere/in/"), "58P01", "s3://nowhere/in/"),
        (s3.place("s3://nowhere/1.csv"), "58P01", "s3://nowhere/1.csv"),
        (place("s3://lake/in/", 1, SECRET), "58030", "s3://lake/in/"),
    ];
    for (place, code, named) in cases {
        let columns = ["(id INT)", "(*)"];
        let sources =
            columns.map(|c| format!("CREATE SOURCE s {c} WITH (connector = 'file', {place}) FORMAT PLAIN ENCODE CSV"));
        let sink =
            format!("CREATE SINK k AS SELECT 1 AS one WITH (connector = 'file', {place}) FORMAT PLAIN ENCODE CSV");
        // This server makes a bucket for whoever writes into one that is not there.
        let sink = (!place.contains("nowhere")).then_some(sink);
        for sql in sources.into_iter().chain(sink) {
            let psql = instance.psql(&["-v", "VERBOSITY=verbose", "-c", &sql]);
            let said = crate::harness::text(&psql.stderr);
            assert!(said.contains(code) && said.contains(named), "{sql}\n{said}");
            assert!(!said.contains("secret/that") && !said.contains("another/secret"), "{said}");
        }
    }
    let log = instance.server.log_tail();
    assert!(!log.contains("secret/that") && !log.contains("another/secret"), "{log}");
    assert_eq!(instance.value("SELECT count(*) FROM tidemark.objects WHERE kind IN ('source', 'sink')").await, "0");
}
