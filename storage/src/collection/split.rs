//! Cutting a collection into ranges of about the same size, without reading it.
//!
//! Keys to cut at are found by halving: the key half-way between two known ones (as numbers) is looked for, the one that is
//! really there becomes known, and the interval that holds the most bytes on disk is halved next. Where rows are in blocks or sheets,
//! these are what is shared out.

use tidemark_common::Result;

use super::{Collection, KeyRange};
use crate::keys::Key;
use crate::snapshot::Snapshot;

/// Fewer rows are not worth a second scan.
const MIN_ROWS: u64 = 16 * 1024;
/// Intervals looked at for each range wanted.
const SAMPLES: usize = 8;

/// Encoded keys from `from` to before `to`.
struct Interval {
    from: Vec<u8>,
    to: Vec<u8>,
    bytes: u64,
    /// No key was found inside.
    solid: bool,
}

pub(super) fn split(collection: &Collection, snapshot: &Snapshot, n: usize) -> Result<Vec<KeyRange>> {
    let rows = collection.row_count(snapshot)?;
    let n = n.min(usize::try_from(rows / MIN_ROWS).unwrap_or(usize::MAX).max(1));
    if n <= 1 {
        return Ok(vec![KeyRange::full()]);
    }
    let blocks = collection.blocks(snapshot)?.into_iter().map(|block| (block.rows(), block.first_key()));
    let sheets = collection.sheets(snapshot, &[], None)?.into_iter().map(|sheet| (sheet.head.rows, sheet.head.from));
    if let Some(ranges) = at_parts(blocks.chain(sheets).collect(), rows, n) {
        return Ok(ranges);
    }
    let span = Key::rows(collection.id);
    let (Some(first), Some(last)) = (snapshot.first(&span.start, &span.end)?, snapshot.last(&span.start, &span.end)?)
    else {
        return Ok(vec![KeyRange::full()]);
    };
    let whole = Interval::new(snapshot, first.0, [last.0.as_slice(), &[0]].concat());
    let intervals = sample(snapshot, whole, n * SAMPLES)?;
    let cuts = balance(&intervals, n);
    let prefix = span.start.len();
    Ok(between(cuts.iter().map(|cut| cut[prefix..].to_vec())))
}

/// Ranges that begin with blocks or sheets, if most of the rows are in them. For each how many rows it has, and its first key.
fn at_parts(parts: Vec<(u64, Vec<u8>)>, rows: u64, n: usize) -> Option<Vec<KeyRange>> {
    let within: u64 = parts.iter().map(|(rows, _)| rows).sum();
    let is_most = within >= rows / 2 && !parts.is_empty();
    let n = n.min(parts.len());
    is_most.then(|| between((1..n).map(|part| parts[part * parts.len() / n].1.clone())))
}

/// The ranges before, between and after these keys.
fn between(cuts: impl Iterator<Item = Vec<u8>>) -> Vec<KeyRange> {
    let mut ranges = Vec::new();
    let mut from = Vec::new();
    for key in cuts {
        ranges.push(KeyRange { from: std::mem::replace(&mut from, key.clone()), to: Some(key) });
    }
    ranges.push(KeyRange { from, to: None });
    ranges
}

impl Interval {
    fn new(snapshot: &Snapshot, from: Vec<u8>, to: Vec<u8>) -> Self {
        let bytes = snapshot.approximate_bytes(&from, &to);
        Self { from, to, bytes, solid: false }
    }
}

/// Halves intervals until there are `wanted`, or all are solid. In the order of keys.
fn sample(snapshot: &Snapshot, whole: Interval, wanted: usize) -> Result<Vec<Interval>> {
    let (common, ..) = numbers(&whole.from, &whole.to);
    let mut intervals = vec![whole];
    while intervals.len() < wanted {
        // What is only in memory has no known size: then the widest goes first.
        let biggest = (0..intervals.len()).filter(|&i| !intervals[i].solid).max_by_key(|&i| {
            let Interval { from, to, bytes, .. } = &intervals[i];
            (*bytes, number(to, common) - number(from, common))
        });
        let Some(at) = biggest else { break };
        let interval = &mut intervals[at];
        let middle = halfway(&interval.from, &interval.to);
        match snapshot.first(&middle, &interval.to)? {
            Some((key, _)) if key > interval.from => {
                let upper = Interval::new(snapshot, key.clone(), std::mem::replace(&mut interval.to, key));
                *interval = Interval::new(snapshot, std::mem::take(&mut interval.from), upper.from.clone());
                intervals.insert(at + 1, upper);
            }
            // The upper half is empty: go on with the lower one, unless it is as narrow as can be.
            _ if middle > interval.from && middle < interval.to => interval.to = middle,
            _ => interval.solid = true,
        }
    }
    Ok(intervals)
}

/// Keys at which to cut into at most `n` parts of about the same number of bytes, or of intervals where bytes are unknown.
fn balance(intervals: &[Interval], n: usize) -> Vec<Vec<u8>> {
    let size = |interval: &Interval| interval.bytes.max(1);
    let total: u64 = intervals.iter().map(size).sum();
    let mut cuts = Vec::new();
    let mut sum = 0;
    for interval in intervals {
        let part = total * (cuts.len() as u64 + 1) / n as u64;
        if sum >= part && cuts.len() + 1 < n && sum > 0 {
            cuts.push(interval.from.clone());
        }
        sum += size(interval);
    }
    cuts
}

/// How many bytes two keys have in common, and the numbers that follow.
fn numbers(from: &[u8], to: &[u8]) -> (usize, u128, u128) {
    let common = from.iter().zip(to).take_while(|(a, b)| a == b).count();
    (common, number(from, common), number(to, common))
}

/// The 15 bytes of a key that follow the first `at`, as a number.
fn number(key: &[u8], at: usize) -> u128 {
    let mut bytes = [0; 16];
    let rest = &key[at.min(key.len())..];
    let len = rest.len().min(15);
    bytes[1..=len].copy_from_slice(&rest[..len]);
    u128::from_be_bytes(bytes)
}

fn halfway(from: &[u8], to: &[u8]) -> Vec<u8> {
    let (common, a, b) = numbers(from, to);
    let middle = a + (b - a) / 2;
    let mut key = to[..common].to_vec();
    key.extend_from_slice(&middle.to_be_bytes()[1..]);
    key
}
