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
//! ```
//!
//! Both spellings are read: `TUMBLE(t, ts, INTERVAL '1 minute')` and
//! `TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '1' MINUTE))`, with arguments by name as well. A row without a time has no
//! window, so it does not appear. Without an offset it is zero.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectName, Query, Select, SelectItem,
    SetExpr, Statement, TableAlias, TableFactor, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::parser::Parser;
use tidemark_common::{Error, Result};

use super::build::{call, interval};
use super::dialect::TidemarkDialect;

/// Rewrites every window function in a FROM of `node`.
pub fn rewrite(node: &mut impl VisitMut) -> Result<()> {
    match node.visit(&mut Windows) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

pub(super) fn session_refused() -> Error {
    Error::unsupported("SESSION windows are not supported yet").with_hint("TUMBLE and HOP are.")
}

struct Windows;

impl VisitorMut for Windows {
    type Break = Error;

    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Error> {
        match window_call(factor).and_then(|found| found.map(WindowCall::into_derived_table).transpose()) {
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
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Tumble => "TUMBLE",
            Kind::Hop => "HOP",
        }
    }
}

struct WindowCall {
    kind: Kind,
    data: Expr,
    time: Expr,
    /// HOP only.
    slide: Option<Expr>,
    size: Expr,
    offset: Expr,
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
        "SESSION" => return Err(session_refused()),
        "CUMULATE" => {
            return Err(Error::unsupported("CUMULATE windows are not supported yet").with_hint("TUMBLE and HOP are."));
        }
        _ => return Ok(None),
    };
    arguments(kind, args, alias.clone()).map(Some)
}

fn arguments(kind: Kind, args: &[FunctionArg], alias: Option<TableAlias>) -> Result<WindowCall> {
    let (names, usage): (&[&str], _) = match kind {
        Kind::Tumble => (&["data", "timecol", "size", "offset"], "TUMBLE(table, time column, size [, offset])"),
        Kind::Hop => {
            (&["data", "timecol", "slide", "size", "offset"], "HOP(table, time column, slide, size [, offset])")
        }
    };
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
    let mut take = |name: &str| names.iter().position(|known| *known == name).and_then(|index| found[index].take());
    let required = |value: Option<Expr>, name: &str| {
        value.ok_or_else(|| usage_hint(Error::syntax(format!("{} needs its argument {name}", kind.name()))))
    };
    Ok(WindowCall {
        kind,
        data: required(take("data"), "data")?,
        time: time_column(required(take("timecol"), "timecol")?)?,
        slide: if kind == Kind::Hop { Some(required(take("slide"), "slide")?) } else { None },
        size: required(take("size"), "size")?,
        offset: take("offset").unwrap_or_else(|| interval("0 seconds".into())),
        alias,
    })
}

/// `DESCRIPTOR(ts)` or `ts`
fn time_column(expr: Expr) -> Result<Expr> {
    let is_descriptor = |name: &ObjectName| name.to_string().eq_ignore_ascii_case("descriptor");
    match &expr {
        Expr::Function(Function { name, args: FunctionArguments::List(list), .. }) if is_descriptor(name) => {
            match list.args.as_slice() {
                [FunctionArg::Unnamed(FunctionArgExpr::Expr(column))] => Ok(column.clone()),
                _ => Err(Error::syntax("DESCRIPTOR takes one column").with_hint("Write DESCRIPTOR(ts).")),
            }
        }
        Expr::Identifier(_) | Expr::CompoundIdentifier(_) => Ok(expr),
        _ => Err(Error::syntax(format!("the time of a window must be a column, not {expr}"))
            .with_hint("Compute it in a subquery: TUMBLE((SELECT ..., expression AS ts FROM t), ts, ...).")),
    }
}

impl WindowCall {
    fn into_derived_table(self) -> Result<TableFactor> {
        let (source, name) = source(self.data, self.kind)?;
        let is_timed = Expr::IsNotNull(Box::new(self.time.clone()));
        let query = match self.slide {
            None => {
                let args = vec![self.time, self.size, self.offset];
                let start = column(call("tidemark_tumble_start", args.clone()), "window_start");
                let end = column(call("tidemark_tumble_end", args), "window_end");
                select_all(source, vec![start, end], Some(is_timed))?
            }
            Some(slide) => {
                let starts = call("tidemark_hop_starts", vec![self.time, slide, self.size.clone(), self.offset]);
                let start = column(call("unnest", vec![starts]), "window_start");
                let inner = derived(select_all(source, vec![start], Some(is_timed))?, alias(name.clone()));
                let window_start = Expr::Identifier(Ident::new("window_start"));
                let end = column(call("tidemark_window_end", vec![window_start, self.size]), "window_end");
                select_all(inner, vec![end], None)?
            }
        };
        Ok(derived(query, self.alias.unwrap_or_else(|| alias(name))))
    }
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
    fn refusals_tell_what_to_write() {
        let error = |call: &str| rewritten(&format!("SELECT * FROM {call}")).unwrap_err();
        assert_eq!(error("SESSION(t, ts, INTERVAL '1 day')").code(), "0A000");
        assert_eq!(error("SESSION(t PARTITION BY k, ts, INTERVAL '1 day')").code(), "0A000");
        assert_eq!(error("SESSION(TABLE t PARTITION BY k, DESCRIPTOR(ts), INTERVAL '1 day')").code(), "0A000");
        assert_eq!(error("CUMULATE(t, ts, INTERVAL '1 day', INTERVAL '1 day')").code(), "0A000");
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
