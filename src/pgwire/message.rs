//! Messages from clients: framing with limits, bodies with every read checked.

use std::collections::BTreeMap;

use bytes::{Buf, Bytes, BytesMut};
use tidemark_common::{Error, Result, SqlState};

/// Longest message of a session: a statement, a set of parameters, a piece of COPY data.
pub(super) const MAX_MESSAGE_BYTES: usize = 256 << 20;
/// Longest message before the client has proved who it is.
pub(super) const MAX_STARTUP_BYTES: usize = 10_000;

const SSL_REQUEST: i32 = 80_877_103;
const GSS_REQUEST: i32 = 80_877_104;
const CANCEL_REQUEST: i32 = 80_877_102;

/// The first messages of a connection, which have no type byte.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Opening {
    Ssl,
    Gss,
    Cancel { pid: i32, secret: i32 },
    Startup { minor: u16, parameters: BTreeMap<String, String> },
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frontend {
    Query(String),
    Parse {
        name: String,
        query: String,
        types: Vec<u32>,
    },
    Bind(Bind),
    Describe(Target),
    Execute {
        portal: String,
        max_rows: i32,
    },
    Close(Target),
    Flush,
    Sync,
    Terminate,
    CopyData(Bytes),
    CopyDone,
    CopyFail(String),
    /// Password, SASLInitialResponse or SASLResponse: only the state of the exchange tells which.
    Password(Bytes),
    FunctionCall,
    /// The frame was whole, its body was not.
    Malformed {
        extended: bool,
        message: String,
    },
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Bind {
    pub portal: String,
    pub statement: String,
    pub parameter_formats: Vec<i16>,
    pub parameters: Vec<Option<Bytes>>,
    pub result_formats: Vec<i16>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target {
    Statement(String),
    Portal(String),
}

/// Takes the next opening message off the front; `None` until it is whole.
pub(super) fn take_opening(input: &mut BytesMut) -> Result<Option<Opening>> {
    let Some(length) = peek_length(input, 0, MAX_STARTUP_BYTES, 8)? else {
        return Ok(None);
    };
    if input.len() < length {
        return Ok(None);
    }
    let mut body = Body(input.split_to(length).freeze());
    body.0.advance(4);
    let code = body.i32()?;
    match code {
        SSL_REQUEST => Ok(Some(Opening::Ssl)),
        GSS_REQUEST => Ok(Some(Opening::Gss)),
        CANCEL_REQUEST => Ok(Some(Opening::Cancel { pid: body.i32()?, secret: body.i32()? })),
        _ if code >> 16 == 3 => {
            Ok(Some(Opening::Startup { minor: code as u16, parameters: startup_parameters(body)? }))
        }
        _ => Err(Error::new(
            SqlState::FeatureNotSupported,
            format!("unsupported frontend protocol {}.{}: server supports 3.0", code >> 16, code as u16),
        )),
    }
}

fn startup_parameters(mut body: Body) -> Result<BTreeMap<String, String>> {
    let mut parameters = BTreeMap::new();
    loop {
        let name = body.string()?;
        if name.is_empty() {
            return Ok(parameters);
        }
        parameters.insert(name, body.string()?);
    }
}

/// Length of the message at the front, with `offset` bytes before the length field, once that field is there.
fn peek_length(input: &[u8], offset: usize, most: usize, least: usize) -> Result<Option<usize>> {
    let Some(field) = input.get(offset..offset + 4) else {
        return Ok(None);
    };
    let length = i32::from_be_bytes(field.try_into().expect("four bytes were taken"));
    match usize::try_from(length) {
        Ok(length) if (least..=most).contains(&length) => Ok(Some(length)),
        _ => Err(Error::new(SqlState::ProtocolViolation, format!("invalid message length {length}"))
            .with_detail(format!("Messages are at least {least} and at most {most} bytes long."))),
    }
}

/// Takes the next message off the front; `None` until it is whole. An error means that the stream has lost its framing.
pub(super) fn take_message(input: &mut BytesMut, most: usize) -> Result<Option<Frontend>> {
    let Some(kind) = input.first().copied() else {
        return Ok(None);
    };
    if !b"QPBDECHSXdcfpF".contains(&kind) {
        return Err(Error::new(SqlState::ProtocolViolation, format!("invalid frontend message type {kind}")));
    }
    let Some(length) = peek_length(input, 1, most, 4)? else {
        return Ok(None);
    };
    if input.len() < length + 1 {
        return Ok(None);
    }
    let mut body = Body(input.split_to(length + 1).freeze());
    body.0.advance(5);
    Ok(Some(decode(kind, body).unwrap_or_else(|error| Frontend::Malformed {
        extended: b"PBDECH".contains(&kind),
        message: error.message().to_string(),
    })))
}

fn decode(kind: u8, mut body: Body) -> Result<Frontend> {
    let message = match kind {
        b'Q' => Frontend::Query(body.string()?),
        b'P' => Frontend::Parse { name: body.string()?, query: body.string()?, types: body.list(|b| b.u32())? },
        b'B' => Frontend::Bind(Bind {
            portal: body.string()?,
            statement: body.string()?,
            parameter_formats: body.list(|b| b.i16())?,
            parameters: body.list(|b| b.value())?,
            result_formats: body.list(|b| b.i16())?,
        }),
        b'D' => Frontend::Describe(body.target()?),
        b'C' => Frontend::Close(body.target()?),
        b'E' => Frontend::Execute { portal: body.string()?, max_rows: body.i32()? },
        b'H' => Frontend::Flush,
        b'S' => Frontend::Sync,
        b'X' => Frontend::Terminate,
        b'd' => return Ok(Frontend::CopyData(body.0)),
        b'p' => return Ok(Frontend::Password(body.0)),
        b'c' => Frontend::CopyDone,
        b'f' => Frontend::CopyFail(body.string()?),
        _ => return Ok(Frontend::FunctionCall),
    };
    if body.0.is_empty() { Ok(message) } else { Err(malformed("invalid message format")) }
}

fn malformed(message: &str) -> Error {
    Error::new(SqlState::ProtocolViolation, message)
}

/// The body of a message, read from the left.
pub(super) struct Body(pub Bytes);

impl Body {
    fn take(&mut self, count: usize) -> Result<Bytes> {
        if count > self.0.len() {
            return Err(malformed("insufficient data left in message"));
        }
        Ok(self.0.split_to(count))
    }

    fn i16(&mut self) -> Result<i16> {
        Ok(self.take(2)?.get_i16())
    }

    fn i32(&mut self) -> Result<i32> {
        Ok(self.take(4)?.get_i32())
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(self.take(4)?.get_u32())
    }

    /// Up to a zero byte.
    pub fn string(&mut self) -> Result<String> {
        let end = self.0.iter().position(|b| *b == 0).ok_or_else(|| malformed("invalid string in message"))?;
        let bytes = self.take(end + 1)?;
        match std::str::from_utf8(&bytes[..end]) {
            Ok(text) => Ok(text.to_string()),
            Err(_) => Err(malformed("invalid byte sequence for encoding \"UTF8\"")),
        }
    }

    /// Length and bytes; -1 is null.
    pub fn value(&mut self) -> Result<Option<Bytes>> {
        match self.i32()? {
            -1 => Ok(None),
            length => match usize::try_from(length) {
                Ok(length) => Ok(Some(self.take(length)?)),
                Err(_) => Err(malformed("invalid length of a value")),
            },
        }
    }

    fn list<T>(&mut self, mut item: impl FnMut(&mut Body) -> Result<T>) -> Result<Vec<T>> {
        let count = self.i16()? as u16;
        // The count is the client's claim: items are read before room is made for them.
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(item(self)?);
        }
        Ok(items)
    }

    fn target(&mut self) -> Result<Target> {
        let kind = self.take(1)?[0];
        let name = self.string()?;
        match kind {
            b'S' => Ok(Target::Statement(name)),
            b'P' => Ok(Target::Portal(name)),
            _ => Err(malformed("invalid kind of object in message")),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BufMut;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn framed(kind: u8, body: &[u8]) -> BytesMut {
        let mut out = BytesMut::new();
        out.put_u8(kind);
        out.put_i32(body.len() as i32 + 4);
        out.put_slice(body);
        out
    }

    fn all_messages() -> BytesMut {
        let mut all = framed(b'Q', b"select 1\0");
        all.unsplit(framed(b'P', b"s\0select $1\0\0\x02\0\0\0\x17\0\0\0\0"));
        all.unsplit(framed(b'B', b"\0s\0\0\x01\0\x01\0\x02\0\0\0\x01x\xff\xff\xff\xff\0\x00"));
        all.unsplit(framed(b'D', b"Ss\0"));
        all.unsplit(framed(b'E', b"\0\0\0\0\x05"));
        all.unsplit(framed(b'C', b"Pp\0"));
        all.unsplit(framed(b'H', b""));
        all.unsplit(framed(b'd', b"1\t2\n"));
        all.unsplit(framed(b'c', b""));
        all.unsplit(framed(b'f', b"no more\0"));
        all.unsplit(framed(b'p', b"secret\0"));
        all.unsplit(framed(b'S', b""));
        all.unsplit(framed(b'X', b""));
        all
    }

    #[test]
    fn messages_are_taken_one_by_one_however_they_arrive() {
        let all = all_messages();
        let mut whole = all.clone();
        let mut expected = Vec::new();
        while let Some(message) = take_message(&mut whole, MAX_MESSAGE_BYTES).unwrap() {
            assert!(!matches!(message, Frontend::Malformed { .. }), "{message:?}");
            expected.push(message);
        }
        assert_eq!(expected.len(), 13);
        assert_eq!(expected[1], Frontend::Parse { name: "s".into(), query: "select $1".into(), types: vec![23, 0] });

        let mut dribble = BytesMut::new();
        let mut taken = Vec::new();
        for byte in all {
            dribble.put_u8(byte);
            while let Some(message) = take_message(&mut dribble, MAX_MESSAGE_BYTES).unwrap() {
                taken.push(message);
            }
        }
        assert_eq!(taken, expected);
    }

    #[test]
    fn a_broken_body_leaves_the_framing_whole() {
        let mut input = framed(b'B', b"\0s\0\0\xff");
        input.unsplit(framed(b'S', b""));
        assert!(matches!(
            take_message(&mut input, MAX_MESSAGE_BYTES).unwrap(),
            Some(Frontend::Malformed { extended: true, .. })
        ));
        assert_eq!(take_message(&mut input, MAX_MESSAGE_BYTES).unwrap(), Some(Frontend::Sync));
    }

    #[test]
    fn bad_framing_is_an_error() {
        assert!(take_message(&mut BytesMut::from(&b"z\0\0\0\x04"[..]), 100).is_err());
        assert!(take_message(&mut BytesMut::from(&b"Q\0\0\0\x03"[..]), 100).is_err());
        assert!(take_message(&mut BytesMut::from(&b"Q\xff\xff\xff\xff"[..]), 100).is_err());
        assert!(take_message(&mut BytesMut::from(&b"Q\0\0\x01\0"[..]), 100).is_err());
        assert!(take_opening(&mut BytesMut::from(&b"\0\0\0\x04"[..])).is_err());
        assert!(take_opening(&mut BytesMut::from(&b"\0\x01\0\0\0\0\0\0"[..])).is_err());
        let http = take_opening(&mut BytesMut::from(&b"GET / HTTP/1.1\r\n\r\n"[..]));
        assert!(http.is_err());
    }

    /// Neither random bytes nor broken messages make the reader panic, loop, or take what is not there.
    #[test]
    fn random_and_mutated_bytes_are_survived() {
        let mut rng = StdRng::seed_from_u64(3);
        let good = all_messages();
        for round in 0..20_000 {
            let mut input = if round % 4 == 0 {
                (0..rng.random_range(0..64)).map(|_| rng.random::<u8>()).collect::<Vec<_>>()
            } else {
                let mut bytes = good.to_vec();
                for _ in 0..rng.random_range(1..6) {
                    let at = rng.random_range(0..bytes.len());
                    bytes[at] = rng.random();
                }
                bytes
            };
            if rng.random() {
                input.truncate(rng.random_range(0..=input.len()));
            }
            let mut buffer = BytesMut::from(&input[..]);
            let mut before = buffer.len();
            while let Ok(Some(_)) = take_message(&mut buffer, 1 << 20) {
                assert!(buffer.len() < before, "each message takes bytes");
                before = buffer.len();
            }
            let mut buffer = BytesMut::from(&input[..]);
            while let Ok(Some(_)) = take_opening(&mut buffer) {}
        }
    }
}
