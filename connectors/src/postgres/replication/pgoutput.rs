//! The messages of `pgoutput`, version 1 of its protocol: what the log says of a table, one message a row.
//!
//! ```text
//!   Begin (commit at 0/B) ─▶ Relation (columns; before its first row, and when it has changed) ─▶ Insert, Update, .. ─▶ Commit
//! ```
//!
//! Values are text. An update says the old key if the key has changed, or the whole old row under REPLICA IDENTITY FULL.

use tidemark_common::Result;

use super::lsn::Lsn;
use super::raw::{Raw, malformed};

#[derive(Debug, Clone, PartialEq)]
pub enum Message<'a> {
    /// `commit`: where the record of its commit begins.
    Begin {
        commit: Lsn,
    },
    /// `end`: the next transaction's lies there or behind.
    Commit {
        commit: Lsn,
        end: Lsn,
    },
    Relation(Relation<'a>),
    Insert {
        relation: u32,
        new: Tuple<'a>,
    },
    Update {
        relation: u32,
        old: Option<Old<'a>>,
        new: Tuple<'a>,
    },
    Delete {
        relation: u32,
        old: Old<'a>,
    },
    Truncate {
        relations: Vec<u32>,
    },
    /// A type's name, an origin, a message: nothing for a table's rows.
    Aside,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Relation<'a> {
    pub oid: u32,
    pub schema: &'a str,
    pub name: &'a str,
    pub identity: u8,
    pub columns: Vec<RelationColumn<'a>>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct RelationColumn<'a> {
    pub name: &'a str,
    /// Among those by which an old row is told.
    pub is_key: bool,
    pub type_oid: u32,
    pub typmod: i32,
}

/// What is told of a row as it was.
#[derive(Debug, Clone, PartialEq)]
pub struct Old<'a> {
    /// All of it; otherwise the other columns than those of the key are NULL here.
    pub is_whole: bool,
    pub values: Tuple<'a>,
}

pub type Tuple<'a> = Vec<Value<'a>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    Null,
    /// As it was: kept out of line, and so not repeated.
    Unchanged,
    Text(&'a [u8]),
}

impl<'a> Message<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        let mut raw = Raw::new(bytes);
        let tag = raw.u8()?;
        let message = match tag {
            b'B' => {
                let commit = Lsn(raw.u64()?);
                // The time, and the transaction's number.
                raw.take(8 + 4)?;
                Message::Begin { commit }
            }
            b'C' => {
                raw.u8()?;
                let (commit, end) = (Lsn(raw.u64()?), Lsn(raw.u64()?));
                raw.take(8)?;
                Message::Commit { commit, end }
            }
            b'R' => Message::Relation(relation(&mut raw)?),
            b'I' => {
                let relation = raw.u32()?;
                expect(raw.u8()?, b'N')?;
                Message::Insert { relation, new: tuple(&mut raw)? }
            }
            b'U' => update(&mut raw)?,
            b'D' => {
                let (relation, kind) = (raw.u32()?, raw.u8()?);
                Message::Delete { relation, old: old(kind, &mut raw)? }
            }
            b'T' => {
                let count = raw.u32()?;
                raw.u8()?;
                Message::Truncate { relations: (0..count).map(|_| raw.u32()).collect::<Result<_>>()? }
            }
            b'Y' | b'O' | b'M' => return Ok(Message::Aside),
            other => return Err(malformed(format_args!("there is no message {:?}", char::from(other)))),
        };
        raw.finish()?;
        Ok(message)
    }
}

fn update<'a>(raw: &mut Raw<'a>) -> Result<Message<'a>> {
    let relation = raw.u32()?;
    let old = match raw.u8()? {
        b'N' => None,
        kind => {
            let old = old(kind, raw)?;
            expect(raw.u8()?, b'N')?;
            Some(old)
        }
    };
    Ok(Message::Update { relation, old, new: tuple(raw)? })
}

fn old<'a>(kind: u8, raw: &mut Raw<'a>) -> Result<Old<'a>> {
    match kind {
        b'K' | b'O' => Ok(Old { is_whole: kind == b'O', values: tuple(raw)? }),
        other => Err(unexpected(other)),
    }
}

fn relation<'a>(raw: &mut Raw<'a>) -> Result<Relation<'a>> {
    let oid = raw.u32()?;
    // An empty one is pg_catalog.
    let (schema, name, identity) = (raw.text()?, raw.text()?, raw.u8()?);
    let count = raw.count()?;
    let column = |_| {
        let is_key = raw.u8()? & 1 == 1;
        Ok(RelationColumn { name: raw.text()?, is_key, type_oid: raw.u32()?, typmod: raw.i32()? })
    };
    let columns = (0..count).map(column).collect::<Result<_>>()?;
    Ok(Relation { oid, schema, name, identity, columns })
}

fn tuple<'a>(raw: &mut Raw<'a>) -> Result<Tuple<'a>> {
    let count = raw.count()?;
    let mut values = Vec::with_capacity(count.min(raw.rest().len()));
    for _ in 0..count {
        values.push(match raw.u8()? {
            b'n' => Value::Null,
            b'u' => Value::Unchanged,
            b't' => Value::Text(raw.sized()?.ok_or_else(|| malformed("a value has no length"))?),
            other => return Err(unexpected(other)),
        });
    }
    Ok(values)
}

fn expect(found: u8, wanted: u8) -> Result<()> {
    if found == wanted { Ok(()) } else { Err(unexpected(found)) }
}

fn unexpected(found: u8) -> tidemark_common::Error {
    malformed(format_args!("{:?} cannot stand there", char::from(found)))
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    const BEGIN: &[u8] = b"B\0\0\0\0\x01\x6b\x37\x48\0\x02\xca\x11\x22\x33\x44\x55\0\0\x02\xe8";
    const COMMIT: &[u8] = b"C\0\0\0\0\0\x01\x6b\x37\x48\0\0\0\0\x01\x6b\x37\x78\0\x02\xca\x11\x22\x33\x44\x55";
    const RELATION: &[u8] =
        b"R\0\0\x40\x01public\0orders\0d\0\x02\x01id\0\0\0\0\x14\xff\xff\xff\xff\0note\0\0\0\0\x19\xff\xff\xff\xff";
    const INSERT: &[u8] = b"I\0\0\x40\x01N\0\x02t\0\0\0\x0212n";
    const UPDATE: &[u8] = b"U\0\0\x40\x01N\0\x02t\0\0\0\x0212u";
    const MOVE: &[u8] = b"U\0\0\x40\x01K\0\x02t\0\0\0\x0212nN\0\x02t\0\0\0\x0213t\0\0\0\0";
    const DELETE: &[u8] = b"D\0\0\x40\x01O\0\x02t\0\0\0\x0213t\0\0\0\x02ab";
    const TRUNCATE: &[u8] = b"T\0\0\0\x02\x01\0\0\x40\x01\0\0\x40\x02";
    const TYPE: &[u8] = b"Y\0\0\x40\x09public\0mood\0";
    const ALL: [&[u8]; 9] = [BEGIN, COMMIT, RELATION, INSERT, UPDATE, MOVE, DELETE, TRUNCATE, TYPE];

    fn parsed(bytes: &[u8]) -> Message<'_> {
        Message::parse(bytes).unwrap()
    }

    #[test]
    fn messages_are_read() {
        let (commit, end, relation) = (Lsn(0x16B_3748), Lsn(0x16B_3778), 0x4001);
        assert_eq!(parsed(BEGIN), Message::Begin { commit });
        assert_eq!(parsed(COMMIT), Message::Commit { commit, end });
        let column = |name, is_key, type_oid| RelationColumn { name, is_key, type_oid, typmod: -1 };
        let columns = vec![column("id", true, 20), column("note", false, 25)];
        let said = Relation { oid: relation, schema: "public", name: "orders", identity: b'd', columns };
        assert_eq!(parsed(RELATION), Message::Relation(said));
        let text = |text: &'static str| Value::Text(text.as_bytes());
        assert_eq!(parsed(INSERT), Message::Insert { relation, new: vec![text("12"), Value::Null] });
        assert_eq!(parsed(UPDATE), Message::Update { relation, old: None, new: vec![text("12"), Value::Unchanged] });
        let old = Some(Old { is_whole: false, values: vec![text("12"), Value::Null] });
        assert_eq!(parsed(MOVE), Message::Update { relation, old, new: vec![text("13"), text("")] });
        let old = Old { is_whole: true, values: vec![text("13"), text("ab")] };
        assert_eq!(parsed(DELETE), Message::Delete { relation, old });
        assert_eq!(parsed(TRUNCATE), Message::Truncate { relations: vec![relation, relation + 1] });
        assert_eq!(parsed(TYPE), Message::Aside);
        assert_eq!(parsed(b"O\0\0\0\0\0\0\0\x01origin\0"), Message::Aside);
    }

    #[test]
    fn what_is_cut_short_or_too_long_is_an_error() {
        for message in ALL.iter().filter(|m| m[0] != b'Y') {
            for length in 0..message.len() {
                assert_eq!(Message::parse(&message[..length]).unwrap_err().code(), "08P01", "{message:?} to {length}");
            }
            assert_eq!(Message::parse(&[message, &b"x"[..]].concat()).unwrap_err().code(), "08P01");
        }
        for wrong in [
            &b""[..],
            b"Z",
            b"S\0",
            b"I\0\0\0\x01K\0\0",
            b"I\0\0\0\x01N\0\x01b\0\0\0\0",
            b"I\0\0\0\x01N\0\x01t\xff\xff\xff\xff",
        ] {
            assert_eq!(Message::parse(wrong).unwrap_err().code(), "08P01", "{wrong:?}");
        }
    }

    /// Counts that promise more than there is take neither memory nor time.
    #[test]
    fn arbitrary_bytes_are_an_error_at_worst() {
        assert!(Message::parse(b"T\xff\xff\xff\xff\0\0\0\0\x01").is_err());
        assert!(Message::parse(b"I\0\0\0\x01N\xff\xff").is_err());
        let mut rng = SmallRng::seed_from_u64(7);
        for round in 0..200_000 {
            let mut bytes = ALL[round % ALL.len()].to_vec();
            for _ in 0..rng.gen_range(1..6) {
                let at = rng.gen_range(0..bytes.len());
                match rng.gen_range(0..3) {
                    0 => bytes[at] = rng.r#gen(),
                    1 => bytes.truncate(at.max(1)),
                    _ => bytes.insert(at, rng.r#gen()),
                }
            }
            let _read_or_refused = Message::parse(&bytes);
        }
    }
}
