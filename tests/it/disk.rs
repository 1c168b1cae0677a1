//! A write that fails: the clock stops with a clear error, and what was acknowledged is there after a restart.

use std::os::unix::fs::PermissionsExt;

use crate::harness::{Instance, Server, binary};

/// A script that becomes the server, in a process that cannot make any file larger than this.
fn limited(dir: &std::path::Path, kilobytes: u32) -> std::path::PathBuf {
    let script = dir.join("limited");
    // The signal that comes with the failure would end the process; ignored, the write fails as on a full disk.
    let text = format!("#!/bin/bash\ntrap '' XFSZ\nulimit -f {kilobytes}\nexec '{}' \"$@\"\n", binary().display());
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    script
}

#[tokio::test]
async fn a_failed_write_stops_the_clock_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let program = limited(dir.path(), 16 * 1024);
    let server = Server::start_program(&program, &data, &[], &[]).await.unwrap();
    let mut instance = Instance { server, dir };
    instance.run("CREATE TABLE t (id INT, filler TEXT)").await;
    instance.run("CREATE MATERIALIZED VIEW n AS SELECT count(*) AS n FROM t").await;
    let client = instance.client().await;
    // Text that no compression makes small, a quarter of a megabyte a row.
    let insert =
        "INSERT INTO t SELECT $1::int, string_agg(md5(i::text || $1::text), '') FROM generate_series(1, 8000) AS g (i)";
    let mut acknowledged = 0i64;
    let error = loop {
        match client.execute(insert, &[&(acknowledged as i32)]).await {
            Ok(_) => acknowledged += 1,
            Err(error) => break error,
        }
        assert!(acknowledged < 1000, "250 MB in files of 16 MB: the limit does not work here");
    };
    let code = error.code().unwrap_or_else(|| panic!("{error:?}\n{}", instance.server.log_tail())).code().to_string();
    assert!(code == "53100" || code == "58030", "{code}: {error:?}");
    let (status, reason) = instance.http("/readyz").await;
    assert_eq!(status, 503, "{reason}");
    assert_eq!(instance.http("/healthz").await.0, 200);
    // Writing goes on being refused, clearly; reading what is there works.
    let (code, _) = instance.error("INSERT INTO t VALUES (-1, '')").await;
    assert!(code == "53100" || code == "58030" || code == "57P03", "{code}");
    assert_eq!(instance.value("SELECT n FROM n").await, acknowledged.to_string());

    instance.server.kill9().unwrap();
    instance.server = Server::start(instance.server.dir()).await.unwrap();
    // The one that failed was never acknowledged; it may not be there half.
    let rows: i64 = instance.value("SELECT count(*) FROM t").await.parse().unwrap();
    assert!(rows == acknowledged || rows == acknowledged + 1, "{rows} rows, {acknowledged} acknowledged");
    assert_eq!(instance.value("SELECT n FROM n").await, rows.to_string());
    assert_eq!(
        instance.value(&format!("SELECT count(DISTINCT id) FROM t WHERE id < {acknowledged}")).await,
        acknowledged.to_string()
    );
    instance.run("INSERT INTO t VALUES (-1, 'goes on')").await;
}
