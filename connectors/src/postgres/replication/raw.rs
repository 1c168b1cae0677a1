//! The fields of a message, one after the other. What is not all there is an error, never a panic.

use tidemark_common::{Error, Result, SqlState};

#[derive(Debug, Clone, Copy)]
pub struct Raw<'a>(&'a [u8]);

impl<'a> Raw<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let Some((taken, rest)) = self.0.split_at_checked(length) else { return Err(malformed("it ends early")) };
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let taken = self.take(N)?;
        taken.try_into().map_err(|_| malformed("it ends early"))
    }

    pub fn u8(&mut self) -> Result<u8> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    /// A count of fields.
    pub fn count(&mut self) -> Result<usize> {
        Ok(usize::from(u16::from_be_bytes(self.array()?)))
    }

    pub fn i32(&mut self) -> Result<i32> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// Bytes with their length before them; `None` if it is -1.
    pub fn sized(&mut self) -> Result<Option<&'a [u8]>> {
        match self.i32()? {
            -1 => Ok(None),
            length => {
                let length = usize::try_from(length).map_err(|_| malformed("a length is negative"))?;
                self.take(length).map(Some)
            }
        }
    }

    /// Text that ends with a zero byte.
    pub fn text(&mut self) -> Result<&'a str> {
        let end = self.0.iter().position(|b| *b == 0).ok_or_else(|| malformed("a text has no end"))?;
        let text = self.take(end)?;
        self.take(1)?;
        std::str::from_utf8(text).map_err(|_| malformed("a text is not UTF-8"))
    }

    pub fn rest(self) -> &'a [u8] {
        self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// That nothing is left.
    pub fn finish(self) -> Result<()> {
        if self.is_empty() { Ok(()) } else { Err(malformed("there are bytes behind its end")) }
    }
}

pub fn malformed(why: impl std::fmt::Display) -> Error {
    Error::new(SqlState::ProtocolViolation, format!("a message of the server cannot be read: {why}"))
}
