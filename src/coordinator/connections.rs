//! CREATE CONNECTION, its ALTER, and CHECK CONNECTION.
//!
//! What is stored is what was written: secrets by OID, environment variables by name. [`options`] puts their values in when the
//! connection is used.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, BooleanArray, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::sql::sqlparser::ast as sql;
use tidemark_catalog::{CONNECTIONS, Catalog, Change, Connection, Object, ObjectKind, SecretKey};
use tidemark_common::{Error, Hidden, Oid, Result, SqlState};
use tidemark_connectors::kafka::{self, KafkaConnection};
use tidemark_connectors::options::Options;
use tidemark_connectors::postgres::{CheckRow, PostgresOptions, check};
use tidemark_sql::ast::{CreateConnection, SecretOptions, WithOptions};

use super::secrets::{Resolved, altered, interpolated, refuse_secret_variables, resolve};
use super::{Target, already_exists};
use crate::session::{Outcome, Session, one_batch};
use crate::transaction::PlannedStep;

impl Session {
    pub(crate) fn create_connection(&mut self, create: &CreateConnection) -> Result<Outcome> {
        let done = || Ok(Outcome::Command("CREATE CONNECTION".into()));
        let target = Target { schema: CONNECTIONS, name: self.global_name(&create.name, "connection")? };
        if target.name == self.catalog()?.database {
            return Err(Error::new(
                SqlState::ReservedName,
                format!("\"{}\" is the name of this database, so that no connection can have it", target.name),
            ));
        }
        let before = self.existing(&target)?;
        if let Some(before) = &before {
            if create.if_not_exists {
                self.tell(format!("connection \"{}\" already exists, skipping", before.name));
                return done();
            }
            if !create.or_replace {
                return Err(already_exists(before));
            }
        }
        let connection = Connection { options: create.options.clone(), secrets: self.secret_options(&create.secrets)? };
        check_options(&connection, self.catalog()?.as_ref())?;
        let depends_on = connection.secrets.iter().map(|(_, oid)| *oid).collect();
        let kind = ObjectKind::Connection(connection);
        let object = match before {
            Some(before) => Object { kind, depends_on, ..before.as_ref().clone() },
            None => self.object(target, depends_on, kind)?,
        };
        self.put_connection(object)?;
        done()
    }

    /// `ALTER CONNECTION .. SET (..)` and `RESET (..)`
    pub(super) fn set_connection_options(
        &mut self,
        object: &Object,
        options: &WithOptions,
        secrets: &SecretOptions,
        reset: &[String],
    ) -> Result<()> {
        let ObjectKind::Connection(before) = &object.kind else {
            return Err(Error::internal(format!("\"{}\" is no connection", object.name)));
        };
        let (before, set) = (before.clone(), (options, self.secret_options(secrets)?));
        let what = format!("connection \"{}\"", object.name);
        let (options, secrets) = altered((before.options, before.secrets), set, reset, &what)?;
        let after = Connection { options, secrets };
        check_options(&after, self.catalog()?.as_ref())?;
        let depends_on = after.secrets.iter().map(|(_, oid)| *oid).collect();
        self.put_connection(Object { kind: ObjectKind::Connection(after), depends_on, ..object.clone() })
    }

    /// Sources and sinks that work by it begin again where they were, with what it says now.
    fn put_connection(&mut self, object: Object) -> Result<()> {
        let works_by = |by: &&Arc<Object>| match &by.kind {
            ObjectKind::Source(source) => source.connection == Some(object.oid),
            ObjectKind::Sink(sink) => sink.connection == Some(object.oid),
            _ => false,
        };
        let steps = self.catalog()?.objects().filter(works_by).map(|by| PlannedStep::Redefine(by.oid)).collect();
        self.change_catalog(vec![Change::Put(Box::new(object))], steps)
    }

    pub(crate) async fn check_connection(&mut self, name: &sql::ObjectName) -> Result<Outcome> {
        let catalog = self.catalog()?;
        let name = self.global_name(name, "connection")?;
        let object = catalog.connection(&name)?;
        let key = self.database().environment.secret_key.clone();
        let checking = async {
            if is_kafka(object) {
                return Ok(kafka::check(kafka_options(&shared_options(object, &catalog, key.as_ref())?)?).await);
            }
            let options = options(object, &catalog, key.as_ref())?;
            let mut rows = vec![CheckRow::done("options", described(object, &options))];
            rows.extend(check(&Arc::from(name.as_str()), &Arc::new(options)).await);
            Ok(rows)
        };
        let rows = checking.await.unwrap_or_else(|error: Error| vec![CheckRow::failed("options", &error)]);
        let text =
            |of: fn(&CheckRow) -> Option<&str>| Arc::new(rows.iter().map(of).collect::<StringArray>()) as ArrayRef;
        let columns = vec![
            text(|row| Some(row.step)),
            Arc::new(rows.iter().map(|row| Some(row.ok)).collect::<BooleanArray>()),
            text(|row| Some(&row.detail)),
            text(|row| row.hint.as_deref()),
        ];
        Ok(one_batch(RecordBatch::try_new(check_columns(), columns)?, "CHECK CONNECTION"))
    }
}

/// Variables by their names.
fn described(object: &Object, options: &PostgresOptions) -> String {
    let written = |key: &str, value: String| match &object.kind {
        ObjectKind::Connection(connection) => {
            let given = connection.options.iter().find(|(k, v)| k == key && v.contains("${"));
            given.map_or(value, |(_, written)| written.clone())
        }
        _ => value,
    };
    let user = written("user", options.user.clone());
    let address = match connection_has_variable(object, &["host", "port"]) {
        true => format!("{}:{}", written("host", options.host.clone()), written("port", options.port.to_string())),
        false => options.address(),
    };
    let database = if options.database == options.user { user.clone() } else { options.database.clone() };
    format!("{user}@{address}/{}, sslmode {}", written("database", database), options.sslmode.name())
}

fn connection_has_variable(object: &Object, keys: &[&str]) -> bool {
    let ObjectKind::Connection(connection) = &object.kind else { return false };
    connection.options.iter().any(|(key, value)| keys.contains(&key.as_str()) && value.contains("${"))
}

pub fn check_columns() -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    Arc::new(Schema::new(vec![text("step"), Field::new("ok", DataType::Boolean, true), text("detail"), text("hint")]))
}

/// The options of a connection to PostgreSQL with all values in their places.
pub fn options(object: &Object, catalog: &Catalog, key: Option<&SecretKey>) -> Result<PostgresOptions> {
    let resolved = shared_options(object, catalog, key)?;
    let parsed = Options::with_secrets(&resolved.options, &resolved.secrets).and_then(PostgresOptions::parse);
    parsed.map_err(|e| e.context(format_args!("connection \"{}\"", object.name)))
}

fn shared_options(object: &Object, catalog: &Catalog, key: Option<&SecretKey>) -> Result<Resolved> {
    let ObjectKind::Connection(connection) = &object.kind else {
        return Err(Error::internal(format!("\"{}\" is no connection", object.name)));
    };
    let resolved = resolve(&connection.options, &connection.secrets, catalog, key);
    resolved.map_err(|e| e.context(format_args!("connection \"{}\"", object.name)))
}

fn kafka_options(resolved: &Resolved) -> Result<KafkaConnection> {
    KafkaConnection::parse(Options::with_secrets(&resolved.options, &resolved.secrets)?)
}

fn is_kafka(object: &Object) -> bool {
    matches!(&object.kind, ObjectKind::Connection(connection) if has_type(&connection.options, "kafka"))
}

fn has_type(options: &[(String, String)], kind: &str) -> bool {
    options.iter().any(|(key, value)| key == "type" && value.eq_ignore_ascii_case(kind))
}

/// Takes the option out that names the connection by which a source or sink works.
pub fn of_connector(options: &mut WithOptions, catalog: &Catalog) -> Result<Option<Oid>> {
    let Some(at) = options.iter().position(|(key, _)| key == "connection") else { return Ok(None) };
    let (_, name) = options.remove(at);
    let connector = options.iter().find(|(key, _)| key == "connector").map(|(_, value)| value.to_lowercase());
    let connection = catalog.connection(&name)?;
    match (connector.as_deref(), is_kafka(connection)) {
        (Some("kafka"), true) | (Some("postgres-cdc"), false) => Ok(Some(connection.oid)),
        (Some("kafka"), false) => Err(Error::invalid(format!("connection \"{name}\" is not of type kafka"))),
        (Some("postgres-cdc"), true) => Err(Error::invalid(format!("connection \"{name}\" is not of type postgres"))),
        _ => Err(Error::invalid("option \"connection\" is for connector = 'kafka' and 'postgres-cdc'")),
    }
}

/// Options with those of a connection; what is given in both is the object's own.
pub fn with_connection(
    options: &[(String, String)],
    secrets: &[(String, Oid)],
    connection: Option<Oid>,
    catalog: &Catalog,
    key: Option<&SecretKey>,
) -> Result<Resolved> {
    let mut own = resolve(options, secrets, catalog, key)?;
    let Some(connection) = connection else { return Ok(own) };
    let shared = shared_options(catalog.expect(connection)?, catalog, key)?;
    let is_own = |key: &str| options.iter().any(|(k, _)| k == key) || secrets.iter().any(|(k, _)| k == key);
    own.options.extend(shared.options.into_iter().filter(|(key, _)| key != "type" && !is_own(key)));
    own.secrets.extend(shared.secrets.into_iter().filter(|(key, _)| !is_own(key)));
    Ok(own)
}

/// As far as can be said before any secret is read.
fn check_options(connection: &Connection, catalog: &Catalog) -> Result<()> {
    refuse_secret_variables(&connection.options, catalog)?;
    // Stored and shown as it stands, which no password should be.
    for key in CREDENTIALS {
        let plain = connection.options.iter().find(|(k, _)| k == key);
        if plain.is_some_and(|(_, value)| !is_reference(key, value)) {
            return Err(Error::invalid(format!("option \"{key}\" must be a secret")).with_hint(format!(
                "CREATE SECRET name AS '..'; then {key} = SECRET name. Or '${{NAME}}', an environment variable of the server."
            )));
        }
    }
    let known = |(key, _): &(String, Oid)| (key.clone(), Hidden::new("not read yet"));
    let secrets: Vec<(String, Hidden)> = connection.secrets.iter().map(known).collect();
    let options = Options::with_secrets(&interpolated(&connection.options)?, &secrets)?;
    match has_type(&connection.options, "kafka") {
        true => KafkaConnection::parse(options).map(drop),
        false => PostgresOptions::parse(options).map(drop),
    }
}

/// Options that are secrets.
const CREDENTIALS: [&str; 9] = [
    "password",
    "sslkey",
    "properties.sasl.password",
    "properties.sasl.oauthbearer.client.secret",
    "properties.sasl.oauthbearer.client.credentials.client.secret",
    "properties.ssl.key.password",
    "properties.ssl.key.pem",
    "aws.credentials.secret_access_key",
    "aws.credentials.session_token",
];

/// Says only where the value is.
fn is_reference(key: &str, value: &str) -> bool {
    let variable = value.starts_with("${") && value.ends_with('}') && value.matches('$').count() == 1;
    variable || (key == "sslkey" && value.starts_with('/'))
}
