//! Every persisted key, in one enum. What it encodes to sorts as it does.
//!
//! ```text
//!   ┌─────┬───────────────────────┬──────────────────────────────┐
//!   │ tag │ numbers, big-endian   │ tail: a name or an encoded   │
//!   │ 1 B │ 4 or 8 bytes each     │ row, raw, to the key's end   │
//!   └─────┴───────────────────────┴──────────────────────────────┘
//! ```
//!
//! So whatever belongs together is one range of RocksDB, which is what [`Span`]s are for.

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};
use tidemark_common::{Epoch, Error, Oid, Result, SqlState};

/// Encoded keys from the start to before the end.
pub type Span = Range<Vec<u8>>;

/// What holds state: a node of the dataflow of a catalog object; node 0 is the object's own contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StateId(pub u64);

impl StateId {
    pub const fn new(oid: Oid, node: u32) -> Self {
        Self((oid as u64) << 32 | node as u64)
    }

    pub const fn oid(self) -> Oid {
        (self.0 >> 32) as Oid
    }

    pub const fn node(self) -> u32 {
        self.0 as u32
    }
}

impl fmt::Display for StateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.oid(), self.node())
    }
}

/// A persisted key. Variants stand in the order of their tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key<'a> {
    /// The format version of the whole store (u32).
    Format,
    /// The last committed epoch (u64). In every commit.
    Epoch,
    /// A named counter, e.g. the next OID.
    Counter(&'a str),
    /// A catalog object.
    Object(Oid),
    /// How far a source has read one of its splits (a partition, a file).
    SourcePosition { source: Oid, split: &'a str },
    /// What else a source remembers: its lanes' watermarks, its counters.
    SourceState { source: Oid, what: &'a str },
    /// A record of a source that could not be decoded, by its place in its split, and what has become of it.
    SetAside { source: Oid, split: &'a str, position: u64 },
    /// A row of a table or view, keyed as its layout says, or an entry of an index.
    Row { collection: StateId, key: &'a [u8] },
    /// An entry of an operator's state.
    State { state: StateId, key: &'a [u8] },
    /// How many rows a collection holds, and its next sequence number.
    RowCount(StateId),
    /// Of the rows of a collection kept by column.
    Columns { collection: StateId, part: Part<'a> },
    /// A record waiting for its sink.
    Outbox { sink: Oid, epoch: Epoch, seq: u32 },
    /// The last epoch that a sink has delivered.
    SinkProgress(Oid),
    /// What a job (a backfill, a pipeline) remembers.
    Job { oid: Oid, what: &'a str },
}

/// What there is of rows kept by column. Variants stand in the order of their tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part<'a> {
    /// A column of the rows of a block, by the number of its last row; column 0 says how many rows there are.
    Block { last: u64, column: u16 },
    /// What a sheet holds, by the key before which it ends.
    Sheet { to: &'a [u8] },
    /// A column of a sheet; column 0 is the rows' keys.
    SheetColumn { sheet: u64, column: u16 },
    /// What has become of a row since its sheet was made.
    Overlay { key: &'a [u8] },
}

/// Between a split and what follows; no name has it.
const END_OF_SPLIT: u8 = 0;

mod tag {
    pub const FORMAT: u8 = 0x01;
    pub const EPOCH: u8 = 0x02;
    pub const COUNTER: u8 = 0x03;
    pub const OBJECT: u8 = 0x10;
    pub const SOURCE_POSITION: u8 = 0x20;
    pub const SOURCE_STATE: u8 = 0x21;
    pub const SET_ASIDE: u8 = 0x22;
    pub const ROW: u8 = 0x30;
    pub const STATE: u8 = 0x31;
    pub const ROW_COUNT: u8 = 0x32;
    pub const COLUMNS: u8 = 0x33;
    pub const OUTBOX: u8 = 0x40;
    pub const SINK_PROGRESS: u8 = 0x41;
    pub const JOB: u8 = 0x50;
}

/// Of parts of rows kept by column, after the collection.
mod part_tag {
    pub const BLOCK: u8 = 0;
    pub const SHEET: u8 = 1;
    pub const SHEET_COLUMN: u8 = 2;
    pub const OVERLAY: u8 = 3;
}

/// Kinds of keys and their tags, for statistics.
pub(crate) const KINDS: [(&str, u8); 11] = [
    ("objects", tag::OBJECT),
    ("source positions", tag::SOURCE_POSITION),
    ("source state", tag::SOURCE_STATE),
    ("records set aside", tag::SET_ASIDE),
    ("rows", tag::ROW),
    ("rows by column", tag::COLUMNS),
    ("state", tag::STATE),
    ("row counts", tag::ROW_COUNT),
    ("outbox", tag::OUTBOX),
    ("sink progress", tag::SINK_PROGRESS),
    ("jobs", tag::JOB),
];

impl<'a> Key<'a> {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(24);
        self.encode_into(&mut out);
        out
    }

    /// Appends the encoding to `out`.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        match *self {
            Key::Format => out.push(tag::FORMAT),
            Key::Epoch => out.push(tag::EPOCH),
            Key::Counter(name) => put(out, tag::COUNTER, &[], name.as_bytes()),
            Key::Object(oid) => put(out, tag::OBJECT, &oid.to_be_bytes(), &[]),
            Key::SourcePosition { source, split } => {
                put(out, tag::SOURCE_POSITION, &source.to_be_bytes(), split.as_bytes());
            }
            Key::SourceState { source, what } => put(out, tag::SOURCE_STATE, &source.to_be_bytes(), what.as_bytes()),
            Key::SetAside { source, split, position } => {
                put(out, tag::SET_ASIDE, &source.to_be_bytes(), split.as_bytes());
                out.push(END_OF_SPLIT);
                out.extend_from_slice(&position.to_be_bytes());
            }
            Key::Row { collection, key } => put(out, tag::ROW, &collection.0.to_be_bytes(), key),
            Key::Columns { collection, part } => {
                put(out, tag::COLUMNS, &collection.0.to_be_bytes(), &[]);
                part.encode_into(out);
            }
            Key::State { state, key } => put(out, tag::STATE, &state.0.to_be_bytes(), key),
            Key::RowCount(id) => put(out, tag::ROW_COUNT, &id.0.to_be_bytes(), &[]),
            Key::Outbox { sink, epoch, seq } => {
                put(out, tag::OUTBOX, &sink.to_be_bytes(), &epoch.to_be_bytes());
                out.extend_from_slice(&seq.to_be_bytes());
            }
            Key::SinkProgress(sink) => put(out, tag::SINK_PROGRESS, &sink.to_be_bytes(), &[]),
            Key::Job { oid, what } => put(out, tag::JOB, &oid.to_be_bytes(), what.as_bytes()),
        }
    }

    pub fn decode(encoded: &'a [u8]) -> Result<Key<'a>> {
        read(encoded).ok_or_else(|| {
            Error::new(SqlState::DataCorrupted, format!("the store holds a key of no known kind: {encoded:02x?}"))
        })
    }

    /// All catalog objects.
    pub fn objects() -> Span {
        span(vec![tag::OBJECT])
    }

    /// All counters.
    pub fn counters() -> Span {
        span(vec![tag::COUNTER])
    }

    /// The positions of all splits of a source.
    pub fn source_positions(source: Oid) -> Span {
        span(Key::SourcePosition { source, split: "" }.encode())
    }

    pub fn source_states(source: Oid) -> Span {
        span(Key::SourceState { source, what: "" }.encode())
    }

    /// All records of a source that were set aside.
    pub fn set_aside(source: Oid) -> Span {
        span(put_new(tag::SET_ASIDE, &source.to_be_bytes()))
    }

    /// All rows of a collection.
    pub fn rows(collection: StateId) -> Span {
        span(Key::Row { collection, key: &[] }.encode())
    }

    /// All of a collection that is kept by column.
    pub fn columns(collection: StateId) -> Span {
        span(put_new(tag::COLUMNS, &collection.0.to_be_bytes()))
    }

    /// All of all collections of an object that is kept by column.
    pub fn columns_of_object(oid: Oid) -> Span {
        span(put_new(tag::COLUMNS, &oid.to_be_bytes()))
    }

    /// All blocks of a collection.
    pub fn blocks(collection: StateId) -> Span {
        parts(collection, part_tag::BLOCK)
    }

    /// All sheets of a collection.
    pub fn sheets(collection: StateId) -> Span {
        parts(collection, part_tag::SHEET)
    }

    /// What has become of the rows of all sheets of a collection.
    pub fn overlay(collection: StateId) -> Span {
        parts(collection, part_tag::OVERLAY)
    }

    /// All entries of one operator's state.
    pub fn states(state: StateId) -> Span {
        span(Key::State { state, key: &[] }.encode())
    }

    /// All rows of all collections.
    pub(crate) fn all_rows() -> Span {
        span(vec![tag::ROW])
    }

    /// All rows of all collections of an object.
    pub fn rows_of_object(oid: Oid) -> Span {
        span(put_new(tag::ROW, &oid.to_be_bytes()))
    }

    /// The state of all nodes of an object's dataflow.
    pub fn states_of_object(oid: Oid) -> Span {
        span(put_new(tag::STATE, &oid.to_be_bytes()))
    }

    /// The row counts of all collections of an object.
    pub fn row_counts_of_object(oid: Oid) -> Span {
        span(put_new(tag::ROW_COUNT, &oid.to_be_bytes()))
    }

    /// All that waits for a sink.
    pub fn outbox(sink: Oid) -> Span {
        span(put_new(tag::OUTBOX, &sink.to_be_bytes()))
    }

    /// What waits for a sink after `epoch`.
    pub fn outbox_of(sink: Oid, epoch: Epoch) -> Span {
        Key::Outbox { sink, epoch, seq: 0 }.encode()..Self::outbox_after(sink, epoch).start
    }

    pub fn outbox_after(sink: Oid, epoch: Epoch) -> Span {
        let whole = Self::outbox(sink);
        match epoch.checked_add(1) {
            Some(next) => Key::Outbox { sink, epoch: next, seq: 0 }.encode()..whole.end,
            None => whole.end.clone()..whole.end,
        }
    }

    /// What waits for a sink up to and with `epoch`.
    pub fn outbox_through(sink: Oid, epoch: Epoch) -> Span {
        Self::outbox(sink).start..Self::outbox_after(sink, epoch).start
    }

    /// All that the jobs of an object remember.
    pub fn jobs(oid: Oid) -> Span {
        span(put_new(tag::JOB, &oid.to_be_bytes()))
    }

    pub fn all_jobs() -> Span {
        span(vec![tag::JOB])
    }
}

impl<'a> Part<'a> {
    fn encode_into(&self, out: &mut Vec<u8>) {
        match *self {
            Part::Block { last, column } => {
                put(out, part_tag::BLOCK, &last.to_be_bytes(), &column.to_be_bytes());
            }
            Part::Sheet { to } => put(out, part_tag::SHEET, &[], to),
            Part::SheetColumn { sheet, column } => {
                put(out, part_tag::SHEET_COLUMN, &sheet.to_be_bytes(), &column.to_be_bytes());
            }
            Part::Overlay { key } => put(out, part_tag::OVERLAY, &[], key),
        }
    }

    fn read(encoded: &'a [u8]) -> Option<Self> {
        let (&tag, rest) = encoded.split_first()?;
        let of_column = || {
            let (id, column) = rest.split_first_chunk::<8>()?;
            Some((u64::from_be_bytes(*id), u16::from_be_bytes(column.try_into().ok()?)))
        };
        Some(match tag {
            part_tag::BLOCK => of_column().map(|(last, column)| Part::Block { last, column })?,
            part_tag::SHEET => Part::Sheet { to: rest },
            part_tag::SHEET_COLUMN => of_column().map(|(sheet, column)| Part::SheetColumn { sheet, column })?,
            part_tag::OVERLAY => Part::Overlay { key: rest },
            _ => return None,
        })
    }
}

/// The first key after all that start with `prefix`; `None` if there is no such key.
pub fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&b| b != u8::MAX)?;
    let mut next = prefix[..=last].to_vec();
    next[last] += 1;
    Some(next)
}

/// All keys that start with `prefix`, which starts with a tag.
pub(crate) fn span(prefix: Vec<u8>) -> Span {
    let end = successor(&prefix).expect("no tag is 0xff, so every encoded key has a successor");
    prefix..end
}

fn parts(collection: StateId, tag: u8) -> Span {
    let mut prefix = put_new(tag::COLUMNS, &collection.0.to_be_bytes());
    prefix.push(tag);
    span(prefix)
}

fn put(out: &mut Vec<u8>, tag: u8, numbers: &[u8], tail: &[u8]) {
    out.push(tag);
    out.extend_from_slice(numbers);
    out.extend_from_slice(tail);
}

fn put_new(tag: u8, numbers: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + numbers.len());
    put(&mut out, tag, numbers, &[]);
    out
}

/// `None`: not a key of ours.
fn read(encoded: &[u8]) -> Option<Key<'_>> {
    let (&tag, rest) = encoded.split_first()?;
    let key = match tag {
        tag::FORMAT if rest.is_empty() => Key::Format,
        tag::EPOCH if rest.is_empty() => Key::Epoch,
        tag::COUNTER => Key::Counter(str::from_utf8(rest).ok()?),
        tag::OBJECT => Key::Object(u32::from_be_bytes(rest.try_into().ok()?)),
        tag::SOURCE_POSITION => {
            let (source, split) = oid_and_text(rest)?;
            Key::SourcePosition { source, split }
        }
        tag::SOURCE_STATE => {
            let (source, what) = oid_and_text(rest)?;
            Key::SourceState { source, what }
        }
        tag::SET_ASIDE => {
            let (rest, position) = rest.split_last_chunk::<8>()?;
            let (source, split) = oid_and_text(rest.strip_suffix(&[END_OF_SPLIT])?)?;
            Key::SetAside { source, split, position: u64::from_be_bytes(*position) }
        }
        tag::ROW => {
            let (id, key) = rest.split_first_chunk::<8>()?;
            Key::Row { collection: StateId(u64::from_be_bytes(*id)), key }
        }
        tag::COLUMNS => {
            let (id, rest) = rest.split_first_chunk::<8>()?;
            Key::Columns { collection: StateId(u64::from_be_bytes(*id)), part: Part::read(rest)? }
        }
        tag::STATE => {
            let (id, key) = rest.split_first_chunk::<8>()?;
            Key::State { state: StateId(u64::from_be_bytes(*id)), key }
        }
        tag::ROW_COUNT => Key::RowCount(StateId(u64::from_be_bytes(rest.try_into().ok()?))),
        tag::OUTBOX => {
            let (sink, rest) = rest.split_first_chunk::<4>()?;
            let (epoch, seq) = rest.split_first_chunk::<8>()?;
            Key::Outbox {
                sink: u32::from_be_bytes(*sink),
                epoch: u64::from_be_bytes(*epoch),
                seq: u32::from_be_bytes(seq.try_into().ok()?),
            }
        }
        tag::SINK_PROGRESS => Key::SinkProgress(u32::from_be_bytes(rest.try_into().ok()?)),
        tag::JOB => {
            let (oid, what) = oid_and_text(rest)?;
            Key::Job { oid, what }
        }
        _ => return None,
    };
    Some(key)
}

fn oid_and_text(rest: &[u8]) -> Option<(Oid, &str)> {
    let (oid, text) = rest.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*oid), str::from_utf8(text).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    #[test]
    fn bytes_are_pinned() {
        let id = StateId::new(16384, 3);
        let keys = [
            Key::Format,
            Key::Epoch,
            Key::Counter("oid"),
            Key::Object(16384),
            Key::SourcePosition { source: 16384, split: "p0" },
            Key::SourceState { source: 16384, what: "wm" },
            Key::SetAside { source: 16384, split: "p0", position: 258 },
            Key::Row { collection: id, key: &[1, 255] },
            Key::State { state: id, key: &[] },
            Key::RowCount(id),
            Key::Columns { collection: id, part: Part::Block { last: 258, column: 2 } },
            Key::Columns { collection: id, part: Part::Sheet { to: &[1, 255] } },
            Key::Columns { collection: id, part: Part::SheetColumn { sheet: 7, column: 2 } },
            Key::Columns { collection: id, part: Part::Overlay { key: &[1, 255] } },
            Key::Outbox { sink: 16385, epoch: 258, seq: 7 },
            Key::SinkProgress(16385),
            Key::Job { oid: 16386, what: "backfill" },
        ];
        let mut text = String::new();
        for key in keys {
            let hex: String = key.encode().iter().map(|b| format!("{b:02x}")).collect();
            text.push_str(&format!("{hex}  {key:?}\n"));
        }
        expect![[r#"
            01  Format
            02  Epoch
            036f6964  Counter("oid")
            1000004000  Object(16384)
            20000040007030  SourcePosition { source: 16384, split: "p0" }
            2100004000776d  SourceState { source: 16384, what: "wm" }
            22000040007030000000000000000102  SetAside { source: 16384, split: "p0", position: 258 }
            30000040000000000301ff  Row { collection: StateId(70368744177667), key: [1, 255] }
            310000400000000003  State { state: StateId(70368744177667), key: [] }
            320000400000000003  RowCount(StateId(70368744177667))
            3300004000000000030000000000000001020002  Columns { collection: StateId(70368744177667), part: Block { last: 258, column: 2 } }
            3300004000000000030101ff  Columns { collection: StateId(70368744177667), part: Sheet { to: [1, 255] } }
            3300004000000000030200000000000000070002  Columns { collection: StateId(70368744177667), part: SheetColumn { sheet: 7, column: 2 } }
            3300004000000000030301ff  Columns { collection: StateId(70368744177667), part: Overlay { key: [1, 255] } }
            4000004001000000000000010200000007  Outbox { sink: 16385, epoch: 258, seq: 7 }
            4100004001  SinkProgress(16385)
            50000040026261636b66696c6c  Job { oid: 16386, what: "backfill" }
        "#]]
        .assert_eq(&text);
    }

    fn random_key<'a>(rng: &mut StdRng, texts: &'a [String], tails: &'a [Vec<u8>]) -> Key<'a> {
        let oid = *[0, 1, 255, 256, 16384, u32::MAX].get(rng.random_range(0..6)).unwrap();
        let text = &texts[rng.random_range(0..texts.len())];
        let tail = &tails[rng.random_range(0..tails.len())];
        let id = StateId::new(oid, rng.random_range(0..3));
        match rng.random_range(0..14) {
            0 => Key::Format,
            1 => Key::Epoch,
            2 => Key::Counter(text),
            3 => Key::Object(oid),
            4 => Key::SourcePosition { source: oid, split: text },
            5 => Key::SourceState { source: oid, what: text },
            6 => Key::Row { collection: id, key: tail },
            7 => Key::State { state: id, key: tail },
            8 => Key::RowCount(id),
            9 => Key::Outbox { sink: oid, epoch: rng.random_range(0..400), seq: rng.random_range(0..400) },
            10 => Key::SinkProgress(oid),
            11 => Key::SetAside { source: oid, split: text, position: rng.random_range(0..400) },
            12 => Key::Columns { collection: id, part: random_part(rng, tail) },
            _ => Key::Job { oid, what: text },
        }
    }

    fn random_part<'a>(rng: &mut StdRng, tail: &'a [u8]) -> Part<'a> {
        let (number, column) = (rng.random_range(0..400), rng.random_range(0..300));
        match rng.random_range(0..4) {
            0 => Part::Block { last: number, column },
            1 => Part::Sheet { to: tail },
            2 => Part::SheetColumn { sheet: number, column },
            _ => Part::Overlay { key: tail },
        }
    }

    #[test]
    fn encodings_order_as_values_and_decode_back() {
        let mut rng = StdRng::seed_from_u64(1);
        let texts: Vec<String> = ["", "a", "ab", "b", "é", "\u{ffff}"].map(String::from).to_vec();
        let tails: Vec<Vec<u8>> =
            (0..40).map(|_| (0..rng.random_range(0..5)).map(|_| rng.random_range(0..=255u8)).collect()).collect();
        let keys: Vec<Key> = (0..700).map(|_| random_key(&mut rng, &texts, &tails)).collect();
        for a in &keys {
            let encoded = a.encode();
            assert_eq!(Key::decode(&encoded).unwrap(), *a);
            for b in &keys {
                assert_eq!(encoded.cmp(&b.encode()), a.cmp(b), "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn foreign_bytes_are_an_error() {
        for bytes in [&b""[..], &[0], &[0x10, 1], &[0x40, 0, 0, 0, 1, 2], &[0x01, 0], &[0x03, 0xff]] {
            assert_eq!(Key::decode(bytes).unwrap_err().state(), SqlState::DataCorrupted, "{bytes:?}");
        }
    }

    #[test]
    fn spans_hold_theirs_and_nothing_else() {
        let id = StateId::new(u32::MAX, u32::MAX);
        let rows = Key::rows(id);
        assert!(rows.contains(&Key::Row { collection: id, key: &[255; 9] }.encode()));
        assert!(!rows.contains(&Key::State { state: StateId(0), key: &[] }.encode()));
        let done = Key::outbox_through(9, 5);
        assert!(done.contains(&Key::Outbox { sink: 9, epoch: 5, seq: u32::MAX }.encode()));
        assert!(!done.contains(&Key::Outbox { sink: 9, epoch: 6, seq: 0 }.encode()));
        assert!(Key::outbox_after(9, 5).contains(&Key::Outbox { sink: 9, epoch: 6, seq: 0 }.encode()));
        assert!(Key::outbox_after(9, u64::MAX).is_empty());
        assert!(Key::outbox_through(9, u64::MAX).contains(&Key::Outbox { sink: 9, epoch: u64::MAX, seq: 1 }.encode()));
        assert!(Key::states_of_object(7).contains(&Key::State { state: StateId::new(7, 9), key: &[1] }.encode()));
        assert_eq!(successor(&[1, 255, 255]), Some(vec![2]));
        assert_eq!(successor(&[255]), None);
        assert_eq!((StateId::new(7, 9).oid(), StateId::new(7, 9).node()), (7, 9));
    }
}
