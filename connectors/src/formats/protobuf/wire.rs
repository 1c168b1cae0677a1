//! The wire format of Protobuf: numbered fields, each with how its value is written.

use tidemark_common::{Error, Result, SqlState};

use crate::formats::varint;

/// Groups within groups.
const DEEPEST: usize = 100;

/// A value as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Raw<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
    Group(&'a [u8]),
}

#[derive(Debug, Clone)]
pub(super) struct Wire<'a>(pub &'a [u8]);

impl<'a> Wire<'a> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next field's number, and its value.
    pub fn field(&mut self) -> Result<(u32, Raw<'a>)> {
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).ok().filter(|number| (1..1 << 29).contains(number));
        let number = number.ok_or_else(|| damaged(&format!("{} is no number of a field", tag >> 3)))?;
        Ok((number, self.value(tag & 7, number, 0)?))
    }

    fn value(&mut self, form: u64, number: u32, depth: usize) -> Result<Raw<'a>> {
        Ok(match form {
            0 => Raw::Varint(self.varint()?),
            1 => Raw::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| cut_off())?;
                Raw::Bytes(self.take(length)?)
            }
            3 => Raw::Group(self.group(number, depth)?),
            5 => Raw::Fixed32(u32::from_le_bytes(self.array()?)),
            other => return Err(damaged(&format!("field {number} is written in an unknown form ({other})"))),
        })
    }

    /// All up to the end of the group that has begun.
    fn group(&mut self, number: u32, depth: usize) -> Result<&'a [u8]> {
        if depth >= DEEPEST {
            return Err(damaged(&format!("more than {DEEPEST} groups are within each other")));
        }
        let whole = self.0;
        loop {
            let before = self.0.len();
            let tag = self.varint()?;
            match (tag & 7, u32::try_from(tag >> 3)) {
                (4, Ok(ends)) if ends == number => return Ok(&whole[..whole.len() - before]),
                (4, _) => return Err(damaged("a group ends that has not begun")),
                (form, Ok(inner)) => self.value(form, inner, depth + 1).map(drop)?,
                (_, Err(_)) => return Err(damaged("the number of a field is too large")),
            }
        }
    }

    pub fn varint(&mut self) -> Result<u64> {
        let read = varint::read(|| self.array().map(|[byte]| byte))?;
        read.ok_or_else(|| damaged("a number has more than 64 bits"))
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("so many were taken"))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or_else(cut_off)?;
        self.0 = rest;
        Ok(taken)
    }
}

fn cut_off() -> Error {
    damaged("it ends within a value")
}

pub(super) fn damaged(what: &str) -> Error {
    Error::new(SqlState::InvalidBinaryRepresentation, format!("invalid Protobuf record: {what}"))
}
