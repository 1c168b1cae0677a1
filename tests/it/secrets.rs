//! Secrets: nowhere to be seen, there after a restart, and read when they are used.

use std::path::Path;

use crate::harness::{Instance, start, start_with, text};

const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const OTHER_KEY: &str = "ff112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const VALUE: &str = "xyzzy-open-sesame-4711";
const ROTATED: &str = "plugh-open-sesame-4712";

async fn error_with_hint(instance: &Instance, sql: &str) -> (String, String) {
    let error = instance.client().await.simple_query(sql).await.err().unwrap_or_else(|| panic!("succeeded: {sql}"));
    let error = error.as_db_error().unwrap();
    (error.message().to_string(), error.hint().unwrap_or_default().to_string())
}

/// Files below `dir` that contain one of the values.
fn files_with(dir: &Path, values: &[&str]) -> Vec<String> {
    let (mut found, mut dirs) = (Vec::new(), vec![dir.to_path_buf()]);
    let mut files = 0;
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
                continue;
            }
            files += 1;
            let bytes = std::fs::read(&path).unwrap();
            let has = |value: &&str| bytes.windows(value.len()).any(|w| w == value.as_bytes());
            found.extend(values.iter().filter(|v| has(v)).map(|v| format!("{v} in {}", path.display())));
        }
    }
    assert!(files > 3, "{files} files in the data directory");
    found
}

#[tokio::test]
async fn a_value_is_nowhere_to_be_seen() {
    let mut instance = start_with(&["--secret-key", KEY, "--log", "trace"]).await;
    let mut seen: Vec<String> = Vec::new();
    let client = instance.client().await;
    client.batch_execute(&format!("CREATE SECRET pw AS '{ROTATED}'")).await.unwrap();
    client.batch_execute(&format!("CREATE SECRET IF NOT EXISTS pw AS '{VALUE}'")).await.unwrap();
    client.batch_execute(&format!("BEGIN; ALTER SECRET pw AS '{VALUE}'; COMMIT; SELECT 1")).await.unwrap();
    client.batch_execute("COMMENT ON SECRET pw IS 'of the warehouse'").await.unwrap();
    let _prepared = client.prepare(&format!("CREATE SECRET later AS '{VALUE}'")).await.unwrap();
    // Nothing listens on port 1.
    let options = "type = 'postgres', host = '127.0.0.1', port = 1, user = 'u', password = SECRET pw";
    client.batch_execute(&format!("CREATE CONNECTION c WITH ({options})")).await.unwrap();
    for wrong in [
        format!("CREATE SECRET pw AS '{VALUE}'"),
        format!("CREATE SECRET '{VALUE}'"),
        format!("CREATE SECRET pw2 '{VALUE}'"),
        format!("ALTER SECRET nope AS '{VALUE}'"),
        format!("EXPLAIN CREATE SECRET pw2 AS '{VALUE}'"),
        "SELECT * FROM c.public.t".to_string(),
        "CREATE CONNECTION d WITH (type = 'postgres', user = 'u', port = SECRET pw)".to_string(),
        "CREATE CONNECTION d WITH (type = SECRET pw, user = 'u')".to_string(),
        "CREATE SOURCE s (a INT) WITH (connector = 'datagen', rows_per_second = SECRET pw)".to_string(),
        "CREATE SOURCE s (a INT) WITH (connector = 'file', path = SECRET pw)".to_string(),
        "CREATE SINK s AS SELECT 1 AS a WITH (connector = SECRET pw)".to_string(),
    ] {
        let error = client.simple_query(&wrong).await.err().unwrap_or_else(|| panic!("succeeded: {wrong}"));
        seen.push(format!("{error:?}"));
    }
    for shown in [
        "SHOW SECRETS",
        "SHOW CREATE SECRET pw",
        "SHOW CONNECTIONS",
        "SHOW CREATE CONNECTION c",
        "CHECK CONNECTION c",
        "SHOW ALL",
        "SHOW secret_key",
    ] {
        seen.push(format!("{:?}", client.simple_query(shown).await.unwrap()));
    }
    let relations = instance
        .lines(
            "SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE n.nspname IN ('pg_catalog', 'information_schema', 'tidemark') AND c.relkind IN ('r', 'v')",
        )
        .await;
    assert!(relations.len() > 100, "{relations:?}");
    for relation in relations {
        seen.push(format!("{relation}: {:?}", instance.lines(&format!("SELECT * FROM {relation}")).await));
    }
    seen.push(instance.http("/metrics").await.1);
    // Beside the value, what is to be seen is.
    assert!(seen.iter().any(|text| text.contains("CREATE SECRET pw AS '***'")));
    for value in [VALUE, ROTATED, KEY] {
        let places: Vec<&String> = seen.iter().filter(|text| text.contains(value)).collect();
        assert!(places.is_empty(), "{places:#?}");
    }
    instance.server.terminate().unwrap();
    let log = instance.server.log().unwrap();
    assert!(log.contains("TRACE") && log.contains("CREATE SECRET"), "statements that fail are logged");
    for value in [VALUE, ROTATED, KEY] {
        assert!(!log.contains(value), "the log contains {value}");
    }
    assert_eq!(files_with(&instance.dir.path().join("data"), &[VALUE, ROTATED, KEY]), Vec::<String>::new());
}

#[tokio::test]
async fn without_a_key_nothing_is_kept_in_clear() {
    let instance = start().await;
    let (message, hint) = error_with_hint(&instance, "CREATE SECRET pw AS 'x'").await;
    assert!(message.contains("secret \"pw\" cannot be kept") && message.contains("secret_key"), "{message}");
    assert!(hint.contains("openssl rand -hex 32") && hint.contains("TIDEMARK_SECRET_KEY"), "{hint}");
    instance.run("CREATE SECRET pw FROM ENV 'PW'").await;
}

#[tokio::test]
async fn another_key_says_so_and_loses_nothing() {
    let mut instance = start_with(&["--secret-key", KEY]).await;
    instance.run(&format!("CREATE SECRET pw AS '{VALUE}'")).await;
    // A sink that needs it when the server starts.
    let out = instance.dir.path().join("out");
    instance.run("CREATE TABLE t (a INT)").await;
    instance
        .run(&format!(
            "CREATE SINK s FROM t WITH (connector = 'file', path = '{}', s3.access_key_id = SECRET pw, changelog = true)
             FORMAT PLAIN ENCODE JSON",
            out.display()
        ))
        .await;
    instance
        .run("CREATE CONNECTION c WITH (type = 'postgres', host = '127.0.0.1', port = 1, user = 'u', password = SECRET pw)")
        .await;
    let failed_step = "CHECK CONNECTION c";
    assert!(instance.lines(failed_step).await.last().unwrap().starts_with("connect f"), "the value can be read");

    let file = instance.dir.path().join("key");
    std::fs::write(&file, format!("{OTHER_KEY}\n")).unwrap();
    instance.server.restart_with(&["--secret-key-file", file.to_str().unwrap()]).await.unwrap();
    let lines = instance.lines(failed_step).await;
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("options f") && lines[0].contains("secret \"pw\" cannot be decrypted"), "{lines:?}");
    let (message, _) = error_with_hint(&instance, "SELECT * FROM c.public.t").await;
    assert!(message.contains("secret \"pw\" cannot be decrypted: secret_key is not the key"), "{message}");
    instance.run("INSERT INTO t VALUES (1)").await;
    let told = "SELECT error LIKE '%secret \"pw\" cannot be decrypted%' FROM tidemark.sinks";
    instance.wait_for(told, &["t"]).await;
    instance.server.restart_with(&[]).await.unwrap();
    let (message, _) = error_with_hint(&instance, "SELECT * FROM c.public.t").await;
    assert!(message.contains("started without secret_key"), "{message}");

    instance.server.restart_with(&["--secret-key", KEY]).await.unwrap();
    assert!(instance.lines(failed_step).await.last().unwrap().starts_with("connect f"));
    instance.wait_for("SELECT rows FROM tidemark.sinks", &["1"]).await;
}

#[tokio::test]
async fn a_file_is_read_when_it_is_used() {
    let instance = start().await;
    let file = instance.dir.path().join("pw");
    instance.run(&format!("CREATE SECRET pw FROM FILE '{}'", file.display())).await;
    instance
        .run("CREATE CONNECTION c WITH (type = 'postgres', host = '127.0.0.1', port = 1, user = 'u', password = SECRET pw)")
        .await;
    let check = || async { instance.lines("CHECK CONNECTION c").await };
    let missing = check().await;
    assert!(
        missing.len() == 1 && missing[0].contains("cannot be read from") && missing[0].contains("\"pw\""),
        "{missing:?}"
    );
    std::fs::write(&file, "hush\n").unwrap();
    assert!(check().await.last().unwrap().starts_with("connect f"));
    std::fs::write(&file, "x".repeat(100_000)).unwrap();
    assert!(check().await[0].contains("longer than 64 kB"));
    std::fs::write(&file, "\n").unwrap();
    assert!(check().await[0].contains("is empty"));
}

#[tokio::test]
async fn a_key_is_checked_when_the_server_starts() {
    let refused = |args: &[&str]| {
        let output = std::process::Command::new(crate::harness::binary()).args(["config"]).args(args).output().unwrap();
        assert!(!output.status.success(), "{args:?}");
        text(&output.stderr)
    };
    let said = refused(&["--secret-key", "hunter2"]);
    assert!(said.contains("secret_key must be 64 hexadecimal digits") && !said.contains("hunter2"), "{said}");
    assert!(refused(&["--secret-key-file", "/nowhere"]).contains("cannot read /nowhere"));
    assert!(refused(&["--secret-key", KEY, "--secret-key-file", "/x"]).contains("both set"));
    let output =
        std::process::Command::new(crate::harness::binary()).args(["config", "--secret-key", KEY]).output().unwrap();
    assert!(output.status.success() && !text(&output.stdout).contains(KEY));
}
