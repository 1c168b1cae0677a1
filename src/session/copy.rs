//! COPY: rows in from the client and out to it, past the planner.
//!
//! ```text
//!   COPY t FROM STDIN ─▶ CopyState (constraints, defaults: planned once) ◀── batches, typed by the decoder already
//!   COPY t | (query) TO STDOUT ─▶ a query's rows in COPY's format
//! ```

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{Field, Schema};
use datafusion::sql::sqlparser::ast as sql;
use tidemark_common::{Error, Result, SqlState};

use super::assign::Source;
use super::dml::{self, Writer};
use super::insert::Defaults;
use super::load::{Way, given_to_load};
use super::normalize::given_type;
use super::{CopyFormat, CopyIn, CopyOptions, Outcome, Rows, RowsTag, Session, fold, select};
use crate::coordinator::loads::load_of;
use crate::query::find_relation;

/// A COPY .. FROM STDIN under way.
pub(super) struct CopyState {
    pub rows: u64,
    writer: Writer,
    positions: Vec<usize>,
    defaults: Defaults,
    way: Way,
}

impl Session {
    pub(super) async fn copy(
        &mut self,
        source: &sql::CopySource,
        to: bool,
        target: &sql::CopyTarget,
        options: &[sql::CopyOption],
        legacy: &[sql::CopyLegacyOption],
    ) -> Result<Outcome> {
        check_target(target, to)?;
        let given = Given::read(options, legacy)?;
        match source {
            sql::CopySource::Query(_) if !to => Err(Error::syntax("COPY query only works with TO")),
            sql::CopySource::Query(query) => {
                let names = self.names(None)?;
                self.copy_out(names.plan(query)?, given).await
            }
            sql::CopySource::Table { table_name, columns } if to => {
                let catalog = self.transaction()?.catalog.clone();
                let wildcard = columns.is_empty();
                if !wildcard && let Ok(object) = find_relation(&catalog, table_name, &self.search_path()) {
                    dml::column_positions(&object, columns)?;
                }
                let items = columns.iter().cloned().map(|c| sql::SelectItem::UnnamedExpr(sql::Expr::Identifier(c)));
                let items = match wildcard {
                    true => vec![sql::SelectItem::Wildcard(sql::WildcardAdditionalOptions::default())],
                    false => items.collect(),
                };
                let from = crate::coordinator::definitions::stored_query(&format!("SELECT * FROM {table_name}"))?;
                let sql::SetExpr::Select(select) = *from.body else {
                    return Err(Error::internal("a query is no SELECT"));
                };
                let plan = self.names(None)?.plan(&dml::select_query(items, select.from, None)?)?;
                self.copy_out(plan, given).await
            }
            sql::CopySource::Table { table_name, columns } => self.copy_in(table_name, columns, given).await,
        }
    }

    async fn copy_out(&mut self, plan: datafusion::logical_expr::LogicalPlan, given: Given) -> Result<Outcome> {
        let names = self.names(None)?;
        let (schema, stream) = select::execute(&names, plan).await?;
        let columns: Vec<String> = schema.fields().iter().map(|f| f.name().clone()).collect();
        let options = given.settle(&columns, true)?;
        Ok(Outcome::CopyOut(Rows { schema, stream, tag: RowsTag::Count("COPY"), live: false, binary: false }, options))
    }

    pub(super) async fn copy_subscribe(
        &mut self,
        subscribe: &tidemark_sql::ast::Subscribe,
        copy: &sql::Statement,
    ) -> Result<Outcome> {
        let sql::Statement::Copy { to, target, options, legacy_options, .. } = copy else {
            return Err(Error::internal("not a COPY"));
        };
        check_target(target, *to)?;
        let schema = self.subscribe_schema(subscribe)?;
        let columns: Vec<String> = schema.fields().iter().map(|f| f.name().clone()).collect();
        let options = Given::read(options, legacy_options)?.settle(&columns, true)?;
        self.subscribe(subscribe, Some(options)).await
    }

    async fn copy_in(&mut self, table: &sql::ObjectName, columns: &[sql::Ident], given: Given) -> Result<Outcome> {
        let object = self.table_to_change(table, "copy to")?;
        let names = self.names(None)?;
        let writer = self.writer(&names, &object)?;
        let positions = dml::column_positions(&object, columns)?;
        let positions = given_to_load(&object, positions, columns.is_empty())?;
        let load = load_of(&object)?;
        // What is not text is of the columns' own types.
        let binary = given.format == Some(CopyFormat::Binary);
        let of = |at: &usize| {
            let column = &object.columns()[*at];
            let sql_type = if binary { column.sql_type.clone() } else { given_type(column) };
            sql_type.to_field(&column.name, true)
        };
        let fields: Vec<Field> = positions.iter().map(of).collect();
        let named: Vec<String> = fields.iter().map(|f| f.name().clone()).collect();
        let options = given.settle(&named, false)?;
        // Refused now, before the client has sent anything.
        match object.remote() {
            Some(_) => self.refuse_in_block("COPY", &object.name)?,
            None => drop(self.transaction_mut()?.buffer_mut(&writer.def)?),
        }
        let way = self.open_way(&writer, load, None).await?;
        let defaults = Defaults::for_load(&names, &object, &positions, &self.db.environment)?;
        self.copy = Some(CopyState { rows: 0, writer, positions, defaults, way });
        Ok(Outcome::CopyIn(CopyIn { schema: Arc::new(Schema::new(fields)), options }))
    }

    /// Rows of the columns that [`CopyIn`] asked for.
    pub(super) async fn copy_rows(&mut self, batch: RecordBatch) -> Result<()> {
        let Some(mut copy) = self.copy.take() else {
            return Err(Error::new(SqlState::ProtocolViolation, "there is no COPY under way"));
        };
        let rows = batch.num_rows();
        copy.rows += rows as u64;
        let columns = match copy.writer.normalizer {
            None => batch.columns().to_vec(),
            Some(_) => {
                let sources: Vec<Source> = batch.schema().fields().iter().map(|f| Source::typed(f)).collect();
                copy.writer.assign(batch.columns(), &sources, &copy.positions)?
            }
        };
        if !copy.way.is_direct() {
            let columns = copy.defaults.columns(&copy.writer, &copy.positions, columns, rows)?;
            copy.way.take(&columns, rows, self.transaction()?.room()).await?;
            self.copy = Some(copy);
            return Ok(());
        }
        let stored = copy.defaults.complete(&copy.writer, &copy.positions, columns, rows)?;
        copy.writer.check(&stored)?;
        copy.writer.add(stored, self.transaction_mut()?)?;
        self.copy = Some(copy);
        Ok(())
    }

    /// All rows have come; how many.
    pub(super) async fn copy_end(&mut self) -> Result<u64> {
        let Some(copy) = self.copy.take() else {
            return Err(Error::new(SqlState::ProtocolViolation, "there is no COPY under way"));
        };
        let object = copy.writer.object.clone();
        self.close_way(&object, copy.writer, copy.way).await?;
        Ok(copy.rows)
    }
}

fn check_target(target: &sql::CopyTarget, to: bool) -> Result<()> {
    let refuse = |what: &str| {
        Err(Error::new(
            SqlState::FeatureNotSupported,
            format!("COPY {what} is not supported: the server does not touch its files"),
        )
        .with_hint("Use psql's \\copy, which sends the client's file, or a file SOURCE or SINK."))
    };
    match (target, to) {
        (sql::CopyTarget::Stdin, false) | (sql::CopyTarget::Stdout, true) => Ok(()),
        (sql::CopyTarget::Stdin, true) => {
            Err(Error::syntax("COPY TO STDIN makes no sense").with_hint("Use TO STDOUT."))
        }
        (sql::CopyTarget::Stdout, false) => {
            Err(Error::syntax("COPY FROM STDOUT makes no sense").with_hint("Use FROM STDIN."))
        }
        (sql::CopyTarget::File { .. }, false) => refuse("FROM a file"),
        (sql::CopyTarget::File { .. }, true) => refuse("TO a file"),
        (sql::CopyTarget::Program { .. }, false) => refuse("FROM PROGRAM"),
        (sql::CopyTarget::Program { .. }, true) => refuse("TO PROGRAM"),
    }
}

/// Options as they were given, in either grammar.
#[derive(Debug, Default)]
struct Given {
    format: Option<CopyFormat>,
    delimiter: Option<char>,
    null: Option<String>,
    header: Option<bool>,
    quote: Option<char>,
    escape: Option<char>,
    force_quote: Option<Vec<sql::Ident>>,
    force_not_null: Option<Vec<sql::Ident>>,
    force_null: Option<Vec<sql::Ident>>,
}

fn once<T>(slot: &mut Option<T>, value: T) -> Result<()> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(Error::syntax("conflicting or redundant options")),
    }
}

impl Given {
    fn read(options: &[sql::CopyOption], legacy: &[sql::CopyLegacyOption]) -> Result<Given> {
        let mut given = Given::default();
        for option in options {
            given.option(option)?;
        }
        for option in legacy {
            given.legacy(option)?;
        }
        Ok(given)
    }

    fn option(&mut self, option: &sql::CopyOption) -> Result<()> {
        use sql::CopyOption as O;
        match option {
            O::Format(name) => once(
                &mut self.format,
                match fold(name).as_str() {
                    "text" => CopyFormat::Text,
                    "csv" => CopyFormat::Csv,
                    "binary" => CopyFormat::Binary,
                    other => {
                        return Err(Error::invalid(format!("COPY format \"{other}\" not recognized"))
                            .with_hint("The formats are text, csv and binary."));
                    }
                },
            ),
            O::Freeze(_) => Ok(()),
            O::Delimiter(c) => once(&mut self.delimiter, *c),
            O::Null(text) => once(&mut self.null, text.clone()),
            O::Header(on) => once(&mut self.header, *on),
            O::Quote(c) => once(&mut self.quote, *c),
            O::Escape(c) => once(&mut self.escape, *c),
            O::ForceQuote(columns) => once(&mut self.force_quote, columns.clone()),
            O::ForceNotNull(columns) => once(&mut self.force_not_null, columns.clone()),
            O::ForceNull(columns) => once(&mut self.force_null, columns.clone()),
            O::Encoding(name) => {
                let plain: String = name.to_lowercase().chars().filter(char::is_ascii_alphanumeric).collect();
                match plain.as_str() {
                    "utf8" | "unicode" => Ok(()),
                    _ => Err(Error::unsupported(format!("COPY encoding \"{name}\" is not supported"))
                        .with_hint("Convert the data to UTF8.")),
                }
            }
        }
    }

    fn legacy(&mut self, option: &sql::CopyLegacyOption) -> Result<()> {
        use sql::{CopyLegacyCsvOption as C, CopyLegacyOption as O};
        match option {
            O::Binary => once(&mut self.format, CopyFormat::Binary),
            O::Delimiter(c) => once(&mut self.delimiter, *c),
            O::Null(text) => once(&mut self.null, text.clone()),
            O::Header => once(&mut self.header, true),
            O::Csv(options) => {
                once(&mut self.format, CopyFormat::Csv)?;
                options.iter().try_for_each(|option| match option {
                    C::Header => once(&mut self.header, true),
                    C::Quote(c) => once(&mut self.quote, *c),
                    C::Escape(c) => once(&mut self.escape, *c),
                    C::ForceQuote(columns) => once(&mut self.force_quote, columns.clone()),
                    C::ForceNotNull(columns) => once(&mut self.force_not_null, columns.clone()),
                })
            }
            other => Err(Error::syntax(format!("option {other} of COPY is not recognized"))),
        }
    }

    /// Defaults and Postgres' rules. `columns`: what is copied; `to`: out to the client.
    fn settle(self, columns: &[String], to: bool) -> Result<CopyOptions> {
        let format = self.format.unwrap_or_default();
        let csv = format == CopyFormat::Csv;
        self.check_format(format, to)?;
        let delimiter = match self.delimiter {
            Some(c) => one_byte(c, "delimiter")?,
            None => {
                if csv {
                    b','
                } else {
                    b'\t'
                }
            }
        };
        let quote = self.quote.map(|c| one_byte(c, "quote")).transpose()?.unwrap_or(b'"');
        let escape = self.escape.map(|c| one_byte(c, "escape")).transpose()?.unwrap_or(quote);
        let null = self.null.unwrap_or_else(|| if csv { String::new() } else { "\\N".into() });
        check_characters(format, delimiter, quote, &null)?;
        Ok(CopyOptions {
            format,
            delimiter,
            null,
            header: self.header.unwrap_or(false),
            quote,
            escape,
            force_quote: forced(self.force_quote, columns, "FORCE_QUOTE")?,
            force_not_null: forced(self.force_not_null, columns, "FORCE_NOT_NULL")?,
            force_null: forced(self.force_null, columns, "FORCE_NULL")?,
        })
    }

    fn check_format(&self, format: CopyFormat, to: bool) -> Result<()> {
        if format == CopyFormat::Binary {
            let misplaced = [
                ("DELIMITER", self.delimiter.is_some()),
                ("NULL", self.null.is_some()),
                ("HEADER", self.header == Some(true)),
            ];
            if let Some((name, _)) = misplaced.into_iter().find(|(_, given)| *given) {
                return Err(Error::syntax(format!("cannot specify {name} in BINARY mode")));
            }
        }
        let csv_only = [
            ("QUOTE", self.quote.is_some()),
            ("ESCAPE", self.escape.is_some()),
            ("FORCE_QUOTE", self.force_quote.is_some()),
            ("FORCE_NOT_NULL", self.force_not_null.is_some()),
            ("FORCE_NULL", self.force_null.is_some()),
        ];
        if format != CopyFormat::Csv
            && let Some((name, _)) = csv_only.into_iter().find(|(_, given)| *given)
        {
            return Err(Error::unsupported(format!("COPY {name} requires CSV mode")).with_hint("Add FORMAT csv."));
        }
        let wrong_way = match to {
            true => [("FORCE_NOT_NULL", self.force_not_null.is_some()), ("FORCE_NULL", self.force_null.is_some())],
            false => [("FORCE_QUOTE", self.force_quote.is_some()), ("", false)],
        };
        if let Some((name, _)) = wrong_way.into_iter().find(|(_, given)| *given) {
            let way = if to { "TO" } else { "FROM" };
            return Err(Error::unsupported(format!("COPY {name} cannot be used with COPY {way}")));
        }
        Ok(())
    }
}

fn one_byte(c: char, what: &str) -> Result<u8> {
    u8::try_from(c)
        .ok()
        .filter(|b| b.is_ascii() && *b != 0)
        .ok_or_else(|| Error::unsupported(format!("COPY {what} must be a single one-byte character")))
}

fn check_characters(format: CopyFormat, delimiter: u8, quote: u8, null: &str) -> Result<()> {
    if matches!(delimiter, b'\n' | b'\r') {
        return Err(Error::invalid("COPY delimiter cannot be newline or carriage return"));
    }
    if null.contains(['\n', '\r']) {
        return Err(Error::invalid("COPY null representation cannot use newline or carriage return"));
    }
    if format == CopyFormat::Text && b"\\.abcdefghijklmnopqrstuvwxyz0123456789".contains(&delimiter) {
        return Err(Error::invalid(format!("COPY delimiter cannot be \"{}\"", char::from(delimiter))));
    }
    if format == CopyFormat::Csv && delimiter == quote {
        return Err(Error::invalid("COPY delimiter and quote must be different"));
    }
    if null.as_bytes().contains(&delimiter) {
        return Err(Error::invalid("COPY delimiter character must not appear in the NULL specification"));
    }
    if format == CopyFormat::Csv && null.as_bytes().contains(&quote) {
        return Err(Error::invalid("CSV quote character must not appear in the NULL specification"));
    }
    Ok(())
}

/// Columns by position; `*` is all of them.
fn forced(idents: Option<Vec<sql::Ident>>, columns: &[String], option: &str) -> Result<Vec<usize>> {
    let idents = idents.unwrap_or_default();
    if let [all] = idents.as_slice()
        && all.value == "*"
    {
        return Ok((0..columns.len()).collect());
    }
    let position = |ident: &sql::Ident| {
        let name = fold(ident);
        columns.iter().position(|c| *c == name).ok_or_else(|| {
            Error::new(SqlState::InvalidColumnReference, format!("{option} column \"{name}\" not referenced by COPY"))
        })
    };
    idents.iter().map(position).collect()
}

#[cfg(test)]
mod tests {
    use tidemark_sql::ast::Statement;
    use tidemark_sql::grammar;

    use super::*;

    fn options(text: &str, to: bool) -> Result<CopyOptions> {
        let way = if to { "TO STDOUT" } else { "FROM STDIN" };
        let parsed = grammar::parse_one(&format!("COPY t {way} {text}"))?;
        let Statement::Sql(statement) = parsed.statement else { panic!("{text}") };
        let sql::Statement::Copy { options, legacy_options, .. } = *statement else { panic!("{text}") };
        Given::read(&options, &legacy_options)?.settle(&["a".into(), "b".into()], to)
    }

    #[test]
    fn both_grammars_mean_the_same() {
        let new = options("WITH (FORMAT csv, HEADER, DELIMITER ';', QUOTE '|')", false).unwrap();
        assert_eq!(new, options("WITH DELIMITER ';' CSV HEADER QUOTE '|'", false).unwrap());
        assert_eq!((new.delimiter, new.quote, new.escape, new.header), (b';', b'|', b'|', true));
        assert_eq!(new.null, "");
        let text = options("", true).unwrap();
        assert_eq!((text.format, text.delimiter, text.null.as_str()), (CopyFormat::Text, b'\t', "\\N"));
        assert_eq!(options("WITH (FORMAT csv, FORCE_QUOTE *)", true).unwrap().force_quote, [0, 1]);
    }

    #[test]
    fn mistakes_are_said_as_in_postgres() {
        let message = |text, to| {
            let error = options(text, to).unwrap_err();
            format!("{} {}", error.code(), error.message())
        };
        assert_eq!(message("WITH (FORMAT xml)", false), "22023 COPY format \"xml\" not recognized");
        assert_eq!(message("WITH (HEADER, HEADER)", false), "42601 conflicting or redundant options");
        assert_eq!(message("WITH (QUOTE '|')", false), "0A000 COPY QUOTE requires CSV mode");
        assert_eq!(
            message("WITH (FORMAT binary, DELIMITER ',')", true),
            "42601 cannot specify DELIMITER in BINARY mode"
        );
        assert_eq!(message("WITH (DELIMITER 'a')", true), "22023 COPY delimiter cannot be \"a\"");
        assert_eq!(
            message("WITH (FORMAT csv, FORCE_NULL (c))", false),
            "42P10 FORCE_NULL column \"c\" not referenced by COPY"
        );
        assert_eq!(
            message("WITH (FORMAT csv, FORCE_NULL (a))", true),
            "0A000 COPY FORCE_NULL cannot be used with COPY TO"
        );
        assert_eq!(
            message("WITH (FORMAT csv, DELIMITER '\"')", true),
            "22023 COPY delimiter and quote must be different"
        );
    }
}
