//! Window table functions in FROM as plain SQL, so that a batch query and a view mean the same.
//!
//! ```text
//!   TUMBLE(t, ts, size)       ──▶  (SELECT *, tidemark_tumble_start(ts, size, offset) AS window_start,
//!                                           tidemark_tumble_end(ts, size, offset) AS window_end
//!                                    FROM t WHERE ts IS NOT NULL) AS t
//!
//!   HOP(t, ts, slide, size)   ──▶  (SELECT *, tidemark_window_end(window_start, size) AS window_end
//!                                    FROM (SELECT *, unnest(tidemark_hop_starts(ts, slide, size, offset)) AS window_start
//!                                            FROM t WHERE ts IS NOT NULL) AS t) AS t
//!
//!   CUMULATE(t, ts, step, size) as HOP, but of one start the ends: unnest(tidemark_cumulate_ends(ts, step, size, offset))
//!
//!   SESSION(t PARTITION BY k, ts, gap)
//!                             ──▶  (SELECT *, tidemark_session_start(ts, gap) OVER (PARTITION BY k ORDER BY ts) AS window_start,
//!                                           tidemark_session_end(ts, gap) OVER (PARTITION BY k ORDER BY ts) AS window_end
//!                                    FROM t WHERE ts IS NOT NULL) AS t
//! ```
//!
//! A query that says `window_time` gets it: the last millisecond of the window, as in Flink. Both spellings are read: `TUMBLE(t, ts, INTERVAL '1 minute')` and
//! `TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '1' MINUTE))`, with arguments by name as well. A row without a time has no
//! window, so it does not appear. Without an offset it is zero.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectName, Query, Select,
    SelectItem, SetExpr, Statement, TableAlias, TableFactor, VisitMut, VisitorMut, WindowType,
};
use datafusion::sql::sqlparser::parser::Parser;
use tidemark_common::{Error, Result};

use super::build::{call, interval};
use super::dialect::TidemarkDialect;

/// Rewrites every window function in a FROM of `node`.
pub fn rewrite(node: &mut impl VisitMut) -> Result<()> {
    let mut windows = Windows::default();
    let _ = node.visit(&mut Mentions(&mut windows.window_time));
    match node.visit(&mut windows) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

/// What `t PARTITION BY k` is parsed as: a call with t and the columns.
pub(super) const PARTITIONED: &str = "tidemark_partitioned";

#[derive(Default)]
struct Windows {
    /// The statement names a column window_time.
    window_time: bool,
}

/// Looks for the name window_time.
struct Mentions<'a>(&'a mut bool);

impl VisitorMut for Mentions<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        let name = match expr {
            Expr::Identifier(name) => Some(&*name),
            Expr::CompoundIdentifier(parts) => parts.last(),
            _ => None,
        };
        *self.0 |= name.is_some_and(|name| name.value.eq_ignore_ascii_case("window_time"));
        ControlFlow::Continue(())
    }
}

impl VisitorMut for Windows {
    type Break = Error;

    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Error> {
        let derived = |call: WindowCall| call.into_derived_table(self.window_time);
        match window_call(factor).and_then(|found| found.map(derived).transpose()) {
            Ok(Some(derived)) => *factor = derived,
            Ok(None) => {}
            Err(error) => return ControlFlow::Break(error),
        }
        ControlFlow::Continue(())
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Tumble,
    Hop,
    Cumulate,
    Session,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Tumble => "TUMBLE",
            Kind::Hop => "HOP",
            Kind::Cumulate => "CUMULATE",
            Kind::Session => "SESSION",
        }
    }

    /// Its arguments by name, those that must be given first, and how it is written.
    fn arguments(self) -> (&'static [&'static str], usize, &'static str) {
        match self {
            Kind::Tumble => (&["data", "timecol", "size", "offset"], 3, "TUMBLE(table, time column, size [, offset])"),
            Kind::Hop => {
                (&["data", "timecol", "slide", "size", "offset"], 4, "HOP(table, time column, slide, size [, offset])")
            }
            Kind::Cumulate => (
                &["data", "timecol", "step", "size", "offset"],
                4,
                "CUMULATE(table, time column, step, size [, offset])",
            ),
            Kind::Session => (
                &["data", "timecol", "gap", "max_length"],
                3,
                "SESSION(table [PARTITION BY (column, ..)], time column, gap [, longest length])",
            ),
        }
    }
}

struct WindowCall {
    kind: Kind,
    data: Expr,
    /// SESSION only.
    partition: Vec<Expr>,
    time: Expr,
    /// What follows the time, in order, without those that are left out at the end.
    spans: Vec<Expr>,
    alias: Option<TableAlias>,
}

fn window_call(factor: &TableFactor) -> Result<Option<WindowCall>> {
    let (name, args, alias) = match factor {
        TableFactor::Table { name, args: Some(args), alias, .. } => (name, &args.args, alias),
        TableFactor::Function { name, args, alias, .. } => (name, args, alias),
        TableFactor::TableFunction {
            expr: Expr::Function(Function { name, args: FunctionArguments::List(list), .. }),
            alias,
        } => (name, &list.args, alias),
        _ => return Ok(None),
    };
    let [part] = name.0.as_slice() else { return Ok(None) };
    let Some(ident) = part.as_ident() else { return Ok(None) };
    let kind = match ident.value.to_ascii_uppercase().as_str() {
        "TUMBLE" => Kind::Tumble,
        "HOP" => Kind::Hop,
        "CUMULATE" => Kind::Cumulate,
        "SESSION" => Kind::Session,
        _ => return Ok(None),
    };
    arguments(kind, args, alias.clone()).map(Some)
}

fn arguments(kind: Kind, args: &[FunctionArg], alias: Option<TableAlias>) -> Result<WindowCall> {
    let (names, needed, usage) = kind.arguments();
    let usage_hint = |error: Error| error.with_hint(format!("Write {usage}."));
    let mut found: Vec<Option<Expr>> = vec![None; names.len()];
    for (position, arg) in args.iter().enumerate() {
        let (index, value) = match arg {
            FunctionArg::Unnamed(value) => (Some(position), value),
            FunctionArg::Named { name, arg, .. } => {
                (names.iter().position(|known| name.value.eq_ignore_ascii_case(known)), arg)
            }
            FunctionArg::ExprNamed { .. } => (None, &FunctionArgExpr::Wildcard),
        };
        let (Some(index), FunctionArgExpr::Expr(value)) = (index, value) else {
            return Err(usage_hint(Error::syntax(format!("unexpected argument {arg} of {}", kind.name()))));
        };
        match found.get_mut(index) {
            Some(slot @ None) => *slot = Some(value.clone()),
            Some(Some(_)) => {
                return Err(usage_hint(Error::syntax(format!("argument {} is given twice", names[index]))));
            }
            None => return Err(usage_hint(Error::syntax(format!("too many arguments for {}", kind.name())))),
        }
    }
    if let Some(missing) = (0..needed).find(|index| found[*index].is_none()) {
        let message = format!("{} needs its argument {}", kind.name(), names[missing]);
        return Err(usage_hint(Error::syntax(message)));
    }
    let mut found = found.into_iter().flatten();
    let (Some(data), Some(time)) = (found.next(), found.next()) else {
        return Err(Error::internal("a window function has no arguments"));
    };
    let (data, partition) = partitioned(data);
    if kind != Kind::Session && !partition.is_empty() {
        return Err(Error::syntax(format!("{} takes no PARTITION BY", kind.name()))
            .with_hint("Its windows are the same for all rows: GROUP BY the column, too."));
    }
    let mut spans: Vec<Expr> = found.collect();
    if kind != Kind::Session && spans.len() + 2 < names.len() {
        spans.push(interval("0 seconds".into()));
    }
    Ok(WindowCall { kind, data, partition, time: time_column(kind, time)?, spans, alias })
}

/// `t PARTITION BY (a, b)`: t, and a and b.
fn partitioned(data: Expr) -> (Expr, Vec<Expr>) {
    let mut parts = match &data {
        Expr::Function(Function { name, args: FunctionArguments::List(list), .. })
            if name.to_string() == PARTITIONED =>
        {
            list.args.iter().filter_map(|arg| match arg {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
                _ => None,
            })
        }
        _ => return (data, Vec::new()),
    };
    match parts.next() {
        Some(table) => (table, parts.collect()),
        None => (data, Vec::new()),
    }
}

/// `DESCRIPTOR(ts)` or `ts`
fn time_column(kind: Kind, expr: Expr) -> Result<Expr> {
    let is_descriptor = |name: &ObjectName| name.to_string().eq_ignore_ascii_case("descriptor");
    match &expr {
        Expr::Function(Function { name, args: FunctionArguments::List(list), .. }) if is_descriptor(name) => {
            match list.args.as_slice() {
                [FunctionArg::Unnamed(FunctionArgExpr::Expr(column))] => Ok(column.clone()),
                _ => Err(Error::syntax("DESCRIPTOR takes one column").with_hint("Write DESCRIPTOR(ts).")),
            }
        }
        Expr::Identifier(_) | Expr::CompoundIdentifier(_) => Ok(expr),
        // The time of processing is known without a column; what comes before a session is not.
        Expr::Function(Function { name, .. })
            if kind != Kind::Session && name.to_string().eq_ignore_ascii_case("proctime") =>
        {
            Ok(expr)
        }
        _ => Err(Error::syntax(format!("the time of a window must be a column, not {expr}"))
            .with_hint("Compute it in a subquery: TUMBLE((SELECT ..., expression AS ts FROM t), ts, ...).")),
    }
}

impl WindowCall {
    fn into_derived_table(self, window_time: bool) -> Result<TableFactor> {
        let (source, name) = source(self.data, self.kind)?;
        let is_timed = Expr::IsNotNull(Box::new(self.time.clone()));
        let args = [vec![self.time.clone()], self.spans.clone()].concat();
        let query = match self.kind {
            Kind::Tumble => {
                let start = column(call("tidemark_tumble_start", args.clone()), "window_start");
                let end = column(call("tidemark_tumble_end", args), "window_end");
                select_all(source, vec![start, end], Some(is_timed))?
            }
            Kind::Session => {
                let over = |name: &str| session_call(name, args.clone(), &self.partition, &self.time);
                let start = column(over("tidemark_session_start")?, "window_start");
                let end = column(over("tidemark_session_end")?, "window_end");
                select_all(source, vec![start, end], Some(is_timed))?
            }
            Kind::Hop => {
                let start = column(call("unnest", vec![call("tidemark_hop_starts", args)]), "window_start");
                let inner = derived(select_all(source, vec![start], Some(is_timed))?, alias(name.clone()));
                let start = Expr::Identifier(Ident::new("window_start"));
                let size = self.spans[1].clone();
                let end = column(call("tidemark_window_end", vec![start, size]), "window_end");
                select_all(inner, vec![end], None)?
            }
            Kind::Cumulate => {
                let [_, size, offset] = [0, 1, 2].map(|at| self.spans[at].clone());
                let start = call("tidemark_tumble_start", vec![self.time, size, offset]);
                let end = column(call("unnest", vec![call("tidemark_cumulate_ends", args)]), "window_end");
                select_all(source, vec![column(start, "window_start"), end], Some(is_timed))?
            }
        };
        let query = match window_time {
            false => query,
            true => {
                let end = Box::new(Expr::Identifier(Ident::new("window_end")));
                let right = Box::new(interval("1 millisecond".into()));
                let time = Expr::BinaryOp { left: end, op: BinaryOperator::Minus, right };
                select_all(derived(query, alias(name.clone())), vec![column(time, "window_time")], None)?
            }
        };
        Ok(derived(query, self.alias.unwrap_or_else(|| alias(name))))
    }
}

/// `name(args) OVER (PARTITION BY partition ORDER BY time)`
fn session_call(name: &str, args: Vec<Expr>, partition: &[Expr], time: &Expr) -> Result<Expr> {
    let mut query = template("SELECT f() OVER (PARTITION BY p ORDER BY t)")?;
    let Some(SelectItem::UnnamedExpr(Expr::Function(mut function))) = select_of(&mut query)?.projection.pop() else {
        return Err(Error::internal("the template of a window function has none"));
    };
    if let Expr::Function(called) = call(name, args) {
        (function.name, function.args) = (called.name, called.args);
    }
    if let Some(WindowType::WindowSpec(spec)) = &mut function.over {
        spec.partition_by = partition.to_vec();
        spec.order_by.iter_mut().for_each(|order| order.expr = time.clone());
    }
    Ok(Expr::Function(function))
}

/// The windowed relation, and the name that the result has unless it gets another.
fn source(data: Expr, kind: Kind) -> Result<(TableFactor, Ident)> {
    let data = match data {
        Expr::Prefixed { value, .. } => *value,
        other => other,
    };
    let parts = match data {
        Expr::Identifier(ident) => vec![ident],
        Expr::CompoundIdentifier(parts) => parts,
        Expr::Subquery(query) => {
            let name = Ident::new(kind.name().to_lowercase());
            return Ok((derived(query, alias(name.clone())), name));
        }
        other => {
            return Err(Error::syntax(format!("a window function needs a table, not {other}"))
                .with_hint("Name a table, a source or a view, or give a query in brackets."));
        }
    };
    let name = parts.last().cloned().ok_or_else(|| Error::internal("a name has no parts"))?;
    let mut query = template("SELECT * FROM t")?;
    let mut factor = std::mem::take(&mut select_of(&mut query)?.from)
        .pop()
        .map(|table| table.relation)
        .ok_or_else(|| Error::internal("template without a table"))?;
    if let TableFactor::Table { name, .. } = &mut factor {
        *name = ObjectName::from(parts);
    }
    Ok((factor, name))
}

/// `SELECT *, columns FROM source WHERE condition`
fn select_all(source: TableFactor, columns: Vec<SelectItem>, condition: Option<Expr>) -> Result<Box<Query>> {
    let mut query = template("SELECT * FROM t")?;
    let select = select_of(&mut query)?;
    select.projection.extend(columns);
    select.selection = condition;
    match select.from.first_mut() {
        Some(table) => table.relation = source,
        None => return Err(Error::internal("template without a table")),
    }
    Ok(query)
}

fn column(expr: Expr, name: &str) -> SelectItem {
    SelectItem::ExprWithAlias { expr, alias: Ident::new(name) }
}

pub(crate) fn derived(subquery: Box<Query>, alias: TableAlias) -> TableFactor {
    TableFactor::Derived { lateral: false, subquery, alias: Some(alias), sample: None }
}

pub(crate) fn alias(name: Ident) -> TableAlias {
    TableAlias { explicit: true, name, columns: vec![], at: None }
}

pub(crate) fn template(sql: &str) -> Result<Box<Query>> {
    let dialect = TidemarkDialect::for_tokens(0);
    match Parser::parse_sql(&dialect, sql).as_deref() {
        Ok([Statement::Query(query)]) => Ok(query.clone()),
        other => Err(Error::internal(format!("template {sql} gives {other:?}"))),
    }
}

pub(crate) fn select_of(query: &mut Query) -> Result<&mut Select> {
    match query.body.as_mut() {
        SetExpr::Select(select) => Ok(select),
        other => Err(Error::internal(format!("template is not a SELECT: {other}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ast::Statement;

    fn rewritten(sql: &str) -> Result<String> {
        let Statement::Sql(mut statement) = crate::grammar::parse_one(sql)?.statement else { panic!("{sql}") };
        rewrite(statement.as_mut())?;
        Ok(statement.to_string())
    }

    const TUMBLED: &str = "SELECT *, tidemark_tumble_start(ts, INTERVAL '1' MINUTE, INTERVAL '0 seconds') AS window_start, \
        tidemark_tumble_end(ts, INTERVAL '1' MINUTE, INTERVAL '0 seconds') AS window_end FROM t WHERE ts IS NOT NULL";

    #[test]
    fn all_spellings_of_tumble_are_one() {
        for call in [
            "TUMBLE(t, ts, INTERVAL '1' MINUTE)",
            "tumble(TABLE t, DESCRIPTOR(ts), INTERVAL '1' MINUTE)",
            "TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '1' MINUTE))",
            "TUMBLE(data => TABLE t, timecol => DESCRIPTOR(ts), size => INTERVAL '1' MINUTE)",
            "TUMBLE(size => INTERVAL '1' MINUTE, DATA => t, TIMECOL => ts)",
        ] {
            assert_eq!(
                rewritten(&format!("SELECT * FROM {call}")).unwrap(),
                format!("SELECT * FROM ({TUMBLED}) AS t"),
                "{call}"
            );
        }
        assert_eq!(
            rewritten("SELECT w.a FROM TUMBLE(t, ts, INTERVAL '1' MINUTE) AS w").unwrap(),
            format!("SELECT w.a FROM ({TUMBLED}) AS w")
        );
    }

    #[test]
    fn tumble_over_other_relations() {
        let check = |call: &str, from: &str| {
            let text = rewritten(&format!("SELECT * FROM {call}")).unwrap();
            assert!(text.ends_with(from), "{text}");
        };
        check("TUMBLE(app.t, ts, INTERVAL '1 day')", "FROM app.t WHERE ts IS NOT NULL) AS t");
        check("TUMBLE(TABLE \"T\", \"Ts\", INTERVAL '1 day')", "FROM \"T\" WHERE \"Ts\" IS NOT NULL) AS \"T\"");
        check(
            "TUMBLE((SELECT 1 AS ts), ts, INTERVAL '1 day')",
            "FROM (SELECT 1 AS ts) AS tumble WHERE ts IS NOT NULL) AS tumble",
        );
        check(
            "TUMBLE(TABLE (SELECT 1 AS ts), ts, INTERVAL '1 day') x",
            "FROM (SELECT 1 AS ts) AS tumble WHERE ts IS NOT NULL) x",
        );
        let nested = rewritten("SELECT * FROM TUMBLE((SELECT * FROM HOP(t, ts, s, z)), ts, z)").unwrap();
        assert!(nested.contains("tidemark_hop_starts") && nested.contains("tidemark_tumble_end"), "{nested}");
    }

    #[test]
    fn hop() {
        let expected = "SELECT * FROM (SELECT *, tidemark_window_end(window_start, INTERVAL '10 minutes') AS window_end FROM \
            (SELECT *, unnest(tidemark_hop_starts(ts, INTERVAL '5 minutes', INTERVAL '10 minutes', INTERVAL '1 minute')) \
            AS window_start FROM t WHERE ts IS NOT NULL) AS t) AS t";
        for call in [
            "HOP(t, ts, INTERVAL '5 minutes', INTERVAL '10 minutes', INTERVAL '1 minute')",
            "TABLE(HOP(TABLE t, DESCRIPTOR(ts), INTERVAL '5 minutes', INTERVAL '10 minutes', INTERVAL '1 minute'))",
        ] {
            assert_eq!(rewritten(&format!("SELECT * FROM {call}")).unwrap(), expected);
        }
    }

    #[test]
    fn session() {
        let check = |call: &str, over: &str| {
            let one =
                |which: &str| format!("tidemark_session_{which}(ts, g) OVER ({over}ORDER BY ts) AS window_{which}");
            let expected =
                format!("SELECT * FROM (SELECT *, {}, {} FROM t WHERE ts IS NOT NULL) AS t", one("start"), one("end"));
            assert_eq!(rewritten(&format!("SELECT * FROM {call}")).unwrap(), expected, "{call}");
        };
        check("SESSION(t, ts, g)", "");
        check("SESSION(t PARTITION BY k, ts, g)", "PARTITION BY k ");
        check("TABLE(SESSION(TABLE t PARTITION BY (k, v), DESCRIPTOR(ts), g))", "PARTITION BY k, v ");
        check("SESSION(data => TABLE t PARTITION BY k, gap => g, timecol => DESCRIPTOR(ts))", "PARTITION BY k ");
    }

    #[test]
    fn cumulate_and_window_time() {
        assert_eq!(
            rewritten("SELECT window_time FROM CUMULATE(t, ts, s, z)").unwrap(),
            "SELECT window_time FROM (SELECT *, window_end - INTERVAL '1 millisecond' AS window_time FROM \
             (SELECT *, tidemark_tumble_start(ts, z, INTERVAL '0 seconds') AS window_start, \
             unnest(tidemark_cumulate_ends(ts, s, z, INTERVAL '0 seconds')) AS window_end FROM t WHERE ts IS NOT NULL) AS t) AS t"
        );
    }

    #[test]
    fn refusals_tell_what_to_write() {
        let error = |call: &str| rewritten(&format!("SELECT * FROM {call}")).unwrap_err();
        assert_eq!(error("SESSION(t, ts)").message(), "SESSION needs its argument gap");
        assert_eq!(error("SESSION(t PARTITION BY k, v, ts, a, b)").message(), "too many arguments for SESSION");
        assert_eq!(error("TUMBLE(t PARTITION BY k, ts, a)").message(), "TUMBLE takes no PARTITION BY");
        assert_eq!(error("CUMULATE(t, ts, INTERVAL '1 day')").message(), "CUMULATE needs its argument size");
        let e = error("TUMBLE(t, ts)");
        assert_eq!(
            (e.message(), e.hint()),
            ("TUMBLE needs its argument size", Some("Write TUMBLE(table, time column, size [, offset])."))
        );
        assert_eq!(error("TUMBLE(t, ts, a, b, c)").message(), "too many arguments for TUMBLE");
        assert_eq!(error("TUMBLE(t, ts + 1, a)").code(), "42601");
        assert_eq!(error("HOP(1, ts, a, b)").code(), "42601");
        assert_eq!(error("TUMBLE(t, data => t, size => a)").message(), "argument data is given twice");
    }

    #[test]
    fn other_functions_stay() {
        for sql in [
            "SELECT * FROM generate_series(1, 2)",
            "SELECT hop(1, 2)",
            "SELECT * FROM tumble",
            "SELECT * FROM app.hop(1)",
        ] {
            assert_eq!(rewritten(sql).unwrap(), sql);
        }
    }
}
