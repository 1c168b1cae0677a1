//! Rows that rest are kept by column as well: whoever reads all of them finds what is there, changed meanwhile or not.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::harness::{Instance, start_with};

/// By id: (group, cents, text).
type Model = BTreeMap<i32, (i32, i64, Option<String>)>;

#[tokio::test]
async fn what_is_kept_by_column_is_what_is_there() {
    let mut instance = start_with(&["--column-rows", "64"]).await;
    instance
        .run(
            "CREATE TABLE t (id INT PRIMARY KEY, g INT, amount NUMERIC(10,2), v TEXT);
             CREATE MATERIALIZED VIEW by_g AS SELECT g, count(*) AS n, sum(amount) AS amount FROM t GROUP BY g;
             CREATE MATERIALIZED VIEW repeated AS SELECT g % 7 AS g, amount FROM t",
        )
        .await;
    let mut rng = StdRng::seed_from_u64(7);
    let mut model = Model::new();
    for first in (0..3000).step_by(1000) {
        insert(&instance, &mut rng, &mut model, first..first + 1000).await;
    }
    for relation in ["tables WHERE name = 't'", "materialized_views WHERE name IN ('by_g', 'repeated')"] {
        let some = format!("SELECT bool_and(column_rows > rows / 2) FROM tidemark.{relation}");
        instance.wait_for(&some, &["t"]).await;
    }
    check(&instance, &model).await;
    for round in 0..6 {
        change(&instance, &mut rng, &mut model).await;
        check(&instance, &model).await;
        insert(&instance, &mut rng, &mut model, 3000 + round * 50..3050 + round * 50).await;
        check(&instance, &model).await;
        if round == 3 {
            instance.server.kill_and_restart().await.unwrap();
            check(&instance, &model).await;
        }
    }
    // A transaction sees its own changes over them.
    let client = instance.client().await;
    client.batch_execute("BEGIN; UPDATE t SET g = -1 WHERE id < 100; DELETE FROM t WHERE id >= 3000").await.unwrap();
    let own = model.iter().filter(|(id, _)| **id < 3000);
    let moved = own.clone().filter(|(id, _)| **id < 100).count() as i64;
    let row = client.query_one("SELECT count(*), count(*) FILTER (WHERE g = -1) FROM t", &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (own.count() as i64, moved));
    client.batch_execute("ROLLBACK").await.unwrap();
    check(&instance, &model).await;
    // Columns that come later, rows that are no more.
    instance.run("ALTER TABLE t ADD COLUMN late TEXT; UPDATE t SET late = 'x' WHERE id < 10").await;
    let late = model.keys().filter(|id| **id < 10).count();
    assert_eq!(
        instance.value("SELECT count(late), count(*) - count(late) FROM t").await,
        format!("{late} {}", model.len() - late)
    );
    instance.run("TRUNCATE t").await;
    assert_eq!(instance.value("SELECT count(*), sum(id) FROM t").await, "0 NULL");
    instance.wait_for("SELECT column_rows FROM tidemark.tables WHERE name = 't'", &["0"]).await;
    assert_eq!(instance.value("SELECT count(*), sum(n) FROM by_g").await, "0 NULL");
}

async fn insert(instance: &Instance, rng: &mut StdRng, model: &mut Model, ids: std::ops::Range<i32>) {
    let mut values = Vec::new();
    for id in ids {
        let row = (id % 300, rng.random_range(0..10_000), rng.random_bool(0.9).then(|| format!("text {}", id % 40)));
        let text = row.2.as_ref().map_or("NULL".to_string(), |text| format!("'{text}'"));
        values.push(format!("({id}, {}, {}.{:02}, {text})", row.0, row.1 / 100, row.1 % 100));
        model.insert(id, row);
    }
    instance.run(&format!("INSERT INTO t VALUES {}", values.join(", "))).await;
}

/// A few rows everywhere, and all of some places.
async fn change(instance: &Instance, rng: &mut StdRng, model: &mut Model) {
    let (few, place) = (rng.random_range(0..17), rng.random_range(0..2900));
    instance.run(&format!("DELETE FROM t WHERE id % 17 = {few} AND id % 3 = 0")).await;
    model.retain(|id, _| id % 17 != few || id % 3 != 0);
    instance
        .run(&format!("UPDATE t SET amount = amount + 1, g = g + 1 WHERE id BETWEEN {place} AND {place} + 100"))
        .await;
    for (_, row) in model.range_mut(place..=place + 100) {
        (row.0, row.1) = (row.0 + 1, row.1 + 100);
    }
}

async fn check(instance: &Instance, model: &Model) {
    let money = |cents: i64| format!("{}.{:02}", cents / 100, cents % 100);
    let cents: i64 = model.values().map(|row| row.1).sum();
    let ids: i64 = model.keys().map(|id| i64::from(*id)).sum();
    let texts = model.values().filter(|row| row.2.is_some()).count();
    let all = format!("{} {ids} {} {texts}", model.len(), money(cents));
    assert_eq!(instance.value("SELECT count(id), sum(id), sum(amount), count(v) FROM t").await, all);
    assert_eq!(instance.value("SELECT count(*) FROM t").await, model.len().to_string());
    let some = model.range(1000..2000).map(|(_, row)| row.1).sum();
    let of_some = "SELECT sum(amount) FROM t WHERE id BETWEEN 1000 AND 1999";
    assert_eq!(instance.value(of_some).await, money(some));
    let mut groups: BTreeMap<i32, (i64, i64)> = BTreeMap::new();
    for row in model.values() {
        let group = groups.entry(row.0).or_default();
        *group = (group.0 + 1, group.1 + row.1);
    }
    let squares: i64 = groups.values().map(|(n, _)| n * n).sum();
    let by_group = format!("{} {squares} {}", groups.len(), money(cents));
    assert_eq!(instance.value("SELECT count(g), sum(n * n), sum(amount) FROM by_g").await, by_group);
    let repeated = instance.value("SELECT count(amount), sum(amount) FROM repeated").await;
    assert_eq!(repeated, format!("{} {}", model.len(), money(cents)));
}
