//! What the other server's catalog says of a table: its columns and their types, and by what an old row of it is told.

use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, SqlState};

use super::session::{Place, query};
use crate::postgres::client::Client;
use crate::postgres::types::{Described, map};

#[derive(Debug, Clone)]
pub struct Column {
    pub name: String,
    pub type_oid: u32,
    pub typmod: i32,
    /// Declared dimensions of an array; 0 if that is not known.
    pub dimensions: i32,
    /// Computed from others, and so not in the stream.
    pub is_generated: bool,
}

/// By what the log tells old rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// By these columns, which an index keeps unique. None: by nothing.
    Columns(Vec<String>),
    /// By all columns.
    Full,
}

#[derive(Debug)]
pub struct Table {
    pub oid: u32,
    pub is_partitioned: bool,
    pub identity: Identity,
    pub primary_key: Vec<String>,
    pub columns: Vec<Column>,
    pub can_select: bool,
    pub can_own: bool,
    pub is_row_secured: bool,
}

impl Table {
    pub async fn find(client: &Client, place: &Place) -> Result<Table> {
        let rows = query(client, TABLE, &[&place.schema, &place.table]).await?;
        let wrong = |state, why: &str| {
            Err(Error::new(state, format!("relation \"{}\" in connection \"{}\" {why}", place.label(), place.name)))
        };
        let Some(row) = rows.first() else { return wrong(SqlState::UndefinedTable, "does not exist") };
        let (kind, persistence, identity): (String, String, String) = (row.get(1), row.get(2), row.get(3));
        if !matches!(kind.as_str(), "r" | "p") {
            return wrong(SqlState::WrongObjectType, "is no table: only changes of tables are in the log");
        }
        if persistence != "p" {
            return wrong(SqlState::WrongObjectType, "is unlogged or temporary: its changes are not in the log");
        }
        let oid = row.get(0);
        let (identifying, primary_key): (Vec<String>, Vec<String>) = (row.get(4), row.get(5));
        let columns = query(client, COLUMNS, &[&oid]).await?;
        let column = |row: &tokio_postgres::Row| Column {
            name: row.get(0),
            type_oid: row.get(1),
            typmod: row.get(2),
            dimensions: row.get(3),
            is_generated: row.get(4),
        };
        Ok(Table {
            oid,
            is_partitioned: kind == "p",
            identity: if identity == "f" { Identity::Full } else { Identity::Columns(identifying) },
            primary_key,
            columns: columns.iter().map(column).collect(),
            can_select: row.get(6),
            can_own: row.get(7),
            is_row_secured: row.get(8),
        })
    }
}

/// The columns that its changes have, with their types among those of all.
pub fn in_stream<'a>(table: &'a Table, types: &'a [SqlType]) -> impl Iterator<Item = (&'a str, &'a SqlType)> {
    let columns = table.columns.iter().zip(types).filter(|(column, _)| !column.is_generated);
    columns.map(|(column, sql_type)| (column.name.as_str(), sql_type))
}

/// The types of columns as they are here; `numeric`: what one without precision is.
pub async fn types(client: &Client, columns: &[Column], numeric: &SqlType) -> Result<Vec<SqlType>> {
    let oids: Vec<u32> = columns.iter().map(|c| c.type_oid).collect();
    let typmods: Vec<i32> = columns.iter().map(|c| c.typmod).collect();
    let rows = query(client, TYPES, &[&oids, &typmods]).await?;
    // A type that is gone says nothing but its text.
    let mut types = vec![SqlType::Text; columns.len()];
    for row in &rows {
        let at = row.get::<_, i64>(0) as usize - 1;
        let described = Described {
            type_oid: row.get(1),
            element_oid: row.get(2),
            typmod: row.get(3),
            dimensions: columns.get(at).map_or(0, |c| c.dimensions),
        };
        if let Some(known) = types.get_mut(at) {
            *known = map(&described, numeric).0;
        }
    }
    Ok(types)
}

/// OID, kind, persistence, identity, its columns, those of the primary key, and what the user may.
const TABLE: &str = "
SELECT c.oid, c.relkind::text, c.relpersistence::text, c.relreplident::text,
    ARRAY(SELECT a.attname::text FROM pg_index i, unnest(i.indkey) WITH ORDINALITY AS k(attnum, n), pg_attribute a
        WHERE i.indrelid = c.oid AND n <= i.indnkeyatts AND a.attrelid = c.oid AND a.attnum = k.attnum
            AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END
        ORDER BY n),
    ARRAY(SELECT a.attname::text FROM pg_index i, unnest(i.indkey) WITH ORDINALITY AS k(attnum, n), pg_attribute a
        WHERE i.indrelid = c.oid AND n <= i.indnkeyatts AND a.attrelid = c.oid AND a.attnum = k.attnum AND i.indisprimary
        ORDER BY n),
    has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT'),
    pg_has_role(c.relowner, 'USAGE') AND has_database_privilege(current_database(), 'CREATE'),
    row_security_active(c.oid)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1::text AND c.relname = $2::text";

const COLUMNS: &str = "
SELECT attname::text, atttypid, atttypmod, attndims::int, attgenerated <> ''
FROM pg_attribute WHERE attrelid = $1::oid AND attnum > 0 AND NOT attisdropped ORDER BY attnum";

/// Which of those asked, type, type of elements, modifier; domains resolved.
const TYPES: &str = "
WITH RECURSIVE base AS (
    SELECT n, type, modifier FROM unnest($1::oid[], $2::int[]) WITH ORDINALITY AS asked(type, modifier, n)
    UNION ALL
    SELECT b.n, t.typbasetype, t.typtypmod FROM base b JOIN pg_type t ON t.oid = b.type WHERE t.typtype = 'd'
)
SELECT b.n, t.oid, (CASE WHEN t.typcategory = 'A' AND t.typlen = -1 THEN t.typelem ELSE 0 END)::oid, b.modifier
FROM base b JOIN pg_type t ON t.oid = b.type WHERE t.typtype <> 'd'";
