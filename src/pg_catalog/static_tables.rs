//! Tables whose rows are Postgres' own: types, operators, casts, collations.
//!
//! ```text
//!   datafusion-pg-catalog's rows ──conform──▶ our columns (relations.txt) ──once──▶ RecordBatch
//! ```

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, LazyLock, Mutex};

use datafusion::arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use datafusion::arrow::compute::{cast, concat_batches, filter_record_batch};
use datafusion::arrow::datatypes::{DataType, Int32Type};
use datafusion_pg_catalog::pg_catalog::{ArrowTable, PgCatalogStaticTables};
use tidemark_common::{Error, Oid, Result};

use super::relation::{Relation, Value, relation, to_array, zero};

fn source() -> Result<&'static PgCatalogStaticTables> {
    static TABLES: LazyLock<std::result::Result<PgCatalogStaticTables, String>> =
        LazyLock::new(|| PgCatalogStaticTables::try_new().map_err(|e| e.to_string()));
    TABLES.as_ref().map_err(|e| Error::internal(format!("cannot read the static system tables: {e}")))
}

/// The rows of a table that is the same in every database; `None`: it is not one of those.
pub fn static_batch(relation: &'static Relation) -> Result<Option<RecordBatch>> {
    static DONE: Mutex<BTreeMap<&'static str, RecordBatch>> = Mutex::new(BTreeMap::new());
    let done = |name| DONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get(name).cloned();
    if relation.schema != "pg_catalog" {
        return Ok(None);
    }
    if let Some(batch) = done(relation.name) {
        return Ok(Some(batch));
    }
    let tables = source()?;
    let table = match relation.name {
        "pg_am" => &tables.pg_am,
        "pg_amop" => &tables.pg_amop,
        "pg_amproc" => &tables.pg_amproc,
        "pg_cast" => &tables.pg_cast,
        "pg_collation" => &tables.pg_collation,
        "pg_conversion" => &tables.pg_conversion,
        "pg_get_keywords" => &tables.pg_get_keywords,
        "pg_language" => &tables.pg_language,
        "pg_opclass" => &tables.pg_opclass,
        "pg_operator" => &tables.pg_operator,
        "pg_opfamily" => &tables.pg_opfamily,
        "pg_range" => &tables.pg_range,
        "pg_type" => &tables.pg_type,
        _ => return Ok(None),
    };
    let mut batch = conform(table, relation)?;
    match relation.name {
        "pg_type" => batch = without_row_types(&batch)?,
        // Functions are built in; there is no procedural language.
        "pg_language" => {
            let names = batch.column_by_name("lanname").map(|names| names.as_string::<i32>());
            let names = names.ok_or_else(|| Error::internal("pg_language has no lanname"))?;
            let keep: BooleanArray = names.iter().map(|name| Some(matches!(name, Some("internal" | "sql")))).collect();
            batch = filter_record_batch(&batch, &keep)?;
        }
        _ => {}
    }
    DONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(relation.name, batch.clone());
    Ok(Some(batch))
}

/// Postgres' own functions, of which only those that types name are ours to show.
pub fn proc_batch() -> Result<RecordBatch> {
    let relation = relation("pg_catalog", "pg_proc").ok_or_else(|| Error::internal("pg_proc is not described"))?;
    static PROC: LazyLock<Mutex<Option<RecordBatch>>> = LazyLock::new(|| Mutex::new(None));
    let mut proc = PROC.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(batch) = &*proc {
        return Ok(batch.clone());
    }
    let batch = conform(&source()?.pg_proc, relation)?;
    *proc = Some(batch.clone());
    Ok(batch)
}

/// The table's rows under our columns: by name, cast; what it lacks is NULL or zero.
fn conform(table: &ArrowTable, relation: &Relation) -> Result<RecordBatch> {
    let batch = concat_batches(&table.schema(), table.data())?;
    let columns = relation
        .columns
        .iter()
        .map(|spec| {
            let wanted = spec.sql_type.data_type();
            let blank = || {
                let value = if spec.not_null { zero(&spec.sql_type) } else { Value::Null };
                to_array(&vec![value; batch.num_rows()], &spec.sql_type)
            };
            match batch.column_by_name(spec.name) {
                Some(found) => match convert(found, &wanted)? {
                    Some(array) if !(spec.not_null && array.logical_null_count() > 0) => Ok(array),
                    _ => blank(),
                },
                None => blank(),
            }
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(RecordBatch::try_new(relation.arrow.clone(), columns)?)
}

/// `None` where the values have no meaning in the wanted type.
fn convert(array: &Arc<dyn Array>, wanted: &DataType) -> Result<Option<Arc<dyn Array>>> {
    if array.data_type() == wanted {
        return Ok(Some(Arc::clone(array)));
    }
    if array.data_type().is_string() && !wanted.is_string() {
        return Ok(None);
    }
    if let DataType::List(item) = wanted
        && item.data_type().is_string()
        && !matches!(array.data_type(), DataType::List(_))
    {
        return Ok(None);
    }
    Ok(cast(array, wanted).ok())
}

/// Without the row types and domains of Postgres' own tables and without the arrays over them: there are none of ours, so
/// `typtype` is never `c` or `d`, which [`super::rewrite`] relies on.
fn without_row_types(types: &RecordBatch) -> Result<RecordBatch> {
    let int = |name: &str| -> Result<_> {
        let column = types.column_by_name(name).ok_or_else(|| Error::internal(format!("pg_type has no {name}")))?;
        Ok(column.as_primitive::<Int32Type>().clone())
    };
    let (oid, relid, item) = (int("oid")?, int("typrelid")?, int("typelem")?);
    let kind = types.column_by_name("typtype").ok_or_else(|| Error::internal("pg_type has no typtype"))?;
    let kind = kind.as_string::<i32>();
    let dropped = |i: usize| relid.value(i) != 0 || matches!(kind.value(i), "c" | "d");
    let gone: HashSet<i32> = (0..types.num_rows()).filter(|i| dropped(*i)).map(|i| oid.value(i)).collect();
    let keep: BooleanArray =
        (0..types.num_rows()).map(|i| Some(!dropped(i) && !gone.contains(&item.value(i)))).collect();
    Ok(filter_record_batch(types, &keep)?)
}

pub struct TypeRow {
    pub name: String,
    /// OID of the array type over it.
    pub array: Oid,
    /// OID of what it is an array of.
    pub item: Oid,
    pub is_array: bool,
    pub length: i16,
    pub by_value: bool,
    pub align: String,
    pub storage: String,
    pub collation: Oid,
}

pub fn types() -> &'static HashMap<Oid, TypeRow> {
    static TYPES: LazyLock<HashMap<Oid, TypeRow>> = LazyLock::new(|| read_types().unwrap_or_default());
    &TYPES
}

fn read_types() -> Option<HashMap<Oid, TypeRow>> {
    let batch = static_batch(relation("pg_catalog", "pg_type")?).ok()??;
    let int = |name: &str| Some(batch.column_by_name(name)?.as_primitive::<Int32Type>().clone());
    let text = |name: &str| Some(batch.column_by_name(name)?.as_string::<i32>().clone());
    let short = batch.column_by_name("typlen")?.as_primitive::<datafusion::arrow::datatypes::Int16Type>().clone();
    let by_value = batch.column_by_name("typbyval")?.as_boolean().clone();
    let (oid, array, item, collation) = (int("oid")?, int("typarray")?, int("typelem")?, int("typcollation")?);
    let (name, align, storage, category) =
        (text("typname")?, text("typalign")?, text("typstorage")?, text("typcategory")?);
    let row = |i: usize| TypeRow {
        name: name.value(i).into(),
        array: array.value(i) as Oid,
        item: item.value(i) as Oid,
        is_array: category.value(i) == "A" && short.value(i) == -1,
        length: short.value(i),
        by_value: by_value.value(i),
        align: align.value(i).into(),
        storage: storage.value(i).into(),
        collation: collation.value(i) as Oid,
    };
    Some((0..batch.num_rows()).map(|i| (oid.value(i) as Oid, row(i))).collect())
}

/// Name and OID of each row of a static table.
fn named(table: &str, column: &str) -> Vec<(String, Oid)> {
    let Some(Ok(Some(batch))) = relation("pg_catalog", table).map(static_batch) else { return vec![] };
    let (Some(oid), Some(name)) = (batch.column_by_name("oid"), batch.column_by_name(column)) else { return vec![] };
    let (oid, name) = (oid.as_primitive::<Int32Type>(), name.as_string::<i32>());
    (0..batch.num_rows()).map(|i| (name.value(i).to_string(), oid.value(i) as Oid)).collect()
}

pub fn collation(name: &str) -> Option<Oid> {
    named("pg_collation", "collname").into_iter().find(|(n, _)| n == name).map(|(_, oid)| oid)
}

pub fn collation_name(oid: Oid) -> Option<String> {
    named("pg_collation", "collname")
        .into_iter()
        .find(|(_, o)| *o == oid)
        .map(|(name, _)| tidemark_catalog::quote_ident(&name))
}
