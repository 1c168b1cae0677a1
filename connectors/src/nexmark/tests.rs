use ::nexmark::EventGenerator;
use ::nexmark::config::NexmarkConfig;
use ::nexmark::event::Event;
use datafusion::arrow::array::{Array, AsArray};
use tidemark_common::types::SqlType;

use super::BASE_TIME_MILLIS;
use crate::testing::*;
use crate::{infer_columns, open_source};

async fn columns_of(table: &str) -> Vec<(String, SqlType)> {
    let options = pairs(&[("connector", "nexmark"), ("nexmark.table.type", table)]);
    let schema = infer_columns(&options, &[], None).await.unwrap();
    schema.fields().iter().map(|f| (f.name().clone(), SqlType::from_field(f))).collect()
}

async fn read(table: &str, events: &str) -> Vec<String> {
    let columns = columns_of(table).await;
    let columns: Vec<(&str, SqlType)> = columns.iter().map(|(n, t)| (n.as_str(), t.clone())).collect();
    let options = [("connector", "nexmark"), ("nexmark.table.type", table), ("nexmark.event.num", events)];
    let source = open(&columns, &options).unwrap();
    rows(&all(source.as_ref(), None).await.unwrap().0)
}

/// What the public generator makes, as our rows show it.
fn public(count: usize) -> Vec<Event> {
    let config = NexmarkConfig { base_time: BASE_TIME_MILLIS, ..NexmarkConfig::default() };
    EventGenerator::new(config).take(count).collect()
}

fn time(millis: u64) -> String {
    let array = datafusion::arrow::array::TimestampMicrosecondArray::from(vec![millis as i64 * 1000]);
    datafusion::arrow::util::display::array_value_to_string(&array, 0).unwrap()
}

#[tokio::test]
async fn rows_are_those_of_the_public_generator() {
    let (mut people, mut auctions, mut bids) = (Vec::new(), Vec::new(), Vec::new());
    for event in public(30_000) {
        match event {
            Event::Person(p) => people.push(
                [p.id.to_string(), p.name, p.email_address, p.credit_card, p.city, p.state, time(p.date_time), p.extra]
                    .join("|"),
            ),
            Event::Auction(a) => auctions.push(
                [
                    a.id.to_string(),
                    a.item_name,
                    a.description,
                    a.initial_bid.to_string(),
                    a.reserve.to_string(),
                    time(a.date_time),
                    time(a.expires),
                    a.seller.to_string(),
                    a.category.to_string(),
                    a.extra,
                ]
                .join("|"),
            ),
            Event::Bid(b) => bids.push(
                [
                    b.auction.to_string(),
                    b.bidder.to_string(),
                    b.price.to_string(),
                    b.channel,
                    b.url,
                    time(b.date_time),
                    b.extra,
                ]
                .join("|"),
            ),
        }
    }
    assert!(read("person", "30000").await == people);
    assert!(read("auction", "30000").await == auctions);
    assert!(read("bid", "30000").await == bids);
}

#[tokio::test]
async fn every_table_replays_exactly() {
    for table in ["person", "auction", "bid", "event"] {
        let columns = columns_of(table).await;
        let columns: Vec<(&str, SqlType)> = columns.iter().map(|(n, t)| (n.as_str(), t.clone())).collect();
        let options = [
            ("connector", "nexmark"),
            ("type", table),
            ("event.num", "5000"),
            ("nexmark.seed", "7"),
            ("nexmark.max.chunk.size", "300"),
        ];
        let mut spec = spec(&columns, &options);
        spec.include = pairs(&[("offset", "o"), ("timestamp", "t")]);
        let whole = check_replay(open_source(spec).unwrap().as_ref()).await;
        let expected = match table {
            "person" => 100,
            "auction" => 300,
            "bid" => 4600,
            _ => 5000,
        };
        assert_eq!(whole.num_rows(), expected);
    }
}

#[tokio::test]
async fn the_event_table_holds_each_kind_in_its_struct() {
    let columns = [
        (
            "bid",
            SqlType::Struct(
                vec![("price", SqlType::BigInt), ("auction", SqlType::BigInt)]
                    .into_iter()
                    .map(|(n, t)| (n.to_string(), t))
                    .collect(),
            ),
        ),
        ("event_type", SqlType::BigInt),
        ("person", SqlType::Struct(vec![("name".to_string(), SqlType::Text)])),
    ];
    let options = [("connector", "nexmark"), ("nexmark.table.type", "event"), ("nexmark.event.num", "100")];
    let source = open(&columns, &options).unwrap();
    let (batch, _) = all(source.as_ref(), None).await.unwrap();
    assert_eq!(batch.column(0).null_count(), 8);
    assert_eq!(batch.column(2).null_count(), 98);
    assert_eq!(rows(&batch)[0], "|0|{name: vicky noris}");
    let Event::Bid(first) = public(5).remove(4) else { panic!("the fifth event is a bid") };
    assert_eq!(rows(&batch)[4], format!("{{price: {}, auction: {}}}|2|", first.price, first.auction));
}

#[tokio::test]
async fn a_subset_in_any_order_with_other_types() {
    let columns =
        [("price", SqlType::Numeric(None)), ("date_time", SqlType::TimestampTz), ("auction", SqlType::Integer)];
    let options =
        [("connector", "nexmark"), ("nexmark.table.type", "bid"), ("nexmark.event.num", "50"), ("base.time", "0")];
    let source = open(&columns, &options).unwrap();
    let (batch, _) = all(source.as_ref(), None).await.unwrap();
    assert_eq!(batch.num_rows(), 46);
    assert!(rows(&batch)[0].contains("|1970-01-01T00:00:00Z|"), "{}", rows(&batch)[0]);
}

#[tokio::test]
async fn the_seed_changes_values_but_not_time_or_ids() {
    let read = async |seed: &str| {
        let columns = [("id", SqlType::BigInt), ("name", SqlType::Text), ("date_time", SqlType::Timestamp)];
        let options =
            [("connector", "nexmark"), ("nexmark.table.type", "person"), ("nexmark.event.num", "5000"), ("seed", seed)];
        all(open(&columns, &options).unwrap().as_ref(), None).await.unwrap().0
    };
    let (one, two) = (read("1").await, read("2").await);
    assert_eq!(one.column(0), two.column(0));
    assert_eq!(one.column(2), two.column(2));
    assert_ne!(one.column(1).as_string::<i32>(), two.column(1).as_string::<i32>());
}

#[test]
fn wrong_columns_and_options_are_refused_by_name() {
    let with = |columns: &[(&str, SqlType)], more: &[(&str, &str)]| {
        let mut options = vec![("connector", "nexmark")];
        options.extend_from_slice(more);
        refused(open(columns, &options))
    };
    let bid = [("nexmark.table.type", "bid")];
    assert_eq!(with(&[("auctoin", SqlType::BigInt)], &bid).2, "Perhaps you meant \"auction\".");
    assert_eq!(with(&[("price", SqlType::Text)], &bid).1, "column \"price\" of nexmark is of type bigint, not text");
    assert_eq!(with(&[("price", SqlType::BigInt)], &[("type", "bids")]).2, "Perhaps you meant \"bid\".");
    assert!(with(&[("price", SqlType::BigInt)], &[]).1.contains("nexmark.table.type"));
    let (code, message, _) = with(&[("price", SqlType::BigInt)], &[("type", "bid"), ("nexmark.event.nm", "3")]);
    assert_eq!((code.as_str(), message.as_str()), ("22023", "unrecognized option \"nexmark.event.nm\""));
}
