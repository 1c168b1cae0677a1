//! The file that all queries read: events of the public generator as JSON, one a line, persons, auctions and bids as they come.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use nexmark::EventGenerator;
use nexmark::config::NexmarkConfig;
use nexmark::event::Event;
use serde_json::{Value, json};
use tidemark_sqllogictest::Result;

/// When the first event happens, in milliseconds since 1970: the file is the same whenever it is made.
const BASE_TIME: u64 = 1_700_000_000_000;

/// The columns of all events; those of another kind of event are not in a line.
pub const COLUMNS: &str = "event_type INT, id BIGINT, name TEXT, email_address TEXT, credit_card TEXT, city TEXT, state TEXT, \
    item_name TEXT, description TEXT, initial_bid BIGINT, reserve BIGINT, expires TIMESTAMP, seller BIGINT, category BIGINT, \
    auction BIGINT, bidder BIGINT, price BIGINT, channel TEXT, url TEXT, date_time TIMESTAMP, extra TEXT";

/// The kinds of events, each as its number in `event_type` and the columns that it has.
pub const KINDS: [(&str, u8, &str); 3] = [
    ("person", 0, "id, name, email_address, credit_card, city, state, date_time, extra"),
    ("auction", 1, "id, item_name, description, initial_bid, reserve, date_time, expires, seller, category, extra"),
    ("bid", 2, "auction, bidder, price, channel, url, date_time, extra"),
];

/// Makes the file unless it is there already.
pub fn file(dir: &Path, events: u64) -> Result<PathBuf> {
    let path = dir.join(format!("nexmark-{events}.json"));
    if path.exists() {
        return Ok(path);
    }
    std::fs::create_dir_all(dir)?;
    let half_made = path.with_extension("tmp");
    let mut out = BufWriter::with_capacity(1 << 20, File::create(&half_made)?);
    let config = NexmarkConfig { base_time: BASE_TIME, ..NexmarkConfig::default() };
    for event in EventGenerator::new(config).take(usize::try_from(events).unwrap_or(usize::MAX)) {
        serde_json::to_writer(&mut out, &line(event)).map_err(|e| tidemark_sqllogictest::Failure(e.to_string()))?;
        out.write_all(b"\n")?;
    }
    out.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
    std::fs::rename(&half_made, &path)?;
    Ok(path)
}

fn line(event: Event) -> Value {
    match event {
        Event::Person(e) => json!({
            "event_type": 0, "id": e.id, "name": e.name, "email_address": e.email_address, "credit_card": e.credit_card,
            "city": e.city, "state": e.state, "date_time": e.date_time, "extra": e.extra,
        }),
        Event::Auction(e) => json!({
            "event_type": 1, "id": e.id, "item_name": e.item_name, "description": e.description, "initial_bid": e.initial_bid,
            "reserve": e.reserve, "date_time": e.date_time, "expires": e.expires, "seller": e.seller, "category": e.category,
            "extra": e.extra,
        }),
        Event::Bid(e) => json!({
            "event_type": 2, "auction": e.auction, "bidder": e.bidder, "price": e.price, "channel": e.channel, "url": e.url,
            "date_time": e.date_time, "extra": e.extra,
        }),
    }
}
