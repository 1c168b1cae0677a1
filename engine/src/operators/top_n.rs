//! The first rows of each partition: ORDER BY .. LIMIT, DISTINCT ON, and filters over row_number() and rank().
//!
//! ```text
//!   a touched partition:  its first rows, as they were ─┐
//!   the epoch's changes ──▶ the rows kept               ├─▶ -gone +come
//!                         its first rows, as they are ──┘
//! ```
//!
//! No more is read than the rows up to the last that can be output; when all of an epoch's changes lie behind it, nothing is
//! compared. Of input that only grows, rows behind it are not kept at all; and where that leaves few, those of a partition are kept
//! together.

use std::cmp::Ordering;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, RecordBatchOptions, UInt64Array};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::SchemaRef;
use tidemark_common::plan::{self, RowNumber};
use tidemark_common::{Delta, Error, Result};
use tidemark_storage::{EpochCommit, Snapshot};

use super::aggregate::Placement;
use super::partitions::{Partitions, Row, Touched};
use super::{Chunks, Operator, StateSize, StepContext, only_input};

/// So many rows of a partition, at most, are kept together.
const FEW: u64 = 32;

pub struct TopN {
    plan: plan::TopN,
    output: SchemaRef,
    rows: Partitions,
    /// The rows of a partition are kept together.
    in_lists: bool,
    /// For errors.
    name: String,
}

/// The first rows of a partition.
#[derive(Default)]
struct Head {
    /// Those that are output, in order.
    lines: Vec<Line>,
    /// The last one that counts, output or not.
    last: Option<Row>,
    /// What comes behind `last` is not output.
    full: bool,
    /// What lies behind the last one that counts, with the weight that is to stay; only looked for where it is let go.
    surplus: Vec<(Row, i64)>,
}

struct Line {
    row: Row,
    /// 0 where numbers are not output.
    number: u64,
    weight: i64,
}

impl Line {
    fn compare(&self, other: &Line) -> Ordering {
        self.row.bytes.cmp(&other.row.bytes).then(self.number.cmp(&other.number))
    }
}

impl TopN {
    pub fn new(plan: &plan::TopN, input: &SchemaRef, output: &SchemaRef, placement: &Placement) -> Result<Self> {
        let rows = Partitions::new(input, &plan.partition, &plan.order, plan.close, placement)?;
        let few = plan.last().filter(|last| plan.append_only && (1..=FEW).contains(last));
        let in_lists = few.is_some() && plan.number == RowNumber::Each && !plan.partition.is_empty();
        let rows = if in_lists { rows.in_lists() } else { rows };
        let rows = match few.filter(|_| plan.number != RowNumber::DenseRank) {
            Some(first) => rows.only_first(first as usize),
            None => rows,
        };
        Ok(Self { plan: plan.clone(), output: Arc::clone(output), rows, in_lists, name: placement.name() })
    }

    /// As [`change`](Self::change), where the rows of a partition are kept together.
    fn change_list(&mut self, partition: &[u8], changes: Vec<(Row, i64)>) -> Result<Vec<Line>> {
        if let Some((_, weight)) = changes.iter().find(|(_, weight)| *weight < 0) {
            return Err(self.shrinks(*weight));
        }
        let before = self.rows.list(partition)?;
        let mut counter = Counter::new(&self.plan);
        let mut lines_before = Vec::new();
        for (row, weight) in &before {
            counter.count(row, *weight, &mut lines_before);
        }
        // What lies behind the last row does not count.
        let last = before.last().filter(|_| counter.is_full());
        let mut new: Vec<(Row, i64)> = changes;
        new.retain(|(row, weight)| *weight != 0 && last.is_none_or(|(last, _)| row.bytes <= last.bytes));
        if new.is_empty() {
            return Ok(Vec::new());
        }
        new.extend(before.iter().cloned());
        new.sort_by(|(one, _), (other, _)| one.bytes.cmp(&other.bytes));
        new.dedup_by(|(next, more), (kept, weight)| {
            let same = next.bytes == kept.bytes;
            *weight += if same { *more } else { 0 };
            same
        });
        let (mut counter, mut lines) = (Counter::new(&self.plan), Vec::new());
        let mut few = Vec::new();
        for (row, weight) in new {
            if counter.is_full() {
                break;
            }
            let counted = counter.count(&row, weight, &mut lines);
            few.push((row, counted));
        }
        if few != before {
            self.rows.set_list(partition, &few);
        }
        Ok(difference(lines_before, lines))
    }

    fn shrinks(&self, weight: i64) -> Error {
        Error::internal(format!("{}: weight {weight} in input that only grows", self.name))
    }

    /// Applies the changes of one partition; gives what is to be sent.
    fn change(&mut self, snapshot: &Snapshot, partition: &[u8], changes: &[(Row, i64)]) -> Result<Vec<Line>> {
        let before = self.head(snapshot, partition)?;
        let prunes = self.plan.append_only && self.plan.limit.is_some();
        if prunes && let Some((_, weight)) = changes.iter().find(|(_, weight)| *weight < 0) {
            return Err(self.shrinks(*weight));
        }
        let mut compare = false;
        for (row, weight) in changes {
            let behind = self.is_behind(row, &before);
            if !(behind && prunes) {
                self.rows.change(partition, row, *weight)?;
            }
            compare |= !behind;
        }
        if !compare {
            return Ok(Vec::new());
        }
        let after = self.head(snapshot, partition)?;
        for (row, weight) in &after.surplus {
            self.rows.set(partition, row, *weight);
        }
        Ok(difference(before.lines, after.lines))
    }

    fn is_behind(&self, row: &Row, head: &Head) -> bool {
        match (&head.last, self.plan.number) {
            _ if !head.full => false,
            (None, _) => true,
            (Some(last), RowNumber::Each) => row.bytes > last.bytes,
            (Some(last), RowNumber::Rank | RowNumber::DenseRank) => row.order() > last.order(),
        }
    }

    fn head(&mut self, snapshot: &Snapshot, partition: &[u8]) -> Result<Head> {
        let mut counter = Counter::new(&self.plan);
        let mut head = Head { full: self.plan.last() == Some(0), ..Head::default() };
        let prunes = self.plan.append_only;
        self.rows.visit(snapshot, partition, |row, weight| {
            let counted = counter.count(&row, weight, &mut head.lines);
            head.full |= counter.is_full();
            if counted < weight && prunes {
                head.surplus.push((row.clone(), counted));
            }
            if counted > 0 {
                head.last = Some(row);
            }
            // Equal rows may still follow where those share a number.
            prunes || (counted == weight && (self.plan.number != RowNumber::Each || !head.full))
        })?;
        Ok(head)
    }

    fn delta(&self, touched: &Touched, lines: &[(u32, Line)]) -> Result<Delta> {
        let keys = touched.partitions.keys();
        let rows: Vec<&Row> = lines.iter().map(|(_, line)| &line.row).collect();
        let batch = self.rows.decode(&keys, lines.iter().map(|(partition, _)| *partition).collect(), &rows)?;
        let mut columns = batch.columns().to_vec();
        if self.plan.numbered {
            let numbers: ArrayRef = Arc::new(UInt64Array::from_iter_values(lines.iter().map(|(_, line)| line.number)));
            columns.push(cast(&numbers, self.output.field(columns.len()).data_type())?);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(lines.len()));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.output), columns, &options)?;
        let weights = lines.iter().map(|(_, line)| line.weight);
        Ok(Delta::new(batch, Some(Int64Array::from_iter_values(weights))))
    }
}

impl Operator for TopN {
    fn step(&mut self, ctx: &StepContext<'_>, inputs: Vec<Chunks>) -> Result<Chunks> {
        let mut touched = self.rows.touch(ctx, only_input(inputs)?)?;
        let mut lines = Vec::new();
        let changes = std::mem::take(&mut touched.changes);
        for (partition, changes) in changes.into_iter().enumerate().filter(|(_, changes)| !changes.is_empty()) {
            let number = u32::try_from(partition).expect("an epoch touches far fewer than 2^32 partitions");
            let key = touched.partitions.key(partition);
            let sent = match self.in_lists {
                true => self.change_list(key, changes)?,
                false => self.change(ctx.snapshot, key, &changes)?,
            };
            lines.extend(sent.into_iter().map(|line| (number, line)));
        }
        let output = if lines.is_empty() { Chunks::new() } else { vec![self.delta(&touched, &lines)?] };
        self.rows.close(ctx)?;
        Ok(output)
    }

    fn flush(&mut self, commit: &mut EpochCommit) -> Result<()> {
        self.rows.flush(commit);
        Ok(())
    }

    fn state_size(&self) -> StateSize {
        self.rows.size()
    }

    fn take_late_rows(&mut self) -> u64 {
        self.rows.take_late_rows()
    }
}

/// Numbers the rows of a partition, one after the other.
struct Counter<'a> {
    plan: &'a plan::TopN,
    last: u64,
    /// Rows so far.
    seen: u64,
    peers: Option<Vec<u8>>,
    rank: u64,
    dense_rank: u64,
}

impl<'a> Counter<'a> {
    fn new(plan: &'a plan::TopN) -> Self {
        Self { plan, last: plan.last().unwrap_or(u64::MAX), seen: 0, peers: None, rank: 0, dense_rank: 0 }
    }

    /// Takes `weight` copies of the next row, adds those that are output to `lines`, and gives how many count: that have a
    /// number up to the last that is output.
    fn count(&mut self, row: &Row, weight: i64, lines: &mut Vec<Line>) -> i64 {
        let copies = weight.unsigned_abs();
        if self.peers.as_deref() != Some(row.order()) {
            self.peers = Some(row.order().to_vec());
            self.rank = self.seen + 1;
            self.dense_rank += 1;
        }
        let first = self.seen + 1;
        self.seen = self.seen.saturating_add(copies);
        let number = match self.plan.number {
            RowNumber::Each => return self.count_each(row, first, lines),
            RowNumber::Rank => self.rank,
            RowNumber::DenseRank => self.dense_rank,
        };
        if number > self.last {
            return 0;
        }
        if number > self.plan.offset {
            let number = if self.plan.numbered { number } else { 0 };
            lines.push(Line { row: row.clone(), number, weight });
        }
        weight
    }

    fn count_each(&self, row: &Row, first: u64, lines: &mut Vec<Line>) -> i64 {
        let end = self.seen.min(self.last);
        let from = first.max(self.plan.offset.saturating_add(1));
        if self.plan.numbered {
            lines.extend((from..=end).map(|number| Line { row: row.clone(), number, weight: 1 }));
        } else if from <= end {
            lines.push(Line { row: row.clone(), number: 0, weight: as_weight(end - from + 1) });
        }
        as_weight((end + 1).saturating_sub(first))
    }

    /// Rows with other order columns than the last one do not count any more.
    fn is_full(&self) -> bool {
        match self.plan.number {
            RowNumber::Each | RowNumber::Rank => self.seen >= self.last,
            RowNumber::DenseRank => self.dense_rank >= self.last,
        }
    }
}

fn as_weight(copies: u64) -> i64 {
    i64::try_from(copies).expect("a part of a weight is no larger than the weight")
}

/// What turns `before` into `after`: what goes, then what comes.
fn difference(before: Vec<Line>, after: Vec<Line>) -> Vec<Line> {
    let (mut gone, mut come) = (Vec::new(), Vec::new());
    let mut after = after.into_iter().peekable();
    for old in before {
        while let Some(new) = after.next_if(|new| new.compare(&old) == Ordering::Less) {
            come.push(new);
        }
        let now = after.next_if(|new| new.compare(&old) == Ordering::Equal).map_or(0, |new| new.weight);
        match now - old.weight {
            0 => {}
            weight if weight < 0 => gone.push(Line { weight, ..old }),
            weight => come.push(Line { weight, ..old }),
        }
    }
    come.extend(after);
    gone.append(&mut come);
    gone
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::{DataType, Field};
    use datafusion::scalar::ScalarValue;
    use expect_test::expect;
    use tidemark_common::plan::{Op, SortKey};

    use super::*;
    use crate::dataflow::CollectionChanges;
    use crate::operators::testing::{TestFlow, delta, over_partitions, schema, show};

    fn first(limit: u64) -> plan::TopN {
        let key = SortKey { column: 1, descending: false, nulls_first: false };
        plan::TopN {
            partition: vec![0],
            order: vec![key],
            number: RowNumber::Each,
            offset: 0,
            limit: Some(limit),
            numbered: false,
            append_only: false,
            close: None,
        }
    }

    fn flow(top_n: plan::TopN) -> TestFlow {
        let columns = schema(COLUMNS);
        let results = if top_n.numbered { vec![Field::new("n", DataType::UInt64, false)] } else { vec![] };
        TestFlow::new(over_partitions(&columns, &top_n.partition.clone(), Op::TopN(top_n), results), 1)
    }

    const COLUMNS: &str = "k text, v bigint, id text";

    /// An epoch a piece of text; what each sends.
    fn run(flow: &mut TestFlow, epochs: &[&str]) -> String {
        let columns = schema(COLUMNS);
        let sent: Vec<String> = epochs.iter().map(|text| flow.rows(&columns, text)).collect();
        sent.join("--\n")
    }

    #[test]
    fn what_comes_first_pushes_out_what_was_last() {
        let epochs = ["+ a 2 x\n+ a 3 y\n+ b 1 z", "+ a 1 w", "+ a 9 v", "- a 1 w", "- a 9 v", "- b 1 z"];
        expect![[r#"
            + a 2 x
            + a 3 y
            + b 1 z
            --
            - a 3 y
            + a 1 w
            --
            --
            - a 1 w
            + a 3 y
            --
            --
            - b 1 z
        "#]]
        .assert_eq(&run(&mut flow(first(2)), &epochs));
    }

    #[test]
    fn equal_keys_are_ordered_by_the_rest_of_the_row() {
        let epochs = ["+ a 1 y\n+ a 1 x", "+ a 1 w", "- a 1 w\n- a 1 x"];
        expect![[r#"
            + a 1 x
            --
            - a 1 x
            + a 1 w
            --
            - a 1 w
            + a 1 y
        "#]]
        .assert_eq(&run(&mut flow(first(1)), &epochs));
    }

    #[test]
    fn copies_of_a_row_count_each() {
        let top_n = plan::TopN { offset: 1, ..first(2) };
        let epochs = ["+5 a 1 x", "+ a 0 y", "-4 a 1 x\n+ a 7 z", "- a 0 y"];
        expect![[r#"
            +2 a 1 x
            --
            --
            - a 1 x
            + a 7 z
            --
            - a 1 x
        "#]]
        .assert_eq(&run(&mut flow(top_n), &epochs));
    }

    #[test]
    fn numbers_move_when_they_are_output() {
        let top_n = plan::TopN { numbered: true, ..first(3) };
        let epochs = ["+ a 1 x\n+2 a 2 y", "+ a 0 w", "-2 a 2 y"];
        expect![[r#"
            + a 1 x 1
            + a 2 y 2
            + a 2 y 3
            --
            - a 1 x 1
            - a 2 y 2
            + a 0 w 1
            + a 1 x 2
            --
            - a 2 y 3
        "#]]
        .assert_eq(&run(&mut flow(top_n), &epochs));
    }

    #[test]
    fn rank_lets_equals_in_and_dense_rank_counts_values() {
        let epochs = ["+ a 1 x\n+ a 1 y\n+ a 2 z", "- a 1 x", "+ a 2 w"];
        let top_n = |number| plan::TopN { number, numbered: true, ..first(2) };
        expect![[r#"
            + a 1 x 1
            + a 1 y 1
            --
            - a 1 x 1
            + a 2 z 2
            --
            + a 2 w 2
        "#]]
        .assert_eq(&run(&mut flow(top_n(RowNumber::Rank)), &epochs));
        expect![[r#"
            + a 1 x 1
            + a 1 y 1
            + a 2 z 2
            --
            - a 1 x 1
            --
            + a 2 w 2
        "#]]
        .assert_eq(&run(&mut flow(top_n(RowNumber::DenseRank)), &epochs));
    }

    #[test]
    fn no_limit_leaves_out_the_first_and_none_at_all_sends_nothing() {
        let epochs = ["+ a 1 x\n+ a 2 y", "+ a 0 w", "- a 2 y"];
        let rest = plan::TopN { offset: 1, limit: None, ..first(0) };
        expect![[r#"
            + a 2 y
            --
            + a 1 x
            --
            - a 2 y
        "#]]
        .assert_eq(&run(&mut flow(rest), &epochs));
        assert_eq!(run(&mut flow(first(0)), &epochs), "--\n--\n");
    }

    #[test]
    fn input_that_grows_leaves_only_what_can_be_output() {
        let mut flow = flow(plan::TopN { append_only: true, ..first(2) });
        run(&mut flow, &["+ a 5 x\n+ a 4 y\n+ a 3 z\n+ b 1 x", "+ a 9 v", "+3 a 1 w"]);
        assert_eq!(flow.stored_entries(), 2, "one row twice, and that of b");
        let columns = schema(COLUMNS);
        expect![[r#"
            - a 1 w
            + a 0 u
        "#]]
        .assert_eq(&flow.rows(&columns, "+ a 0 u"));
        let gone = CollectionChanges { chunks: vec![delta(&columns, "- a 0 u")], ..CollectionChanges::default() };
        flow.try_epoch(gone).expect_err("nothing goes from input that only grows");
    }

    #[test]
    fn a_watermark_lets_partitions_go() {
        let top_n = plan::TopN { partition: vec![1], order: vec![], close: Some(1), ..first(1) };
        let mut flow = flow(top_n);
        let columns = schema(COLUMNS);
        let mut epoch = |text: &str, watermark: i64| {
            let watermarks = [(1, ScalarValue::Int64(Some(watermark)))].into();
            let changes = CollectionChanges { chunks: vec![delta(&columns, text)], watermarks, idle: false };
            let sent = show(&flow.epoch(changes).chunks);
            (sent, flow.stored_entries(), flow.flow.late_rows())
        };
        assert_eq!(epoch("+ b 1 x\n+ a 1 y\n+ c 2 z", 1), ("+ a 1 y\n+ c 2 z\n".into(), 3, 0));
        assert_eq!(epoch("+ 0 1 x", 2), ("- a 1 y\n+ 0 1 x\n".into(), 1, 0));
        assert_eq!(epoch("+ 0 0 late\n+ b 2 w", 2), ("- c 2 z\n+ b 2 w\n".into(), 2, 1));
    }

    /// What is on disk must be readable by later versions: partition, order and the rest of the row, then weight and length.
    #[test]
    fn stored_bytes_are_pinned() {
        let key = SortKey { column: 1, descending: true, nulls_first: true };
        let top_n = plan::TopN { order: vec![key], ..first(9) };
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let stored = |top_n: plan::TopN| {
            let mut flow = flow(top_n);
            run(&mut flow, &["+ a 1 x\n+2 a NULL y\n+ NULL -1 NULL"]);
            let stored = flow.stored();
            stored
                .iter()
                .map(|(state, key, value)| format!("{state} {} {}\n", hex(key), hex(value)))
                .collect::<String>()
        };
        expect![[r#"
            12 00 010000000000000001000000090000000a01800000000000000000
            12 02610000000000000001 01000000000000000200000009000000130000000000000000000279000000000000000100000000000000010000000900000013017ffffffffffffffe02780000000000000001
        "#]].assert_eq(&stored(plan::TopN { append_only: true, ..top_n.clone() }));
        let stored = stored(top_n);
        expect![[r#"
            12 0001800000000000000000 01000000000000000100000009
            12 0261000000000000000100000000000000000002790000000000000001 01000000000000000200000009
            12 02610000000000000001017ffffffffffffffe02780000000000000001 01000000000000000100000009
        "#]]
        .assert_eq(&stored);
    }
}
