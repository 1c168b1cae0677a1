//! VALIDATE MATERIALIZED VIEW finds what is wrong in a view: contents that were changed behind the server's back.

use tidemark_sqllogictest::Server;
use tidemark_storage::{Key, StateId, Store, StoreOptions};

use crate::harness::{Instance, start};

#[tokio::test]
async fn rows_that_were_taken_from_a_view_are_found() {
    let mut instance = start().await;
    instance.run("CREATE TABLE t (k INT PRIMARY KEY, v INT)").await;
    instance.run("INSERT INTO t SELECT i, i * 10 FROM generate_series(1, 5) AS g (i)").await;
    instance.run("CREATE MATERIALIZED VIEW v AS SELECT k, v + 1 AS w FROM t").await;
    assert!(instance.lines("VALIDATE MATERIALIZED VIEW v").await.is_empty());
    let oid = instance.value("SELECT 'v'::regclass::oid").await.parse().unwrap();

    assert!(instance.server.terminate().unwrap().success());
    let data = instance.dir.path().join("data");
    forget_first_row(&data, oid);
    let server = Server::start(&data).await.unwrap();
    let instance = Instance { server, dir: instance.dir };

    assert_eq!(instance.lines("SELECT * FROM v ORDER BY k").await, ["2 21", "3 31", "4 41", "5 51"]);
    assert_eq!(instance.lines("VALIDATE MATERIALIZED VIEW v").await, ["1 11 1 0"]);
    // Taking back what is not there stops this view, and says so; nothing else is touched.
    instance.run("DELETE FROM t WHERE k = 1").await;
    let (code, message) = instance.error("SELECT * FROM v").await;
    assert_eq!(code, "55000", "{message}");
    assert_eq!(instance.value("SELECT count(*) FROM t").await, "4");
}

/// Deletes one row of a view in a data directory that no server has open.
fn forget_first_row(data: &std::path::Path, oid: u32) {
    let store = Store::open(data, &StoreOptions::default()).unwrap();
    let rows = Key::rows(StateId::new(oid, 0));
    let (first, _) = store.snapshot().first(&rows.start, &rows.end).unwrap().expect("the view has rows");
    let mut commit = store.begin();
    commit.delete(&Key::decode(&first).unwrap());
    store.commit(commit, store.epoch() + 1, true).unwrap();
    store.close().unwrap();
}
