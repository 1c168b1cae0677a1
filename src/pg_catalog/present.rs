//! A stored query under the names of today.
//!
//! A query is stored as it was written, with the relations as they were then ([`Read`]): it goes on meaning those, whatever they
//! are called since. Shown, it names them as they are now, in a text that means the same:
//!
//! ```text
//!   SELECT a FROM t     t is now called u:          SELECT a FROM u AS t
//!                       its column a is now x:      SELECT a FROM t AS t (a, b)
//! ```

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    self, Expr, FunctionArg, FunctionArgExpr, Ident, ObjectName, SelectItem, SetExpr, Statement, TableAlias,
    TableAliasColumnDef, TableFactor, visit_expressions,
};
use tidemark_catalog::{Catalog, Object, ObjectKind, Read, quote_ident};
use tidemark_sql::ast::fold;

use super::ddl::{cte_names, parse_query};
use super::output_names::output_names;

/// The query of a view or sink, without a semicolon; as it was written where no name has changed.
pub fn present_query(catalog: &Catalog, object: &Object) -> String {
    let Some((query, search_path)) = object.query() else { return String::new() };
    let text = query.trim().trim_end_matches(';').to_string();
    if object.reads.iter().all(|read| Now::of(catalog, read).is_none_or(|now| !now.differs())) {
        return text;
    }
    let Some(mut statement) = parse_query(&text) else { return text };
    let local = cte_names(&statement);
    let mut renaming = Renaming { catalog, reads: &object.reads, search_path, local };
    let _: ControlFlow<()> = ast::VisitMut::visit(&mut statement, &mut renaming);
    statement.to_string()
}

/// The query of a view as one that calls its columns as the view does.
///
/// ```text
///   CREATE VIEW v (x) AS SELECT a FROM t        SELECT a AS x FROM t
///   CREATE VIEW v (x) AS SELECT * FROM t        SELECT * FROM (SELECT * FROM t) AS v (x)
/// ```
pub fn named_query(catalog: &Catalog, object: &Object) -> String {
    let text = present_query(catalog, object);
    let own_names = match &object.kind {
        ObjectKind::View(view) => view.own_names,
        ObjectKind::MaterializedView(view) => view.own_names,
        _ => false,
    };
    if !own_names {
        return text;
    }
    let names: Vec<&str> = object.columns().iter().map(|c| c.name.as_str()).collect();
    if let Some(mut statement) = parse_query(&text)
        && name_items(&mut statement, &names).is_some()
    {
        return statement.to_string();
    }
    let names: Vec<String> = names.into_iter().map(quote_ident).collect();
    format!("SELECT * FROM ({text}) AS {} ({})", quote_ident(&object.name), names.join(", "))
}

/// Gives the select list its names; `None`: it has a `*`, or some name of it is used elsewhere.
fn name_items(statement: &mut Statement, names: &[&str]) -> Option<()> {
    let own = output_names(statement)?;
    let Statement::Query(query) = statement else { return None };
    let mut renamed: BTreeSet<&str> = BTreeSet::new();
    for (own, name) in own.iter().zip(names).filter(|(own, name)| own != *name) {
        renamed.extend([own.as_str(), name]);
    }
    let SetExpr::Select(select) = query.body.as_mut() else { return None };
    let mentioned = |expr: &Expr| match expr {
        Expr::Identifier(ident) if renamed.contains(fold(ident).as_str()) => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    let elsewhere = visit_expressions(&query.order_by, mentioned).is_break()
        || visit_expressions(&select.group_by, mentioned).is_break()
        || visit_expressions(&select.having, mentioned).is_break()
        || visit_expressions(&select.distinct, mentioned).is_break();
    if elsewhere || select.projection.len() != names.len() {
        return None;
    }
    for ((item, own), name) in select.projection.iter_mut().zip(&own).zip(names) {
        let (SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) = &*item else { return None };
        if own != name {
            *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias: ident(name) };
        }
    }
    Some(())
}

/// What a query knows of a relation, and what it is now.
struct Now<'a> {
    read: &'a Read,
    object: &'a Object,
    schema: &'a str,
}

impl<'a> Now<'a> {
    fn of(catalog: &'a Catalog, read: &'a Read) -> Option<Self> {
        let object = catalog.get(read.oid)?;
        Some(Self { read, object, schema: catalog.schema_name(object.schema) })
    }

    fn differs(&self) -> bool {
        self.object.name != self.read.name || self.schema != self.read.schema || self.columns_differ()
    }

    fn columns_differ(&self) -> bool {
        self.read.columns.iter().zip(self.object.columns()).any(|(then, now)| *then != now.name)
    }

    /// The columns as the query knows them, and those that have come since.
    fn columns(&self) -> Vec<TableAliasColumnDef> {
        let later = self.object.columns().iter().skip(self.read.columns.len()).map(|c| &c.name);
        let all = self.read.columns.iter().chain(later);
        all.map(|name| TableAliasColumnDef { name: ident(name), data_type: None }).collect()
    }
}

struct Renaming<'a> {
    catalog: &'a Catalog,
    reads: &'a [Read],
    search_path: &'a [String],
    /// Names of its own, which are no relations.
    local: BTreeSet<String>,
}

impl<'a> Renaming<'a> {
    /// What a name in the query means, if that has changed.
    fn changed(&self, parts: &[&Ident]) -> Option<Now<'a>> {
        let names: Vec<String> = parts.iter().map(|part| fold(part)).collect();
        let (schema, name) = match names.as_slice() {
            [name] if !self.local.contains(name) => (None, name),
            [schema, name] => (Some(schema.as_str()), name),
            [_, schema, name] => (Some(schema.as_str()), name),
            _ => return None,
        };
        let read = Read::find(self.reads, schema, name, self.search_path)?;
        Now::of(self.catalog, read).filter(Now::differs)
    }

    /// The shortest name that finds it.
    fn name_of(&self, now: &Now<'_>) -> Vec<Ident> {
        let found = self.catalog.find(None, &now.object.name, self.search_path);
        let bare = found.is_some_and(|o| o.oid == now.object.oid) && !self.local.contains(&now.object.name);
        let schema = (!bare).then(|| ident(now.schema));
        schema.into_iter().chain([ident(&now.object.name)]).collect()
    }

    fn table(&self, name: &mut ObjectName, alias: &mut Option<TableAlias>) {
        let parts: Vec<&Ident> = name.0.iter().filter_map(|part| part.as_ident()).collect();
        let Some(now) = self.changed(&parts) else { return };
        let called = ident(&now.read.name);
        *name = self.name_of(&now).into();
        let columns = if now.columns_differ() { now.columns() } else { Vec::new() };
        match alias {
            Some(alias) if alias.columns.is_empty() => alias.columns = columns,
            Some(_) => {}
            None if columns.is_empty() && now.object.name == now.read.name => {}
            None => *alias = Some(TableAlias { explicit: true, name: called, columns, at: None }),
        }
    }

    /// TUMBLE(t, ..): a relation as an argument.
    fn argument(&self, argument: &mut FunctionArg) {
        let FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) = argument else { return };
        let parts: Vec<&Ident> = match &*expr {
            Expr::Identifier(name) => vec![name],
            Expr::CompoundIdentifier(names) => names.iter().collect(),
            _ => return,
        };
        if let Some(now) = self.changed(&parts) {
            *expr = Expr::CompoundIdentifier(self.name_of(&now));
        }
    }
}

impl ast::VisitorMut for Renaming<'_> {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        match factor {
            TableFactor::Table { name, alias, args: None, .. } => self.table(name, alias),
            TableFactor::Table { args: Some(arguments), .. } => {
                arguments.args.iter_mut().take(1).for_each(|argument| self.argument(argument));
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

fn ident(text: &str) -> Ident {
    Ident { quote_style: (quote_ident(text) != text).then_some('"'), ..text.into() }
}
