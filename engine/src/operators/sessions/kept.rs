//! The open sessions of a partition, in one value.
//!
//! ```text
//!   partition key ─▶ timer (i64) · start (i64), end (i64), length (u32), state · the next session, later ..     big-endian
//! ```
//!
//! The timer says when the watermark has to look at the partition: at the first end of a session or before it. A session that goes
//! on leaves it where it is; who looks too early sets it anew. So a row costs no entry of the index by time.

use std::ops::Range;

use tidemark_common::{Error, Result};

use super::spans::Span;
use crate::operators::aggregate::keys::GroupNumbers;

const HEAD: usize = 8;
const SESSION_HEAD: usize = 20;

/// The sessions that touched partitions had before an epoch.
#[derive(Default)]
pub struct Before<'a> {
    /// `None`: the partition had none.
    pub timers: Vec<Option<i64>>,
    pub spans: Vec<Span>,
    pub states: Vec<&'a [u8]>,
    /// The partition of each session.
    pub partitions: Vec<usize>,
    /// The sessions of each partition.
    pub of_partition: Vec<Range<usize>>,
}

impl<'a> Before<'a> {
    /// `get`: the value of a partition. `None`: a value is damaged.
    pub fn read(partitions: &GroupNumbers, get: impl Fn(&[u8]) -> Option<&'a [u8]>) -> Option<Self> {
        let mut before = Self::default();
        for partition in 0..partitions.len() {
            let first = before.spans.len();
            let mut timer = None;
            if let Some(value) = get(partitions.key(partition)) {
                let (head, mut rest) = value.split_first_chunk::<HEAD>()?;
                timer = Some(i64::from_be_bytes(*head));
                while !rest.is_empty() {
                    let (head, tail) = rest.split_first_chunk::<SESSION_HEAD>()?;
                    let number = |at: usize| head[at..at + 8].try_into().ok().map(i64::from_be_bytes);
                    let len = u32::from_be_bytes(head[16..].try_into().ok()?);
                    let (state, tail) = tail.split_at_checked(len as usize)?;
                    before.spans.push(Span { start: number(0)?, end: number(8)? });
                    before.states.push(state);
                    before.partitions.push(partition);
                    rest = tail;
                }
            }
            before.timers.push(timer);
            before.of_partition.push(first..before.spans.len());
        }
        Some(before)
    }
}

/// The value of a partition with `sessions`, in the order of time.
pub fn value(timer: i64, sessions: &[(Span, &[u8])]) -> Result<Vec<u8>> {
    let len = sessions.iter().map(|(_, state)| SESSION_HEAD + state.len()).sum::<usize>();
    let mut value = Vec::with_capacity(HEAD + len);
    value.extend(timer.to_be_bytes());
    for (span, state) in sessions {
        let len =
            u32::try_from(state.len()).map_err(|_| Error::internal("the state of a session has more than 4 GB"))?;
        value.extend(span.start.to_be_bytes());
        value.extend(span.end.to_be_bytes());
        value.extend(len.to_be_bytes());
        value.extend_from_slice(state);
    }
    Ok(value)
}
