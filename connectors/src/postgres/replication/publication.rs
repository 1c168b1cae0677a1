//! The publication: which tables' changes a slot's stream has.
//!
//! One that is missing is made, and a table that one misses is added. What is made is marked with a comment that names the slots that
//! read by it, and goes with the last of them. Others are never dropped.
//!
//! ```text
//!   COMMENT ON PUBLICATION tidemark_pub IS 'Tidemark: tidemark_orders, tidemark_items'
//! ```

use tidemark_common::{Error, Result, SqlState};

use super::options::CdcOptions;
use super::session::query;
use super::table::Table;
use crate::postgres::client::Client;
use crate::postgres::filter::{identifier, literal};

const MARK: &str = "Tidemark: ";
/// Who changes a publication or its mark has this advisory lock.
const LOCK: i64 = 0x7469_6465_6d61_726b;

#[derive(Debug)]
pub struct Publication {
    /// Inserts, updates, deletes and truncates are in it.
    is_whole: bool,
    has_table: bool,
    /// Changes of a part of a table count as those of the whole.
    is_via_root: bool,
    /// The table's columns in it; empty: all.
    columns: Vec<String>,
    /// What rows it has, as SQL.
    pub filter: Option<String>,
    can_change: bool,
    comment: Option<String>,
}

impl Publication {
    pub async fn find(client: &Client, options: &CdcOptions) -> Result<Option<Self>> {
        let place = &options.place;
        let rows = query(client, FIND, &[&options.publication, &place.schema, &place.table]).await?;
        Ok(rows.first().map(|row| Self {
            is_whole: row.get(0),
            has_table: row.get(1),
            is_via_root: row.get(2),
            columns: row.get(3),
            filter: row.get(4),
            can_change: row.get(5),
            comment: row.get(6),
        }))
    }

    /// True if the table's changes are in the stream.
    pub async fn has_table(client: &Client, options: &CdcOptions) -> Result<bool> {
        Ok(Self::find(client, options).await?.is_some_and(|found| found.has_table))
    }

    /// An error if the source could not be read by it, or it could not be made so.
    pub fn check(found: Option<&Self>, options: &CdcOptions, table: &Table) -> Result<()> {
        let (name, label) = (&options.publication, options.place.label());
        let state = SqlState::ObjectNotInPrerequisiteState;
        let may = match found {
            Some(found) if found.has_table => return found.check_contents(options),
            Some(found) if table.is_partitioned && !found.is_via_root => {
                return Err(Error::new(
                    state,
                    format!("publication \"{name}\" has parts of table \"{label}\", and not the whole"),
                )
                .with_hint(format!(
                    "Over there: ALTER PUBLICATION {} SET (publish_via_partition_root = true).",
                    identifier(name)
                )));
            }
            Some(found) => found.can_change && table.can_own,
            None => table.can_own,
        };
        let (what, fix) = match found {
            Some(_) => (
                format!("publication \"{name}\" does not have table \"{label}\""),
                "ALTER PUBLICATION {p} ADD TABLE {t}",
            ),
            None => (format!("publication \"{name}\" does not exist"), "CREATE PUBLICATION {p} FOR TABLE {t}"),
        };
        let fix = fix.replace("{p}", &identifier(name)).replace("{t}", &options.place.quoted());
        if !options.creates_publication {
            return Err(
                Error::new(state, what).with_hint(format!("Over there: {fix}; or publication.create.enable = true."))
            );
        }
        match may {
            true => Ok(()),
            false => Err(Error::new(
                SqlState::InsufficientPrivilege,
                format!("{what}, and user \"{}\" may not change that", options.place.options.user),
            )
            .with_hint(format!("That takes the table's owner, who may CREATE in the database. He runs: {fix}."))),
        }
    }

    fn check_contents(&self, options: &CdcOptions) -> Result<()> {
        let wrong = |what: String, fix: &str| {
            Err(Error::new(
                SqlState::ObjectNotInPrerequisiteState,
                format!("publication \"{}\" {what}", options.publication),
            )
            .with_hint(format!("Over there: ALTER PUBLICATION {} {fix}.", identifier(&options.publication))))
        };
        if !self.is_whole {
            return wrong("leaves some changes out".into(), "SET (publish = 'insert, update, delete, truncate')");
        }
        let is_missing = |name: &&String| !self.columns.is_empty() && !self.columns.contains(name);
        match options.schema.fields().iter().map(|f| f.name()).find(is_missing) {
            Some(missing) => wrong(format!("leaves column \"{missing}\" out"), "SET TABLE .., with that column"),
            None => Ok(()),
        }
    }

    /// Slots that read by it, if we made it.
    fn readers(&self) -> Option<Vec<&str>> {
        let names = self.comment.as_deref()?.strip_prefix(MARK)?;
        Some(names.split(", ").filter(|name| !name.is_empty()).collect())
    }
}

/// Makes what is missing of it; what rows of the table it has.
pub async fn ensure(client: &Client, options: &CdcOptions, table: &Table) -> Result<Option<String>> {
    begin(client).await?;
    let found = Publication::find(client, options).await?;
    Publication::check(found.as_ref(), options, table)?;
    let (name, of) = (identifier(&options.publication), options.place.quoted());
    let mut sql = Vec::new();
    match &found {
        None => {
            let with = if table.is_partitioned { " WITH (publish_via_partition_root = true)" } else { "" };
            sql.push(format!("CREATE PUBLICATION {name} FOR TABLE {of}{with}"));
            sql.push(marked(&name, &[&options.slot]));
        }
        Some(found) => {
            if !found.has_table {
                sql.push(format!("ALTER PUBLICATION {name} ADD TABLE {of}"));
            }
            if let Some(mut readers) = found.readers().filter(|readers| !readers.contains(&options.slot.as_str())) {
                readers.push(&options.slot);
                sql.push(marked(&name, &readers));
            }
        }
    }
    sql.push("COMMIT".into());
    client.run(&sql.join("; ")).await?;
    Ok(found.and_then(|found| found.filter))
}

/// What tables come to. Parts of tables count as the whole where the server knows that.
pub async fn ensure_empty(client: &Client, options: &CdcOptions) -> Result<()> {
    begin(client).await?;
    let found = Publication::find(client, options).await?;
    let name = identifier(&options.publication);
    let mut sql = Vec::new();
    match &found {
        None if !options.creates_publication => {
            client.run("ROLLBACK").await?;
            return Err(missing(options));
        }
        None => {
            let rows = query(client, "SELECT current_setting('server_version_num')::int >= 130000", &[]).await?;
            let knows = rows.first().is_some_and(|row| row.get(0));
            let with = if knows { " WITH (publish_via_partition_root = true)" } else { "" };
            sql.push(format!("CREATE PUBLICATION {name}{with}"));
            sql.push(marked(&name, &[&options.slot]));
        }
        Some(found) => {
            if let Some(mut readers) = found.readers().filter(|readers| !readers.contains(&options.slot.as_str())) {
                readers.push(&options.slot);
                sql.push(marked(&name, &readers));
            }
        }
    }
    sql.push("COMMIT".into());
    client.run(&sql.join("; ")).await
}

/// An error if there is no publication for tables to come to, and it could not be made.
pub async fn check_shared(client: &Client, options: &CdcOptions) -> Result<()> {
    if Publication::find(client, options).await?.is_some() {
        return Ok(());
    }
    if !options.creates_publication {
        return Err(missing(options));
    }
    let rows = query(client, "SELECT has_database_privilege(current_database(), 'CREATE')", &[]).await?;
    match rows.first().is_some_and(|row| row.get(0)) {
        true => Ok(()),
        false => Err(Error::new(
            SqlState::InsufficientPrivilege,
            format!("user \"{}\" may not make publication \"{}\"", options.place.options.user, options.publication),
        )
        .with_hint("Over there: GRANT CREATE ON DATABASE; or make it by hand.")),
    }
}

fn missing(options: &CdcOptions) -> Error {
    let name = &options.publication;
    Error::new(SqlState::ObjectNotInPrerequisiteState, format!("publication \"{name}\" does not exist"))
        .with_hint(format!("Over there: CREATE PUBLICATION {}; or publication.create.enable = true.", identifier(name)))
}

/// A table that shared the source is gone: the publication no longer has it, if we made that and nobody else reads by it.
pub async fn leave(client: &Client, options: &CdcOptions) -> Result<()> {
    begin(client).await?;
    let found = Publication::find(client, options).await?;
    let is_ours = |found: &Publication| found.has_table && found.readers().is_some_and(|r| r == [&options.slot]);
    let mut sql = Vec::new();
    if found.as_ref().is_some_and(is_ours) {
        sql.push(format!(
            "ALTER PUBLICATION {} DROP TABLE {}",
            identifier(&options.publication),
            options.place.quoted()
        ));
    }
    sql.push("COMMIT".into());
    client.run(&sql.join("; ")).await
}

/// The source is gone: so is the publication if it was made for it and nobody else reads by it.
pub async fn release(client: &Client, options: &CdcOptions) -> Result<()> {
    begin(client).await?;
    let found = Publication::find(client, options).await?;
    let name = identifier(&options.publication);
    let mut sql = Vec::new();
    if let Some(readers) = found.as_ref().and_then(Publication::readers).filter(|r| r.contains(&options.slot.as_str()))
    {
        let others: Vec<&str> = readers.into_iter().filter(|reader| *reader != options.slot).collect();
        sql.push(match others.is_empty() {
            true => format!("DROP PUBLICATION {name}"),
            false => marked(&name, &others),
        });
    }
    sql.push("COMMIT".into());
    client.run(&sql.join("; ")).await
}

async fn begin(client: &Client) -> Result<()> {
    client.run(&format!("BEGIN; SELECT pg_advisory_xact_lock({LOCK})")).await
}

fn marked(name: &str, readers: &[&str]) -> String {
    format!("COMMENT ON PUBLICATION {name} IS {}", literal(&format!("{MARK}{}", readers.join(", "))))
}

/// Column lists and row filters are of PostgreSQL 15 and newer, parts as wholes of 13: older ones have no such fields.
const FIND: &str = "
SELECT p.pubinsert AND p.pubupdate AND p.pubdelete AND p.pubtruncate, t.tablename IS NOT NULL,
    coalesce((to_jsonb(p) ->> 'pubviaroot')::boolean, false),
    ARRAY(SELECT jsonb_array_elements_text(CASE jsonb_typeof(to_jsonb(t) -> 'attnames')
        WHEN 'array' THEN to_jsonb(t) -> 'attnames' ELSE '[]' END)),
    to_jsonb(t) ->> 'rowfilter', pg_has_role(p.pubowner, 'USAGE'), obj_description(p.oid, 'pg_publication')
FROM pg_publication p LEFT JOIN pg_publication_tables t
    ON t.pubname = p.pubname AND t.schemaname = $2::text AND t.tablename = $3::text
WHERE p.pubname = $1::text";
