//! Which transaction of the other database a record belongs to, as far as records say it.
//!
//! ```text
//!   DEBEZIUM  {.., "transaction": {"id": "571:3", "total_order": 1, ..}}      if it was told to: provide.transaction.metadata
//!   MAXWELL   {.., "xid": 8, "xoffset": 0}  {.., "xid": 8, "commit": true}
//! ```

/// Of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Belongs {
    /// It says something of no row, and goes with those around it: a tombstone.
    Anywhere,
    /// To a transaction that is nothing but this record, as far as can be told.
    Alone,
    To {
        id: Vec<u8>,
        /// It is the last one.
        ends: bool,
    },
}

/// Where the transaction begins that is still open after `count` records, and which one it is. `belongs`: of a record, asked for as few
/// as will do. `before`: the one that was open before them.
pub(crate) fn open_at_end(
    count: usize,
    before: Option<&[u8]>,
    belongs: impl Fn(usize) -> Belongs,
) -> Option<(usize, Vec<u8>)> {
    let mut open: Option<(usize, Vec<u8>)> = None;
    for at in (0..count).rev() {
        match (belongs(at), &mut open) {
            (Belongs::Anywhere, _) => {}
            (Belongs::To { id, ends: false }, None) => open = Some((at, id)),
            (Belongs::To { id, ends: false }, Some((begins, same))) if id == *same => *begins = at,
            _ => return open,
        }
    }
    match (open, before) {
        // What goes with the first of them comes with it, if that was open already.
        (Some((_, id)), Some(before)) if id == before => Some((0, id)),
        (None, Some(before)) => Some((0, before.to_vec())),
        (open, _) => open,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `a`, `b`: of a transaction; `A`, `B`: its last; `.`: anywhere; `-`: alone.
    fn open(records: &str, before: &str) -> Option<String> {
        let records = records.as_bytes();
        let before = Some(before.as_bytes()).filter(|before| !before.is_empty());
        let belongs = |at: usize| match records[at] {
            b'.' => Belongs::Anywhere,
            b'-' => Belongs::Alone,
            letter => Belongs::To { id: vec![letter.to_ascii_lowercase()], ends: letter.is_ascii_uppercase() },
        };
        let (at, id) = open_at_end(records.len(), before, belongs)?;
        Some(format!("{at} {}", String::from_utf8(id).unwrap()))
    }

    #[test]
    fn the_last_transaction_may_be_open() {
        for (records, before, expected) in [
            ("", "", None),
            ("--", "a", None),
            ("aab", "", Some("2 b")),
            ("aabb", "", Some("2 b")),
            ("aabB", "", None),
            ("a-", "", None),
            ("-aa", "a", Some("1 a")),
            ("aa", "a", Some("0 a")),
            (".aa", "a", Some("0 a")),
            (".bb", "a", Some("1 b")),
            ("a.a.", "", Some("0 a")),
            ("b.a.", "", Some("2 a")),
            ("bB.a", "b", Some("3 a")),
            ("..", "a", Some("0 a")),
            ("..", "", None),
            ("A.", "a", None),
        ] {
            assert_eq!(open(records, before).as_deref(), expected, "{records} after {before}");
        }
    }
}
