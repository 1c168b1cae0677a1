//! Records that are almost right.

use rand::Rng;
use rand::rngs::SmallRng;

use super::subjects::Record;

/// What breaks readers of texts.
const WORDS: [&str; 24] = [
    "null",
    "true",
    "{}",
    "[]",
    "\"\"",
    "\"\\ud800\"",
    "\"\\u0000\"",
    "1e999999999",
    "-1e-999999999",
    "NaN",
    "Infinity",
    "-0",
    "99999999999999999999999999999999999999999999",
    "0.00000000000000000000000000000000000000000000001",
    "\\x",
    "\\\\",
    "\"",
    "\r\n",
    ",,",
    "{\"a\":{\"a\":",
    "9999-99-99",
    "294277-01-01 00:00:00+99",
    "P999999999999Y",
    "\u{feff}",
];
const BYTES: [u8; 16] = [0, 1, 2, 0x7f, 0x80, 0x81, 0xc0, 0xed, 0xff, b'{', b'}', b'[', b']', b'"', b'\\', b','];
/// How often a part is repeated at most: nesting, and long lists.
const MOST_COPIES: usize = 3000;
const LONGEST: usize = 1 << 16;

/// A record made of whole ones.
pub fn record(whole: &[Record], is_text: bool, rng: &mut SmallRng) -> Record {
    let mut record = whole[rng.gen_range(0..whole.len())].clone();
    let other = &whole[rng.gen_range(0..whole.len())];
    if rng.gen_ratio(1, 30) {
        record.value = Some((0..rng.gen_range(0..200)).map(|_| rng.r#gen()).collect());
    }
    if rng.gen_ratio(1, 40) {
        std::mem::swap(&mut record.key, &mut record.value);
    }
    let few = rng.gen_range(1..4);
    let times = if rng.gen_ratio(1, 8) { rng.gen_range(4..40) } else { few };
    for _ in 0..times {
        let key_only = record.value.is_none() || rng.gen_ratio(1, 4);
        match (&mut record.key, &mut record.value) {
            (Some(key), _) if key_only => damage(key, other.key.as_deref(), is_text, rng),
            (_, Some(value)) => damage(value, other.value.as_deref(), is_text, rng),
            _ => {}
        }
    }
    if rng.gen_ratio(1, 50) {
        record.key = None;
    }
    if rng.gen_ratio(1, 50) {
        record.value = None;
    }
    record
}

fn damage(bytes: &mut Vec<u8>, other: Option<&[u8]>, is_text: bool, rng: &mut SmallRng) {
    let (from, to) = range(bytes.len(), rng);
    match rng.gen_range(0..10) {
        0 if from < bytes.len() => bytes[from] ^= 1 << rng.gen_range(0..8),
        1 if from < bytes.len() => bytes[from] = BYTES[rng.gen_range(0..BYTES.len())],
        2 => bytes.truncate(from),
        3 => drop(bytes.drain(from..to)),
        4 => {
            let part = bytes[from..to].to_vec();
            drop(bytes.splice(to..to, part));
        }
        5 => {
            let part = bytes[from..to].to_vec();
            let room = LONGEST.saturating_sub(bytes.len()) / part.len().max(1);
            let copies = rng.gen_range(0..MOST_COPIES).min(room);
            drop(bytes.splice(to..to, part.repeat(copies)));
        }
        6 => {
            let other = other.unwrap_or_default();
            let (start, end) = range(other.len(), rng);
            drop(bytes.splice(from..to, other[start..end].iter().copied()));
        }
        7 => {
            let other = other.unwrap_or_default();
            let (start, _) = range(other.len(), rng);
            bytes.truncate(from);
            bytes.extend_from_slice(&other[start..]);
        }
        8 if is_text => {
            let word = WORDS[rng.gen_range(0..WORDS.len())];
            drop(bytes.splice(from..to, word.bytes()));
        }
        _ => drop(bytes.splice(from..(from + 1).min(bytes.len()), length(rng))),
    }
}

/// A part of so many bytes, mostly a short one.
fn range(length: usize, rng: &mut SmallRng) -> (usize, usize) {
    let from = rng.gen_range(0..=length);
    let most = if rng.gen_ratio(1, 5) { length } else { (from + 8).min(length) };
    (from, rng.gen_range(from..=most.max(from)))
}

/// As lengths and counts are written in binary formats, with a value that no record has.
fn length(rng: &mut SmallRng) -> Vec<u8> {
    let edge = 1_u64 << rng.gen_range(0..64);
    let value = edge.wrapping_add(rng.gen_range(0..3)).wrapping_sub(1);
    match rng.gen_range(0..4) {
        0 => value.to_le_bytes().to_vec(),
        1 => (value as u32).to_be_bytes().to_vec(),
        2 => vec![0xff; rng.gen_range(1..12)],
        _ => {
            let (mut rest, mut out) = (value, Vec::new());
            while rest > 0x7f {
                out.push(rest as u8 | 0x80);
                rest >>= 7;
            }
            out.push(rest as u8);
            out
        }
    }
}
