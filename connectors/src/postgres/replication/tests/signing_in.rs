//! The replication connection proves who it is as the other connections do.

use tidemark_common::Hidden;
use tidemark_common::types::SqlType;

use super::mirror::Mirror;
use super::server::{Database, Server};
use crate::testing::refused;
use crate::{Source, SourceSpec, open_source};

async fn check(database: &Database, user: &str, password: Option<&str>) -> tidemark_common::Result<()> {
    let secrets = password.map(|password| ("password".to_string(), Hidden::new(password)));
    let spec = database.spec("t", &[("id", SqlType::BigInt)], 1, &[("username", user), ("publication.name", "p")]);
    open_source(SourceSpec { secrets: secrets.into_iter().collect(), ..spec }).unwrap().check().await
}

#[tokio::test]
async fn by_password() {
    let server = Server::start("wal_level = logical");
    let database = Database { port: server.port, name: "postgres".into() };
    database
        .run(
            "CREATE TABLE t (id bigint PRIMARY KEY); CREATE PUBLICATION p FOR TABLE t;
             SET password_encryption = 'md5'; CREATE ROLE by_md5 LOGIN REPLICATION PASSWORD 'right';
             SET password_encryption = 'scram-sha-256'; CREATE ROLE by_scram LOGIN REPLICATION PASSWORD 'right';
             CREATE ROLE by_text LOGIN REPLICATION PASSWORD 'right'; CREATE ROLE plain LOGIN PASSWORD 'right';
             GRANT SELECT ON t TO by_md5, by_scram, by_text, plain",
        )
        .await;
    let hba = database.value("SELECT current_setting('hba_file')").await;
    let rules = std::fs::read_to_string(&hba).unwrap();
    let of = |user: &str, method: &str| format!("host all {user} 127.0.0.1/32 {method}\n");
    let methods =
        [("by_md5", "md5"), ("by_scram", "scram-sha-256"), ("by_text", "password"), ("plain", "scram-sha-256")];
    let lines: String = methods.iter().map(|(user, method)| of(user, method)).collect();
    std::fs::write(&hba, lines + &rules).unwrap();
    database.run("SELECT pg_reload_conf()").await;
    for user in ["by_md5", "by_scram", "by_text"] {
        check(&database, user, Some("right")).await.unwrap_or_else(|e| panic!("{user}: {e:?}"));
        assert_eq!(refused(check(&database, user, Some("wrong")).await).0, "28P01", "{user}");
    }
    let (code, message, hint) = refused(check(&database, "plain", Some("right")).await);
    assert_eq!(code, "42501", "{message}");
    assert!(message.contains("/postgres\"") && hint.contains("ALTER ROLE \"plain\" REPLICATION"), "{message} {hint}");
}

#[tokio::test]
async fn by_tls() {
    let server = Server::start("wal_level = logical");
    let database = Database { port: server.port, name: "postgres".into() };
    database.run("CREATE TABLE t (id bigint PRIMARY KEY); INSERT INTO t VALUES (1)").await;
    let data = database.value("SELECT current_setting('data_directory')").await;
    let make = "openssl req -new -x509 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost -keyout \"$1/server.key\" \
                -out \"$1/server.crt\" && chmod 600 \"$1/server.key\" && chown --reference \"$1/PG_VERSION\" \"$1\"/server.*";
    let made = std::process::Command::new("bash").args(["-c", make, "make", &data]).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    database.run("ALTER SYSTEM SET ssl = on").await;
    database.run("SELECT pg_reload_conf()").await;
    let authority = format!("{data}/server.crt");
    let tls = [("hostname", "localhost"), ("ssl.mode", "verify-full"), ("ssl.root.cert", authority.as_str())];
    let source = open_source(database.spec("t", &[("id", SqlType::BigInt)], 1, &tls)).unwrap();
    let mut mirror = Mirror::new(source, 1);
    mirror.step().await.unwrap();
    database.run("INSERT INTO t SELECT g FROM generate_series(2, 20000) g").await;
    mirror.until_equal(&database, "SELECT id FROM t").await;
    let plain = "SELECT count(*) FROM pg_stat_ssl s JOIN pg_stat_replication r USING (pid) WHERE NOT ssl";
    let encrypted = "SELECT count(*) FROM pg_stat_ssl s JOIN pg_stat_replication r USING (pid) WHERE ssl";
    assert_eq!((database.value(plain).await, database.value(encrypted).await), ("0".to_string(), "1".to_string()));
}

#[tokio::test]
async fn the_log_must_say_enough() {
    let server = Server::start("");
    let database = Database { port: server.port, name: "postgres".into() };
    database.run("CREATE TABLE t (id bigint PRIMARY KEY)").await;
    let source: std::sync::Arc<dyn Source> = database.source("t", &[("id", SqlType::BigInt)], 1);
    let (code, message, hint) = refused(source.check().await);
    assert_eq!(code, "55000");
    assert!(message.contains("wal_level") && message.contains("replica"), "{message}");
    assert!(hint.contains("ALTER SYSTEM SET wal_level = logical"), "{hint}");
}
