//! CREATE SOURCE.

use tidemark_catalog::{Change, Column, Format, ObjectKind, Source, Watermark, columns_of};
use tidemark_common::{Error, Result, SqlState};
use tidemark_connectors::FormatSpec;
use tidemark_sql::ast::CreateSource;
use tidemark_sql::grammar;

use super::{already_exists, definitions};
use crate::session::{Outcome, Session, fold};
use crate::transaction::PlannedStep;

impl Session {
    pub(crate) async fn create_source(&mut self, create: &CreateSource) -> Result<Outcome> {
        let done = || Ok(Outcome::Command("CREATE SOURCE".into()));
        let target = self.target(&create.name, false)?;
        let mut changes = Vec::new();
        let mut steps = Vec::new();
        if let Some(before) = self.existing(&target)? {
            if create.if_not_exists {
                self.tell(format!("relation \"{}\" already exists, skipping", before.name));
                return done();
            }
            if !create.or_replace {
                return Err(already_exists(&before));
            }
            self.replaceable(&before, "source")?;
            changes.push(Change::Remove(before.oid));
            steps.push(PlannedStep::Drop(before.oid));
        }
        let source = source_object(create).await?;
        let object = self.object(target, Default::default(), ObjectKind::Source(source));
        let ObjectKind::Source(source) = &object.kind else { return done() };
        // Opened here for its errors; the engine opens its own.
        let def = definitions::source(&object, source, &self.database().environment)?;
        def.source.reader(&Default::default(), Some(&Default::default()), None).await?;
        steps.push(PlannedStep::Create(object.oid));
        changes.push(Change::Put(Box::new(object)));
        self.change_catalog(changes, steps)?;
        done()
    }
}

async fn source_object(create: &CreateSource) -> Result<Source> {
    if let Some(constraint) = create.constraints.first() {
        return Err(Error::unsupported(format!("{constraint} on a source is not supported yet"))
            .with_hint("A source's rows are only ever added; GROUP BY the key in a view."));
    }
    let format = create.format.as_ref().map(|f| Format {
        format: f.format.clone(),
        encode: f.encode.clone(),
        options: f.options.clone(),
    });
    let mut columns = declared_columns(create)?;
    if columns.is_empty() {
        let spec = format.as_ref().map(|f| FormatSpec {
            format: f.format.clone(),
            encode: f.encode.clone(),
            options: f.options.clone(),
        });
        columns = columns_of(tidemark_connectors::infer_columns(&create.options, spec.as_ref()).await?.as_ref());
    }
    let declared = columns.len();
    let include: Vec<(String, String)> = create
        .include
        .iter()
        .map(|i| (i.what.clone(), i.alias.as_ref().map_or_else(|| i.what.clone(), fold)))
        .collect();
    for (what, name) in &include {
        columns.push(include_column(what, name, columns.len())?);
    }
    for (i, column) in columns.iter().enumerate() {
        if columns[..i].iter().any(|c| c.name == column.name) {
            return Err(Error::new(
                SqlState::DuplicateColumn,
                format!("column \"{}\" specified more than once", column.name),
            ));
        }
    }
    let watermark = match &create.watermark {
        None => None,
        Some(w) => {
            let name = fold(&w.column);
            let column = columns.iter().position(|c| c.name == name).ok_or_else(|| {
                Error::new(SqlState::UndefinedColumn, format!("column \"{name}\" of the watermark does not exist"))
            })?;
            Some(Watermark { column, expr: w.expr.to_string() })
        }
    };
    Ok(Source { columns, declared, include, watermark, options: create.options.clone(), format })
}

fn declared_columns(create: &CreateSource) -> Result<Vec<Column>> {
    create
        .columns
        .iter()
        .enumerate()
        .map(|(i, column)| {
            if let Some(option) = column.options.first() {
                return Err(Error::unsupported(format!(
                    "{} on column \"{}\" of a source is not supported",
                    option.option, column.name
                )));
            }
            Ok(Column {
                name: fold(&column.name),
                sql_type: grammar::types::sql_type(&column.data_type)?,
                nullable: true,
                default: None,
                identity: None,
                comment: None,
                attnum: i as i16 + 1,
            })
        })
        .collect()
}

fn include_column(what: &str, name: &str, position: usize) -> Result<Column> {
    let sql_type = tidemark_connectors::include_type(what)?;
    Ok(Column {
        name: name.to_string(),
        sql_type,
        nullable: true,
        default: None,
        identity: None,
        comment: None,
        attnum: position as i16 + 1,
    })
}
