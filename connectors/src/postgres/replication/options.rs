//! The options of a `postgres-cdc` source, checked.

use std::sync::Arc;

use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use tidemark_common::{Clock, Error, Result, SqlState};

use super::session::Place;
use crate::formats::drift::{Missing, on_drift};
use crate::options::Options;
use crate::postgres::OnDrift;
use crate::spec::{SourceSpec, refuse_format};

/// Longest name of a slot or a publication, in bytes.
const MAX_NAME: usize = 63;

#[derive(Debug)]
pub struct CdcOptions {
    /// The source's name.
    pub name: String,
    pub place: Place,
    pub slot: String,
    pub publication: String,
    /// It is no table, but what tables share.
    pub is_shared: bool,
    /// The source that the table shares with others.
    pub shares: Option<String>,
    /// What is missing of it is made.
    pub creates_publication: bool,
    /// What becomes of columns of the table that the source does not have.
    pub on_drift: OnDrift,
    /// Columns that it waits for.
    pub missing: Missing,
    /// How many of the last columns were added to the source.
    pub added: usize,
    /// The declared columns. All may be NULL: of a row that goes there is only its key.
    pub schema: SchemaRef,
    pub key: Vec<usize>,
    pub clock: Arc<dyn Clock>,
}

impl CdcOptions {
    pub fn parse(spec: SourceSpec, mut options: Options) -> Result<Self> {
        let is_shared = spec.columns.fields().is_empty() && spec.shared.is_none() && !options.has("table.name");
        let place = Place::take(&mut options, is_shared)?;
        let slot = slot_name(&mut options, &place, spec.shared.as_ref().unwrap_or(&spec.name))?;
        let publication = options.take("publication.name").unwrap_or_else(|| slot.clone());
        let creates_publication = options.bool("publication.create.enable")?.unwrap_or(true);
        let on_drift = on_drift(&mut options)?;
        options.finish()?;
        if !(1..=MAX_NAME).contains(&publication.len()) {
            return Err(Error::invalid(format!("option \"publication.name\" must have 1 to {MAX_NAME} bytes")));
        }
        refuse_format(spec.format.as_ref(), "postgres-cdc")?;
        if !is_shared {
            check_columns(&spec)?;
        }
        let fields: Vec<Field> = spec.columns.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect();
        Ok(Self {
            name: spec.name,
            place,
            slot,
            publication,
            is_shared,
            shares: spec.shared,
            creates_publication,
            on_drift,
            missing: Missing::default(),
            added: spec.added,
            schema: Arc::new(Schema::new(fields)),
            key: spec.key,
            clock: spec.clock,
        })
    }

    /// The split of the stream.
    pub fn lane(&self) -> String {
        if self.is_shared { "stream".into() } else { self.place.label() }
    }

    /// The columns of the primary key.
    pub fn key_names(&self) -> Vec<&str> {
        self.key.iter().map(|at| self.schema.field(*at).name().as_str()).collect()
    }
}

fn check_columns(spec: &SourceSpec) -> Result<()> {
    let wrong = |message: &str| Error::new(SqlState::InvalidTableDefinition, message);
    if spec.columns.fields().is_empty() {
        return Err(wrong("a postgres-cdc source must have columns")
            .with_hint("Declare them, or take them from the table: CREATE SOURCE name (*) WITH (..)."));
    }
    if let Some((what, _)) = spec.include.first() {
        return Err(Error::new(SqlState::SyntaxError, format!("a postgres-cdc source cannot INCLUDE {what}"))
            .with_hint("It has the table's columns and no others."));
    }
    if spec.key.is_empty() {
        return Err(wrong("a postgres-cdc source needs a primary key").with_hint(
            "Declare the table's: CREATE SOURCE name (id BIGINT PRIMARY KEY, ..). Changes are told by it.",
        ));
    }
    match spec.key.iter().any(|at| *at >= spec.columns.fields().len()) {
        true => Err(Error::internal("the primary key has a column that the source does not have")),
        false => Ok(()),
    }
}

/// By default made of the names of database and source.
fn slot_name(options: &mut Options, place: &Place, source: &str) -> Result<String> {
    let fits = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '_');
    let Some(name) = options.take("slot.name") else {
        let name = format!("tidemark_{}_{source}", place.options.database).to_lowercase();
        return Ok(name.chars().map(|c| if fits(c) { c } else { '_' }).take(MAX_NAME).collect());
    };
    if (1..=MAX_NAME).contains(&name.len()) && name.chars().all(fits) {
        return Ok(name);
    }
    Err(Error::invalid(format!("option \"slot.name\" cannot be \"{name}\""))
        .with_hint(format!("Small letters, digits and underscores, {MAX_NAME} at most.")))
}

#[cfg(test)]
mod tests {
    use tidemark_common::Hidden;
    use tidemark_common::types::SqlType;

    use super::*;
    use crate::testing::{refused, spec};

    fn parse(pairs: &[(&str, &str)]) -> Result<CdcOptions> {
        let columns = [("id", SqlType::BigInt), ("note", SqlType::Text)];
        let spec = SourceSpec { key: vec![0], name: "My Orders".into(), ..spec(&columns, pairs) };
        let options = Options::with_secrets(&spec.options, &[("password".into(), Hidden::new("hush"))])?;
        CdcOptions::parse(spec, options)
    }

    #[test]
    fn risingwaves_words_and_ours() {
        let theirs = [("hostname", "db"), ("username", "repl"), ("database.name", "Shop"), ("table.name", "orders")];
        let ours = [("host", "db"), ("user", "repl"), ("database", "Shop"), ("table.name", "orders")];
        for words in [theirs, ours] {
            let options = parse(&words).unwrap();
            assert_eq!(&*options.place.name, "db:5432/Shop");
            assert_eq!(options.place.quoted(), "\"public\".\"orders\"");
            assert_eq!(options.place.options.password, Some(Hidden::new("hush")));
            assert_eq!(
                (options.slot.as_str(), options.publication.as_str()),
                ("tidemark_shop_my_orders", "tidemark_shop_my_orders")
            );
            assert_eq!(options.key_names(), ["id"]);
        }
        let of_connection =
            [("host", "a"), ("user", "u"), ("database", "x"), ("database.name", "y"), ("table.name", "t")];
        assert_eq!(parse(&of_connection).unwrap().place.options.database, "y");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let base = [("user", "u"), ("table.name", "t")];
        let with = |more: &[(&str, &str)]| refused(parse(&[&base, more].concat()));
        assert_eq!(with(&[("slot.name", "Mine")]).1, "option \"slot.name\" cannot be \"Mine\"");
        assert_eq!(with(&[("slot.nme", "x")]).2, "Perhaps you meant \"slot.name\".");
        assert!(with(&[("publication.create.enable", "maybe")]).1.contains("must be true or false"));
        assert_eq!(refused(parse(&[("user", "u")])).1, "option \"table.name\" is missing");
        assert_eq!(refused(parse(&[("table.name", "t")])).1, "option \"user\" is missing");
        let keyless = spec(&[("id", SqlType::BigInt)], &base);
        let options = Options::new(&keyless.options).unwrap();
        assert_eq!(refused(CdcOptions::parse(keyless, options)).1, "a postgres-cdc source needs a primary key");
    }
}
