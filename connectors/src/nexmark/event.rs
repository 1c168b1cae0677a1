//! An event from its number: the draws of the public generator, in its order, up to the last value that is wanted.
//!
//! Each event has a random generator of its own, seeded by its number, so any event can be made without those before it. With
//! seed 0 the events are those of the `nexmark` crate (a test compares them); it builds every text of every event, which
//! costs several times what a query over three columns needs.

use ::nexmark::config::NexmarkConfig;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

/// Of so many consecutive ids the first (for bidders the second) is hot.
const HOT_EVERY: usize = 100;
const CHANNELS: usize = 10_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Kind {
    #[default]
    Person,
    Auction,
    Bid,
}

/// How far the values of an event are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) enum Depth {
    /// Its id and time, which are no matter of chance.
    #[default]
    Known,
    /// Of a bid: auction, bidder and price.
    Numbers,
    /// All but `extra`.
    Texts,
    Extra,
}

/// The depth for each kind.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Effort {
    pub person: Depth,
    pub auction: Depth,
    pub bid: Depth,
}

/// One event; what belongs to another kind, or lies deeper than was asked, is left from before.
#[derive(Debug, Default)]
pub(super) struct Row {
    pub kind: Kind,
    pub number: u64,
    pub millis: u64,
    pub id: usize,
    pub name: String,
    pub email_address: String,
    pub credit_card: String,
    pub city: String,
    pub state: String,
    pub item_name: String,
    pub description: String,
    pub initial_bid: usize,
    pub reserve: usize,
    pub expires_millis: u64,
    pub seller: usize,
    pub category: usize,
    pub auction: usize,
    pub bidder: usize,
    pub price: usize,
    pub channel: String,
    pub url: String,
    pub extra: String,
}

#[derive(Debug)]
pub(super) struct Events {
    config: NexmarkConfig,
    /// Events of all kinds in one round.
    round: usize,
    micros_per_event: f32,
    seed: u64,
    /// Channel and url of bids that do not come through a hot channel.
    channels: Vec<(String, String)>,
}

impl Events {
    pub fn new(config: NexmarkConfig, seed: u64) -> Self {
        Self {
            round: config.person_proportion + config.auction_proportion + config.bid_proportion,
            micros_per_event: config.us_per_unit as f32 / config.first_rate as f32,
            seed: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            channels: (0..CHANNELS).map(channel).collect(),
            config,
        }
    }

    pub fn kind(&self, number: u64) -> Kind {
        let place = number as usize % self.round;
        if place < self.config.person_proportion {
            Kind::Person
        } else if place < self.config.person_proportion + self.config.auction_proportion {
            Kind::Auction
        } else {
            Kind::Bid
        }
    }

    /// Makes event `number`.
    pub fn fill(&self, number: u64, effort: &Effort, row: &mut Row) {
        row.kind = self.kind(number);
        row.number = number;
        let number = number as usize;
        row.millis = self.millis(number);
        match row.kind {
            Kind::Person => self.person(number, effort.person, row),
            Kind::Auction => self.auction(number, effort.auction, row),
            Kind::Bid => self.bid(number, effort.bid, row),
        }
    }

    fn rng(&self, number: usize) -> SmallRng {
        SmallRng::seed_from_u64((number as u64) ^ self.seed)
    }

    /// In single precision, as the public generator does it.
    fn millis(&self, number: usize) -> u64 {
        self.config.base_time + ((number as f32 * self.micros_per_event) / 1000.0).round() as u64
    }

    fn person(&self, number: usize, depth: Depth, row: &mut Row) {
        row.id = self.last_person(number) + self.config.first_person_id;
        if depth < Depth::Texts {
            return;
        }
        let rng = &mut self.rng(number);
        row.name.clear();
        row.name.push_str(pick(&self.config.first_names, rng));
        row.name.push(' ');
        row.name.push_str(pick(&self.config.last_names, rng));
        row.email_address.clear();
        letters(rng, 7, &mut row.email_address);
        row.email_address.push('@');
        letters(rng, 5, &mut row.email_address);
        row.email_address.push_str(".com");
        let mut digits = || rng.gen_range(0..10_000);
        row.credit_card = format!("{:04} {:04} {:04} {:04}", digits(), digits(), digits(), digits());
        replace(&mut row.city, pick(&self.config.us_cities, rng));
        replace(&mut row.state, pick(&self.config.us_states, rng));
        if depth == Depth::Extra {
            let size =
                8 + row.name.len() + row.email_address.len() + row.credit_card.len() + row.city.len() + row.state.len();
            extra(rng, size, self.config.avg_person_byte_size, &mut row.extra);
        }
    }

    fn auction(&self, number: usize, depth: Depth, row: &mut Row) {
        row.id = self.last_auction(number) + self.config.first_auction_id;
        if depth < Depth::Texts {
            return;
        }
        let config = &self.config;
        let rng = &mut self.rng(number);
        row.item_name.clear();
        letters(rng, 20, &mut row.item_name);
        row.description.clear();
        letters(rng, 100, &mut row.description);
        row.initial_bid = price(rng);
        row.reserve = row.initial_bid + price(rng);
        let in_flight = config.in_flight_auctions * self.round / config.auction_proportion;
        let horizon = self.millis(number + in_flight) - row.millis;
        row.expires_millis = row.millis + 1 + rng.gen_range(0..(horizon * 2).max(1));
        let seller = if rng.gen_range(0..config.hot_seller_ratio) > 0 {
            self.last_person(number) / HOT_EVERY * HOT_EVERY
        } else {
            self.some_person(number, rng)
        };
        row.seller = seller + config.first_person_id;
        row.category = config.first_category_id + rng.gen_range(0..config.num_categories);
        if depth == Depth::Extra {
            let size = 8 + row.item_name.len() + row.description.len() + 8 + 8 + 8 + 8 + 8;
            extra(rng, size, config.avg_auction_byte_size, &mut row.extra);
        }
    }

    fn bid(&self, number: usize, depth: Depth, row: &mut Row) {
        if depth < Depth::Numbers {
            return;
        }
        let config = &self.config;
        let rng = &mut self.rng(number);
        let auction = if rng.gen_range(0..config.hot_auction_ratio) > 0 {
            self.last_auction(number) / HOT_EVERY * HOT_EVERY
        } else {
            self.some_auction(number, rng)
        };
        row.auction = auction + config.first_auction_id;
        let bidder = if rng.gen_range(0..config.hot_bidder_ratio) > 0 {
            // The second of them, so that hot bidders are not the hot sellers.
            self.last_person(number) / HOT_EVERY * HOT_EVERY + 1
        } else {
            self.some_person(number, rng)
        };
        row.bidder = bidder + config.first_person_id;
        row.price = price(rng);
        if depth < Depth::Texts {
            return;
        }
        let (channel, url) = if rng.gen_range(0..config.hot_channel_ratio) > 0 {
            let hot = rng.gen_range(0..config.hot_channels.len());
            (&config.hot_channels[hot], &config.hot_urls[hot])
        } else {
            let (channel, url) = self.channels.choose(rng).expect("there are channels");
            (channel, url)
        };
        replace(&mut row.channel, channel);
        replace(&mut row.url, url);
        if depth == Depth::Extra {
            extra(rng, 8 + 8 + 8 + 8, config.avg_bid_byte_size, &mut row.extra);
        }
    }

    /// The newest person when event `number` happens, counted from 0.
    fn last_person(&self, number: usize) -> usize {
        let people = self.config.person_proportion;
        number / self.round * people + (number % self.round).min(people - 1)
    }

    /// The newest auction when event `number` happens, counted from 0.
    fn last_auction(&self, number: usize) -> usize {
        let auctions = self.config.auction_proportion;
        let (round, place) = (number / self.round, number % self.round);
        match place.checked_sub(self.config.person_proportion) {
            // Before the round's first auction: the last of the round before.
            None => (round * auctions).saturating_sub(1),
            Some(place) => round * auctions + place.min(auctions - 1),
        }
    }

    /// A recent person, or one who is about to come.
    fn some_person(&self, number: usize, rng: &mut SmallRng) -> usize {
        let people = self.last_person(number) + 1;
        let active = people.min(self.config.active_people);
        people - active + rng.gen_range(0..active + self.config.person_id_lead)
    }

    /// A recent auction, or one that is about to come.
    fn some_auction(&self, number: usize, rng: &mut SmallRng) -> usize {
        let newest = self.last_auction(number);
        let oldest = newest.saturating_sub(self.config.in_flight_auctions);
        oldest + rng.gen_range(0..newest - oldest + 1 + self.config.auction_id_lead)
    }
}

fn replace(text: &mut String, with: &str) {
    text.clear();
    text.push_str(with);
}

fn pick<'a>(choices: &'a [String], rng: &mut SmallRng) -> &'a str {
    choices.choose(rng).expect("the generator's word lists are not empty")
}

fn letters(rng: &mut SmallRng, count: usize, into: &mut String) {
    into.reserve(count);
    for _ in 0..count {
        into.push(char::from(rng.gen_range(b'a'..=b'z')));
    }
}

fn price(rng: &mut SmallRng) -> usize {
    (10.0_f32.powf(rng.r#gen::<f32>() * 6.0) * 100.0).round() as usize
}

/// Filler that brings an event of `size` bytes to about the average size.
fn extra(rng: &mut SmallRng, size: usize, average: usize, into: &mut String) {
    into.clear();
    let Some(missing) = average.checked_sub(size) else { return };
    let spread = (missing + 2) / 5;
    let more = if spread == 0 { 0 } else { rng.gen_range(0..2 * spread) };
    letters(rng, missing - spread + more, into);
}

fn channel(index: usize) -> (String, String) {
    let mut rng = SmallRng::seed_from_u64(index as u64);
    let parts = [url_part(&mut rng), url_part(&mut rng), url_part(&mut rng)];
    let mut url = format!("https://www.nexmark.com/{}/item.htm?query=1", parts.join("/"));
    let mut rng = SmallRng::seed_from_u64(index as u64);
    if rng.gen_range(0..10) > 0 {
        url.push_str(&format!("&channel_id={}", i64::from((index as i32).reverse_bits()).abs()));
    }
    (format!("channel-{index}"), url)
}

fn url_part(rng: &mut SmallRng) -> String {
    let length: usize = rng.gen_range(3..5);
    (0..length).map(|_| if rng.gen_range(0..13) == 0 { '_' } else { char::from(rng.gen_range(b'a'..=b'z')) }).collect()
}
