//! Where sessions begin and end: what an epoch's rows make of those that were there.
//!
//! ```text
//!   gap 3     [──x──x──)       [──x──)      [──x──)        a row that comes exactly at the end still belongs to it
//!   rows              x                          x x
//!   come to   [──x──x─x──)     untouched    [──x─x─x──)
//! ```

use std::ops::Range;

use tidemark_common::{Error, Result, SqlState};

/// From its first row to a gap after its last one, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub start: i64,
    pub end: i64,
}

/// Sessions with rows of an epoch, by partition and time.
#[derive(Default)]
pub struct Joined {
    pub spans: Vec<Span>,
    /// Those of each partition.
    pub of_partition: Vec<Range<usize>>,
    /// The session of each row.
    pub of_rows: Vec<usize>,
    /// Which session each that was there has become a part of; `None`: no row has touched it.
    pub of_kept: Vec<Option<usize>>,
}

impl Joined {
    /// `partitions`, `times`: of the epoch's rows. `kept`: the sessions that were there, in the order of time, those of partition n
    /// at `of[n]`.
    pub fn new(partitions: &[usize], times: &[i64], kept: &[Span], of: &[Range<usize>], gap: i64) -> Result<Self> {
        let mut joined = Self { of_rows: vec![0; times.len()], of_kept: vec![None; kept.len()], ..Self::default() };
        let mut rows = by_partition(partitions, of.len());
        let mut begin = 0;
        for (of, end) in of.iter().zip(rows.ends) {
            let rows = &mut rows.rows[begin..end];
            begin = end;
            if !rows.is_sorted_by_key(|row| times[*row as usize]) {
                rows.sort_by_key(|row| times[*row as usize]);
            }
            let first = joined.spans.len();
            joined.join(rows, times, of.clone(), kept, gap)?;
            joined.of_partition.push(first..joined.spans.len());
        }
        Ok(joined)
    }

    /// One partition. `rows` in the order of time.
    fn join(&mut self, rows: &[u32], times: &[i64], of: Range<usize>, kept: &[Span], gap: i64) -> Result<()> {
        let mut rows = rows.iter().map(|row| *row as usize).peekable();
        let mut others = of.peekable();
        while let Some(start) = rows.peek().map(|row| times[*row]) {
            while others.next_if(|other| kept[*other].end < start).is_some() {}
            let session = self.spans.len();
            let mut span = Span { start, end: after(start, gap)? };
            loop {
                if let Some(other) = others.next_if(|other| kept[*other].start <= span.end) {
                    self.of_kept[other] = Some(session);
                    span = Span { start: span.start.min(kept[other].start), end: span.end.max(kept[other].end) };
                } else if let Some(row) = rows.next_if(|row| times[*row] <= span.end) {
                    self.of_rows[row] = session;
                    span.end = span.end.max(after(times[row], gap)?);
                } else {
                    break;
                }
            }
            self.spans.push(span);
        }
        Ok(())
    }
}

fn after(time: i64, gap: i64) -> Result<i64> {
    time.checked_add(gap).ok_or_else(|| Error::new(SqlState::DatetimeFieldOverflow, "timestamp out of range"))
}

/// Numbers of rows, those of a partition one after the other, in their order.
struct ByPartition {
    rows: Vec<u32>,
    /// Where those of each partition end.
    ends: Vec<usize>,
}

fn by_partition(partitions: &[usize], count: usize) -> ByPartition {
    let mut ends = vec![0; count + 1];
    partitions.iter().for_each(|partition| ends[partition + 1] += 1);
    (1..ends.len()).for_each(|at| ends[at] += ends[at - 1]);
    let mut rows = vec![0; partitions.len()];
    for (row, &partition) in partitions.iter().enumerate() {
        rows[ends[partition]] = row as u32;
        ends[partition] += 1;
    }
    ends.pop();
    ByPartition { rows, ends }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    type Sessions = (Vec<(i64, i64)>, Vec<usize>, Vec<Option<usize>>);

    /// Start and end of the sessions with rows, that of each row, that of each that was there.
    fn join(kept: &[(i64, i64)], times: &[i64]) -> Sessions {
        let spans: Vec<Span> = kept.iter().map(|&(start, end)| Span { start, end }).collect();
        let of = std::iter::once(0..spans.len()).collect::<Vec<_>>();
        let joined = Joined::new(&vec![0; times.len()], times, &spans, &of, 3).unwrap();
        (joined.spans.iter().map(|s| (s.start, s.end)).collect(), joined.of_rows, joined.of_kept)
    }

    #[test]
    fn rows_extend_sessions_and_join_them() {
        assert_eq!(join(&[], &[5, 1, 9, 4]), (vec![(1, 8), (9, 12)], vec![0, 0, 1, 0], vec![]));
        assert_eq!(join(&[(1, 4), (10, 13)], &[4]), (vec![(1, 7)], vec![0], vec![Some(0), None]), "at the end");
        assert_eq!(join(&[(1, 4), (10, 13)], &[7]), (vec![(7, 13)], vec![0], vec![None, Some(0)]), "a gap before");
        assert_eq!(join(&[(1, 5), (7, 10)], &[4]), (vec![(1, 10)], vec![0], vec![Some(0); 2]), "two are one");
        assert_eq!(join(&[(1, 50)], &[2, 30, 60]), (vec![(1, 50), (60, 63)], vec![0, 0, 1], vec![Some(0)]));
        assert_eq!(join(&[(1, 4), (20, 23)], &[10]), (vec![(10, 13)], vec![0], vec![None; 2]), "between");
        assert_eq!(join(&[(1, 4)], &[]), (vec![], vec![], vec![None]));
        let late = Joined::new(&[0], &[i64::MAX], &[], &[0..0, 0..0], 3);
        assert_eq!(late.err().map(|e| e.code().to_string()).as_deref(), Some("22008"));
    }

    /// Epoch by epoch or at once, sessions are the same.
    #[test]
    fn what_epochs_make_is_what_all_rows_make() {
        let mut rng = StdRng::seed_from_u64(3);
        for _ in 0..300 {
            let gap = rng.random_range(1..9);
            let all: Vec<(usize, i64)> =
                (0..rng.random_range(1..60)).map(|_| (rng.random_range(0..3), rng.random_range(0..150))).collect();
            let mut kept: Vec<Vec<Span>> = vec![vec![]; 3];
            for epoch in all.chunks(rng.random_range(1..20)) {
                let (partitions, times): (Vec<usize>, Vec<i64>) = epoch.iter().copied().unzip();
                let spans: Vec<Span> = kept.iter().flatten().copied().collect();
                let starts: Vec<usize> = (0..=3).map(|p| kept[..p].iter().map(Vec::len).sum()).collect();
                let of: Vec<_> = starts.windows(2).map(|w| w[0]..w[1]).collect();
                let joined = Joined::new(&partitions, &times, &spans, &of, gap).unwrap();
                for partition in 0..3 {
                    let untouched = of[partition].clone().filter(|other| joined.of_kept[*other].is_none());
                    let mut next: Vec<Span> = untouched.map(|other| spans[other]).collect();
                    next.extend(&joined.spans[joined.of_partition[partition].clone()]);
                    next.sort_by_key(|span| span.start);
                    kept[partition] = next;
                }
                for (row, session) in joined.of_rows.iter().enumerate() {
                    assert!(joined.of_partition[partitions[row]].contains(session));
                    assert!((joined.spans[*session].start..=joined.spans[*session].end - gap).contains(&times[row]));
                }
            }
            let (partitions, times): (Vec<usize>, Vec<i64>) = all.into_iter().unzip();
            let at_once = Joined::new(&partitions, &times, &[], &[0..0, 0..0, 0..0], gap).unwrap();
            assert_eq!(kept.concat(), at_once.spans);
        }
    }
}
