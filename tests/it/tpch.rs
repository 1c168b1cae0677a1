//! TPC-H: all 22 queries as live views, over orders that come in pieces and go again in others.
//!
//! ```text
//!   piece:  COPY orders and their lineitems (RF1) ─▶ DELETE some older ones (RF2) ─▶ UPDATE what they refer to
//!   check:  VALIDATE each view after pieces; kill -9 in the middle; at the end also view and query side by side
//! ```
//!
//! The queries have the parameters with which the specification validates its answers; q11's fraction is that of the scale.

use std::fmt::Display;
use std::pin::pin;

use bytes::Bytes;
use futures::SinkExt;
use tpchgen::generators::{
    CustomerGenerator, LineItemGenerator, NationGenerator, OrderGenerator, PartGenerator, PartSuppGenerator,
    RegionGenerator, SupplierGenerator,
};

use crate::harness::{Instance, repository, start};

const SCALE: f64 = 0.01;
/// In each come 1/PIECES of the orders, with their lineitems.
const PIECES: usize = 6;
/// After which of them each view is compared with its query.
const CHECKED: [usize; 2] = [2, 4];
const QUERIES: usize = 22;

fn file(name: &str) -> String {
    let path = repository().join("tests/it/tpch").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn query(number: usize) -> String {
    file(&format!("q{number:02}.sql"))
}

/// Lines as COPY reads them: dbgen ends each with one delimiter too many.
fn lines<T: Display>(rows: impl Iterator<Item = T>) -> String {
    rows.map(|row| format!("{}\n", row.to_string().trim_end_matches('|'))).collect()
}

async fn copy(client: &tokio_postgres::Client, table: &str, data: String) {
    let sql = format!("COPY {table} FROM STDIN WITH (DELIMITER '|')");
    let mut sink = pin!(client.copy_in::<_, Bytes>(&sql).await.unwrap());
    sink.send(Bytes::from(data)).await.unwrap();
    sink.finish().await.unwrap();
}

/// The part-th of `parts` of what there is to know about customers, parts and suppliers.
async fn load_base(client: &tokio_postgres::Client, part: i32, parts: i32) {
    copy(client, "supplier", lines(SupplierGenerator::new(SCALE, part, parts).iter())).await;
    copy(client, "customer", lines(CustomerGenerator::new(SCALE, part, parts).iter())).await;
    copy(client, "part", lines(PartGenerator::new(SCALE, part, parts).iter())).await;
    copy(client, "partsupp", lines(PartSuppGenerator::new(SCALE, part, parts).iter())).await;
}

async fn create_views(instance: &Instance, numbers: impl Iterator<Item = usize>) {
    for number in numbers {
        instance.run(&format!("CREATE MATERIALIZED VIEW q{number} AS\n{}", query(number))).await;
    }
}

async fn validate_all(instance: &Instance, when: &str) {
    for number in 1..=QUERIES {
        let differing = instance.lines(&format!("VALIDATE MATERIALIZED VIEW q{number}")).await;
        assert!(differing.is_empty(), "{when}: q{number} is not its query: {differing:#?}");
    }
}

/// New orders, in one transaction as RF1 has it.
async fn refresh_insert(client: &tokio_postgres::Client, orders: String, lineitems: String) {
    client.batch_execute("BEGIN").await.unwrap();
    copy(client, "orders", orders).await;
    copy(client, "lineitem", lineitems).await;
    client.batch_execute("COMMIT").await.unwrap();
}

/// Old orders go, some whole, some in part, as RF2 has it; others change, as do the things that they refer to.
async fn refresh_delete(instance: &Instance, piece: usize) {
    let old = |column: &str| format!("({column} / 32) % {} = {piece} AND {column} % 3 = 0", PIECES + 1);
    instance
        .run(&format!(
            "BEGIN; DELETE FROM lineitem WHERE {}; DELETE FROM orders WHERE {}; COMMIT",
            old("l_orderkey"),
            old("o_orderkey")
        ))
        .await;
    let changes = [
        format!(
            "UPDATE lineitem SET l_quantity = l_quantity + 1, l_receiptdate = l_receiptdate + 9 WHERE l_orderkey % 50 = {piece}"
        ),
        format!(
            "UPDATE orders SET o_custkey = o_custkey + 1, o_orderdate = o_orderdate - 40 WHERE o_orderkey % 60 = {piece}"
        ),
        format!(
            "UPDATE customer SET c_acctbal = c_acctbal - 700, c_nationkey = (c_nationkey + 1) % 25 WHERE c_custkey % 10 = {piece}"
        ),
        format!("UPDATE part SET p_size = p_size % 50 + 1, p_brand = 'Brand#23' WHERE p_partkey % 25 = {piece}"),
        format!(
            "UPDATE partsupp SET ps_supplycost = ps_supplycost * 1.1, ps_availqty = ps_availqty - 5 WHERE ps_partkey % 20 = {piece}"
        ),
        format!("UPDATE supplier SET s_nationkey = (s_nationkey + 3) % 25 WHERE s_suppkey % 30 = {piece}"),
        format!("DELETE FROM lineitem WHERE l_orderkey % 70 = {piece} AND l_linenumber = 1"),
    ];
    for change in changes {
        instance.run(&change).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_queries_stay_right() {
    let mut instance = start().await;
    instance.run(&file("schema.sql")).await;
    create_views(&instance, (1..=QUERIES).filter(|n| n % 2 == 0)).await;
    let mut client = instance.client().await;
    copy(&client, "region", lines(RegionGenerator::new(SCALE, 1, 1).iter())).await;
    copy(&client, "nation", lines(NationGenerator::new(SCALE, 1, 1).iter())).await;
    load_base(&client, 1, 2).await;
    for piece in 1..=PIECES {
        let (part, parts) = (piece as i32, PIECES as i32);
        let orders = lines(OrderGenerator::new(SCALE, part, parts).iter());
        let lineitems = lines(LineItemGenerator::new(SCALE, part, parts).iter());
        refresh_insert(&client, orders, lineitems).await;
        refresh_delete(&instance, piece).await;
        match piece {
            1 => create_views(&instance, (1..=QUERIES).filter(|n| n % 2 == 1)).await,
            2 => load_base(&client, 2, 2).await,
            3 => {
                instance.server.kill_and_restart().await.unwrap();
                client = instance.client().await;
            }
            _ => {}
        }
        if CHECKED.contains(&piece) {
            validate_all(&instance, &format!("piece {piece}")).await;
        }
    }
    validate_all(&instance, "all pieces").await;
    // VALIDATE could be wrong too: this is what a client gets from either.
    let mut empty = Vec::new();
    for number in 1..=QUERIES {
        let mut view = instance.lines(&format!("SELECT * FROM q{number}")).await;
        let mut batch = instance.lines(&query(number)).await;
        view.sort();
        batch.sort();
        assert_eq!(view, batch, "q{number}");
        if view.is_empty() || view == ["NULL"] {
            empty.push(number);
        }
    }
    assert!(empty.is_empty(), "nothing to compare: {empty:?}");
}
