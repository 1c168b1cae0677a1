//! Fuzzers of what decodes records: whatever the bytes are, the answer comes soon, is no larger than the bytes explain, and spoils no
//! record beside it. Records that are almost right go deepest, so most are whole ones that have been damaged.
//!
//! A fixed number of rounds from a fixed seed; with TIDEMARK_FUZZ_SECONDS so many seconds each, from a seed that is new each time and
//! is printed with what fails (TIDEMARK_SEED repeats it).

#![allow(clippy::disallowed_methods)] // measuring; no result depends on the time

mod damage;
mod subjects;

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tidemark_common::{Clock, SystemClock};

use self::subjects::{Record, Subject};

const ROUNDS: usize = 150;
/// Of a round, besides one that is whole.
const RECORDS: usize = 6;
/// A round that takes longer hangs, as far as a source is concerned.
const LONGEST: Duration = Duration::from_secs(20);
/// What decoded rows may take: for each byte of the records, and in any case. A byte can say that there are 65536 empty items.
const LARGEST: (usize, usize) = (2048, 64 << 20);

fn fuzz(subjects: Vec<Subject>) {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let seconds = number("TIDEMARK_FUZZ_SECONDS");
    let other = if seconds.is_some() { SystemClock.now_micros().unsigned_abs() } else { 1 };
    let seed = number("TIDEMARK_SEED").unwrap_or(other);
    let mut rng = SmallRng::seed_from_u64(seed);
    let began = Instant::now();
    let mut rounds = 0;
    while seconds.map_or(rounds < ROUNDS, |seconds| began.elapsed() < Duration::from_secs(seconds)) {
        rounds += 1;
        for subject in &subjects {
            round(subject, seed, &mut rng);
        }
    }
}

fn round(subject: &Subject, seed: u64, rng: &mut SmallRng) {
    let whole = &subject.whole;
    let mut records: Vec<Record> = (0..RECORDS).map(|_| damage::record(whole, subject.is_text, rng)).collect();
    let untouched = rng.gen_range(0..whole.len());
    records.push(whole[untouched].clone());
    let size: usize = records.iter().map(Record::len).sum();
    let began = Instant::now();
    let decoded = std::panic::catch_unwind(AssertUnwindSafe(|| (subject.decode)(&records)));
    let took = began.elapsed();
    let wrong = match decoded {
        Err(_) => Some("it panicked".to_string()),
        Ok(Err(why)) => Some(why),
        Ok(Ok(decoded)) if decoded.bytes > size.saturating_mul(LARGEST.0) + LARGEST.1 => {
            Some(format!("{size} bytes became {}", decoded.bytes))
        }
        Ok(Ok(decoded)) if decoded.last != subject.shown[untouched] => {
            Some(format!("the record that is whole became {:?}, not {:?}", decoded.last, subject.shown[untouched]))
        }
        Ok(Ok(_)) => (took > LONGEST).then(|| format!("it took {took:?}")),
    };
    if let Some(wrong) = wrong {
        let records = records.iter().map(|record| format!("{record:.2000}")).collect::<Vec<_>>().join("\n");
        panic!("{}, TIDEMARK_SEED={seed}: {wrong}\n{records}", subject.name);
    }
}

#[test]
fn json_records() {
    fuzz(vec![subjects::json()]);
}

#[test]
fn csv_text_and_bytes_records() {
    fuzz(vec![subjects::csv(), subjects::text(), subjects::bytes()]);
}

#[tokio::test]
async fn avro_records() {
    fuzz(vec![subjects::avro(), subjects::avro_passed_over()]);
}

#[tokio::test]
async fn protobuf_records() {
    fuzz(vec![subjects::protobuf(), subjects::protobuf_kinds()]);
}

#[test]
fn changes_in_json() {
    fuzz(subjects::json_changes());
}

#[tokio::test]
async fn changes_with_a_schema() {
    fuzz(vec![subjects::avro_changes(), subjects::protobuf_changes()]);
}
