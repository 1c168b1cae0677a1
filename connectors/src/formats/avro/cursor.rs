//! The bytes of a record, as far as they have been read.

use tidemark_common::{Error, Result, SqlState};

use super::schema::{Id, Leaf, Node, Schema};
use crate::formats::varint;

/// Items that take no byte (of arrays of null): a few bytes could stand for billions of them.
const MOST_WITHOUT_BYTES: usize = 1 << 16;
/// Values that are within each other and passed over.
const DEEPEST: usize = 100;

pub(super) struct Cursor<'a> {
    rest: &'a [u8],
    without_bytes: usize,
    depth: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(record: &'a [u8]) -> Self {
        Self { rest: record, without_bytes: 0, depth: 0 }
    }

    /// Refuses bytes that belong to no value.
    pub fn end(&self) -> Result<()> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(damaged(&format!("{left} bytes are left over"))),
        }
    }

    pub fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        match self.rest.split_at_checked(length) {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(taken)
            }
            None => Err(damaged("it ends within a value")),
        }
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("so many were taken"))
    }

    pub fn long(&mut self) -> Result<i64> {
        let read = varint::read(|| self.array().map(|[byte]| byte))?;
        read.map(varint::unzigzag).ok_or_else(|| damaged("a number has more than 64 bits"))
    }

    pub fn int(&mut self) -> Result<i32> {
        i32::try_from(self.long()?).map_err(|_| damaged("an int has more than 32 bits"))
    }

    pub fn boolean(&mut self) -> Result<bool> {
        match self.array()? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(damaged(&format!("{other} is no boolean"))),
        }
    }

    pub fn bytes(&mut self) -> Result<&'a [u8]> {
        let length = self.long()?;
        self.take(usize::try_from(length).map_err(|_| damaged("a length is negative"))?)
    }

    pub fn text(&mut self) -> Result<&'a str> {
        std::str::from_utf8(self.bytes()?).map_err(|_| crate::formats::text::not_utf8())
    }

    /// Which of `many` it is.
    pub fn choice(&mut self, many: usize, what: &str) -> Result<usize> {
        let choice = self.long()?;
        let known = usize::try_from(choice).ok().filter(|choice| *choice < many);
        known.ok_or_else(|| damaged(&format!("{choice} is none of the {many} {what}")))
    }

    /// How many items come next, and their bytes if that is said; `None` at the end.
    fn block(&mut self) -> Result<Option<(u64, Option<usize>)>> {
        Ok(match self.long()? {
            0 => None,
            count @ 1.. => Some((count as u64, None)),
            count => {
                let size = usize::try_from(self.long()?).map_err(|_| damaged("the size of a block is negative"))?;
                Some((count.unsigned_abs(), Some(size)))
            }
        })
    }

    /// The items of an array or map.
    pub fn items(&mut self, item: impl FnMut(&mut Self) -> Result<()>) -> Result<()> {
        self.each(false, item)
    }

    /// `by_size`: blocks that say their size are passed over as a whole.
    fn each(&mut self, by_size: bool, mut item: impl FnMut(&mut Self) -> Result<()>) -> Result<()> {
        while let Some((count, size)) = self.block()? {
            if let Some(size) = size.filter(|_| by_size) {
                self.take(size)?;
                continue;
            }
            for _ in 0..count {
                let before = self.rest.len();
                item(self)?;
                if self.rest.len() == before {
                    self.spend()?;
                }
            }
        }
        Ok(())
    }

    fn spend(&mut self) -> Result<()> {
        self.without_bytes += 1;
        match self.without_bytes <= MOST_WITHOUT_BYTES {
            true => Ok(()),
            false => Err(damaged(&format!("more than {MOST_WITHOUT_BYTES} items have no bytes"))),
        }
    }

    /// Passes over a value.
    pub fn skip(&mut self, schema: &Schema, id: Id) -> Result<()> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(damaged(&format!("more than {DEEPEST} values are within each other")));
        }
        match schema.node(id) {
            Node::Null => {}
            Node::Leaf(leaf) => self.skip_leaf(*leaf)?,
            Node::Enum(_) => self.long().map(drop)?,
            Node::Array(items) => self.each(true, |cursor| cursor.skip(schema, *items))?,
            Node::Map(values) => self.each(true, |cursor| {
                cursor.bytes()?;
                cursor.skip(schema, *values)
            })?,
            Node::Union(branches) => {
                let branch = self.choice(branches.len(), "types of the union")?;
                self.skip(schema, branches[branch])?;
            }
            Node::Record(record) => {
                for field in &record.fields {
                    self.skip(schema, field.node)?;
                }
            }
        }
        self.depth -= 1;
        Ok(())
    }

    fn skip_leaf(&mut self, leaf: Leaf) -> Result<()> {
        match leaf {
            Leaf::Boolean => self.boolean().map(drop),
            Leaf::Int | Leaf::Long | Leaf::Date | Leaf::Time(_) | Leaf::Timestamp { .. } => self.long().map(drop),
            Leaf::Float => self.take(4).map(drop),
            Leaf::Double => self.take(8).map(drop),
            Leaf::Bytes | Leaf::String | Leaf::UuidText | Leaf::Decimal { size: None, .. } => self.bytes().map(drop),
            Leaf::Fixed(size) | Leaf::Decimal { size: Some(size), .. } => self.take(size).map(drop),
            Leaf::UuidFixed => self.take(16).map(drop),
            Leaf::Duration => self.take(12).map(drop),
        }
    }
}

pub(super) fn damaged(what: &str) -> Error {
    Error::new(SqlState::InvalidBinaryRepresentation, format!("invalid Avro record: {what}"))
}
