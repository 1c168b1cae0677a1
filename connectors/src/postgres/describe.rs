//! What the columns of a relation on another server are.

use tidemark_common::{Error, Result, SqlState, nearest};

use super::client::Client;
use super::error;
use super::types::{Described, RemoteColumn, Texts, map};

/// The columns of the table, view or whatever else can be read under that name.
pub async fn describe(client: &Client, schema: &str, table: &str) -> Result<Vec<RemoteColumn>> {
    let rows = client.postgres.query(COLUMNS, &[&schema, &table]).await;
    let rows = rows.map_err(|e| error::remote(&client.name, &e, None))?;
    if rows.is_empty() {
        return Err(missing(client, schema, table).await?);
    }
    // A table may have no columns: it has one row here, without a name.
    let named = rows.iter().filter(|row| row.get::<_, Option<String>>(0).is_some());
    Ok(named.map(|row| column(client, row)).collect())
}

fn column(client: &Client, row: &tokio_postgres::Row) -> RemoteColumn {
    let described =
        Described { type_oid: row.get(2), element_oid: row.get(3), typmod: row.get(4), dimensions: row.get(5) };
    let (sql_type, cast) = map(&described, &client.options.numeric);
    let not_null: bool = row.get(1);
    RemoteColumn {
        name: row.get(0),
        sql_type,
        nullable: !not_null,
        cast,
        texts: Texts { bytewise: row.get(6), ordered: row.get(7), folded: row.get(8) },
    }
}

async fn missing(client: &Client, schema: &str, table: &str) -> Result<Error> {
    let rows = client.postgres.query(NAMES, &[]).await.map_err(|e| error::remote(&client.name, &e, None))?;
    let known: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let asked = format!("{schema}.{table}");
    let message = format!("relation \"{asked}\" does not exist in connection \"{}\"", client.name);
    let error = Error::new(SqlState::UndefinedTable, message);
    Ok(match nearest(&asked, known.iter().map(String::as_str)) {
        Some(near) => error.with_hint(format!("Perhaps you meant \"{}.{near}\".", client.name)),
        None => error,
    })
}

/// Name, NOT NULL, type, element type, modifier, dimensions, whether equality and order are bytewise, and Unicode is known.
const COLUMNS: &str = "
WITH RECURSIVE found AS (
    SELECT a.attnum, a.attname::text AS name, coalesce(a.attnotnull, false) AS attnotnull, a.atttypid, a.atttypmod,
        coalesce(a.attndims, 0)::int AS dimensions, a.attcollation
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE n.nspname = $1::text AND c.relname = $2::text AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
), base AS (
    SELECT attnum, atttypid AS type, atttypmod AS modifier FROM found
    UNION ALL
    SELECT b.attnum, t.typbasetype, t.typtypmod FROM base b JOIN pg_type t ON t.oid = b.type WHERE t.typtype = 'd'
)
SELECT f.name, f.attnotnull, coalesce(t.oid, 0)::oid,
    (CASE WHEN t.typcategory = 'A' AND t.typlen = -1 THEN t.typelem ELSE 0 END)::oid,
    coalesce(b.modifier, -1)::int, f.dimensions,
    coalesce(l.collisdeterministic, true), getdatabaseencoding() = 'UTF8',
    getdatabaseencoding() = 'UTF8' AND EXISTS (SELECT FROM pg_collation WHERE collname = 'und-x-icu')
FROM found f
LEFT JOIN base b ON b.attnum = f.attnum AND NOT EXISTS (SELECT FROM pg_type d WHERE d.oid = b.type AND d.typtype = 'd')
LEFT JOIN pg_type t ON t.oid = b.type
LEFT JOIN pg_collation l ON l.oid = f.attcollation
ORDER BY f.attnum";

const NAMES: &str = "
SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
ORDER BY 1 LIMIT 1000";
