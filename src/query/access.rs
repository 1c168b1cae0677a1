//! How a scan gets to the rows that its filters leave: by the order of the key, by an index, or through all of them.
//!
//! ```text
//!   a = 1 AND b IN (2, 3) AND c > 4      key (id)          says nothing
//!                                        index (a, b, c)   ranges (1, 2, >4), (1, 3, >4)   ◀── the most columns
//!                                        index (b)         ranges (2), (3)
//! ```
//!
//! What a range holds beyond what the filters leave (they go on to be applied) costs time only.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::utils::split_binary;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};
use tidemark_common::Result;
use tidemark_storage::{Collection, Index, KeyRange, Snapshot};

/// Ranges that one access reads at most; what would take more is read by fewer columns.
pub const MAX_RANGES: usize = 1000;

/// Where rows are looked for.
#[derive(Debug, Clone)]
pub enum Way {
    Key(Arc<Collection>),
    Index(Arc<Index>),
}

/// Ranges of a way, which do not overlap, and what they are made of.
#[derive(Debug, Clone)]
pub struct Access {
    pub way: Way,
    pub ranges: Vec<KeyRange>,
    conditions: String,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.way {
            Way::Key(_) => write!(f, "by key: {}", self.conditions),
            Way::Index(index) => write!(f, "by index {}: {}", index.name(), self.conditions),
        }
    }
}

/// What the filters say of one column.
#[derive(Default)]
struct Terms {
    /// Those it may have; NULL, which equals nothing, only where IS NULL asks for it.
    values: Option<Vec<ScalarValue>>,
    is_null: bool,
    lower: Option<Bound<ScalarValue>>,
    upper: Option<Bound<ScalarValue>>,
}

impl Terms {
    fn of(filters: &[Expr], column: &str) -> Self {
        let mut terms = Self::default();
        for filter in filters {
            let values = equal_to(filter, column).and_then(|values| values.into_iter().map(literal).collect());
            let values: Option<Vec<ScalarValue>> = values;
            match (values, &terms.values) {
                (Some(values), known) if known.as_ref().is_none_or(|known| values.len() < known.len()) => {
                    terms.values = Some(values.into_iter().filter(|v| !v.is_null()).collect());
                }
                (Some(_), _) => {}
                (None, _) => terms.compare(filter, column),
            }
        }
        terms
    }

    fn compare(&mut self, filter: &Expr, column: &str) {
        if matches!(filter, Expr::IsNull(of) if matches!(of.as_ref(), Expr::Column(c) if c.name == column)) {
            self.is_null = true;
        }
        let Some((name, op, value)) = comparison(filter).filter(|(name, ..)| *name == column) else { return };
        debug_assert_eq!(name, column);
        match op {
            Operator::Gt => self.lower = Some(Bound::Excluded(value.clone())),
            Operator::GtEq => self.lower = Some(Bound::Included(value.clone())),
            Operator::Lt => self.upper = Some(Bound::Excluded(value.clone())),
            Operator::LtEq => self.upper = Some(Bound::Included(value.clone())),
            _ => {}
        }
    }
}

/// How far the filters go with the columns of one way.
struct Reach {
    /// For each of the first columns, the values that it may have.
    equal: Vec<Vec<ScalarValue>>,
    /// Of the next one.
    bounds: Option<(Bound<ScalarValue>, Bound<ScalarValue>)>,
}

impl Reach {
    fn of(columns: &[usize], schema: &SchemaRef, filters: &[Expr]) -> Result<Self> {
        let mut reach = Self { equal: Vec::new(), bounds: None };
        let mut ranges = 1;
        for column in columns {
            let field = schema.field(*column);
            let terms = Terms::of(filters, field.name());
            let values = match terms.values {
                None if terms.is_null => Some(vec![ScalarValue::try_new_null(field.data_type())?]),
                values => values,
            };
            match values.filter(|values| ranges * values.len() <= MAX_RANGES) {
                Some(values) => {
                    ranges *= values.len();
                    reach.equal.push(values);
                }
                None => {
                    if terms.lower.is_some() || terms.upper.is_some() {
                        let bound = |bound: Option<_>| bound.unwrap_or(Bound::Unbounded);
                        reach.bounds = Some((bound(terms.lower), bound(terms.upper)));
                    }
                    break;
                }
            }
        }
        Ok(reach)
    }

    fn columns(&self) -> usize {
        self.equal.len() + usize::from(self.bounds.is_some())
    }

    /// More is better: a row by all columns, then columns by `=`, then a range.
    fn rank(&self, whole: bool) -> (bool, usize, bool) {
        (whole, self.equal.len(), self.bounds.is_some())
    }

    /// Whether the index has an entry for every row that it asks for.
    fn is_served_by(&self, index: &Index, schema: &SchemaRef) -> bool {
        let asks_null = self.equal.iter().flatten().any(ScalarValue::is_null);
        let rest = &index.columns()[self.columns()..];
        !index.is_unique() || (!asks_null && rest.iter().all(|column| !schema.field(*column).is_nullable()))
    }

    fn ranges(&self, way: &Way) -> Result<Vec<KeyRange>> {
        let mut prefixes: Vec<Vec<ScalarValue>> = vec![Vec::new()];
        for values in &self.equal {
            prefixes = prefixes
                .iter()
                .flat_map(|prefix| values.iter().map(|value| [prefix.as_slice(), std::slice::from_ref(value)].concat()))
                .collect();
        }
        let mut ranges = Vec::with_capacity(prefixes.len());
        for prefix in prefixes {
            let (lower, upper) = match &self.bounds {
                Some((lower, upper)) => (lower.as_ref(), upper.as_ref()),
                None => (Bound::Unbounded, Bound::Unbounded),
            };
            ranges.push(match way {
                Way::Key(collection) => collection.bounded_range(&prefix, lower, upper)?,
                Way::Index(index) => index.bounded_range(&prefix, lower, upper)?,
            });
        }
        // Different values may be the same key, as 0 and -0 are.
        ranges.sort_by(|a, b| a.bounds().cmp(&b.bounds()));
        ranges.dedup();
        Ok(ranges)
    }

    fn conditions(&self, columns: &[usize], schema: &SchemaRef) -> String {
        let name = |i: usize| schema.field(columns[i]).name();
        let mut shown: Vec<String> = Vec::new();
        for (i, values) in self.equal.iter().enumerate() {
            shown.push(match values.as_slice() {
                [null] if null.is_null() => format!("{} IS NULL", name(i)),
                [one] => format!("{} = {one}", name(i)),
                many => {
                    format!("{} IN ({})", name(i), many.iter().map(|v| v.to_string()).collect::<Vec<_>>().join(", "))
                }
            });
        }
        if let Some((lower, upper)) = &self.bounds {
            let name = name(self.equal.len());
            match lower {
                Bound::Included(value) => shown.push(format!("{name} >= {value}")),
                Bound::Excluded(value) => shown.push(format!("{name} > {value}")),
                Bound::Unbounded => {}
            }
            match upper {
                Bound::Included(value) => shown.push(format!("{name} <= {value}")),
                Bound::Excluded(value) => shown.push(format!("{name} < {value}")),
                Bound::Unbounded => {}
            }
        }
        shown.join(", ")
    }
}

/// The way that the filters go furthest, the key's order where an index is no better; `None`: through all rows.
pub fn choose(
    collection: &Arc<Collection>,
    key: &[usize],
    indexes: &[Arc<Index>],
    filters: &[Expr],
    snapshot: &Snapshot,
) -> Result<Option<Access>> {
    let schema = collection.schema();
    let reach = Reach::of(key, schema, filters)?;
    let mut best: Option<(Reach, Way, &[usize])> = None;
    let mut best_rank = (false, 0, false);
    let whole = !key.is_empty() && reach.equal.len() == key.len();
    if reach.columns() > 0 {
        best_rank = reach.rank(whole);
        best = Some((reach, Way::Key(collection.clone()), key));
    }
    for index in indexes {
        let reach = Reach::of(index.columns(), schema, filters)?;
        let rank = reach.rank(index.is_unique() && reach.equal.len() == index.columns().len());
        if rank > best_rank && reach.is_served_by(index, schema) {
            let way = Way::Index(index.clone());
            if is_most_of(index, &reach.ranges(&way)?, snapshot) {
                continue;
            }
            best_rank = rank;
            best = Some((reach, way, index.columns()));
        }
    }
    best.map(|(reach, way, columns)| {
        Ok(Access { ranges: reach.ranges(&way)?, conditions: reach.conditions(columns, schema), way })
    })
    .transpose()
}

/// Reading so many rows one by one would take longer than reading all of them in order.
fn is_most_of(index: &Index, ranges: &[KeyRange], snapshot: &Snapshot) -> bool {
    /// Smaller ones are read either way before anyone notices.
    const SMALL: u64 = 1 << 20;
    /// More ranges than these are not estimated: each is likely to be of a few rows.
    const ESTIMATED: usize = 16;
    let all = index.approximate_bytes(snapshot);
    if all < SMALL || ranges.len() > ESTIMATED {
        return false;
    }
    let asked: u64 = ranges.iter().map(|range| index.approximate_bytes_in(snapshot, range)).sum();
    asked > all / 8
}

/// Columns by which rows can be found: what is said of others is of no use to [`choose`].
pub fn useful_columns(collection: &Collection, key: &[usize], indexes: &[Arc<Index>]) -> BTreeSet<String> {
    let of_indexes = indexes.iter().flat_map(|index| index.columns());
    key.iter().chain(of_indexes).map(|column| collection.schema().field(*column).name().clone()).collect()
}

/// Whether the filter says something of one of the columns that [`choose`] understands.
pub fn is_useful(filter: &Expr, columns: &BTreeSet<String>) -> bool {
    let named = filter.column_refs();
    let mut columns = named.iter().map(|c| c.name.as_str()).filter(|name| columns.contains(*name));
    columns.any(|column| {
        let is_null = matches!(filter, Expr::IsNull(of) if matches!(of.as_ref(), Expr::Column(_)));
        is_null || comparison(filter).is_some() || equal_to(filter, column).is_some()
    })
}

fn literal(expr: &Expr) -> Option<ScalarValue> {
    match expr {
        Expr::Literal(value, _) => Some(value.clone()),
        _ => None,
    }
}

/// `column op literal`, either way round, the literal not NULL.
fn comparison(expr: &Expr) -> Option<(&str, Operator, &ScalarValue)> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = expr else { return None };
    let known = matches!(op, Operator::Eq | Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq);
    match (left.as_ref(), right.as_ref()) {
        (Expr::Column(c), Expr::Literal(v, _)) if known && !v.is_null() => Some((&c.name, *op, v)),
        (Expr::Literal(v, _), Expr::Column(c)) if known && !v.is_null() => Some((&c.name, op.swap()?, v)),
        _ => None,
    }
}

/// The values that the condition allows `column` to have, if it is `column = value`, `column IN (..)` or `.. OR ..` of these.
pub fn equal_to<'a>(condition: &'a Expr, column: &str) -> Option<Vec<&'a Expr>> {
    let is_column = |e: &Expr| matches!(e, Expr::Column(c) if c.name == column);
    let is_value = |e: &Expr| e.column_refs().is_empty();
    match condition {
        Expr::InList(list) if !list.negated && is_column(&list.expr) && list.list.iter().all(is_value) => {
            Some(list.list.iter().collect())
        }
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) => match (left.as_ref(), right.as_ref()) {
            (c, value) | (value, c) if is_column(c) && is_value(value) => Some(vec![value]),
            _ => None,
        },
        Expr::BinaryExpr(BinaryExpr { op: Operator::Or, .. }) => {
            let values = split_binary(condition, Operator::Or).into_iter().map(|c| equal_to(c, column));
            Some(values.collect::<Option<Vec<_>>>()?.into_iter().flatten().collect())
        }
        _ => None,
    }
}
