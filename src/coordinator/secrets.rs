//! CREATE SECRET and ALTER SECRET, and the values of options that are secrets or name environment variables.
//!
//! ```text
//!   password = SECRET pw, host = '${DB_HOST}'      as the catalog has them
//!        │ value()             │ interpolate()      when they are used, never before
//!        ▼                     ▼
//!   Hidden("..")          'db.example.com'
//! ```

use std::io::Read;

use datafusion::sql::sqlparser::ast as sql;
use tidemark_catalog::{Catalog, Change, Object, ObjectKind, SECRETS, Secret, SecretKey};
use tidemark_common::{Error, Hidden, Oid, Result, SqlState};
use tidemark_sql::ast::{AlterSecret, CreateSecret, SecretFrom, SecretOptions, WithOptions};

use super::{Target, already_exists};
use crate::session::{Outcome, Session, fold};

/// Longest value of a secret, in bytes.
const MAX_VALUE: u64 = 64 << 10;

const NEED_A_KEY: &str = "Make a key with `openssl rand -hex 32`, keep it outside the data directory, and give it to the server: \
                          TIDEMARK_SECRET_KEY=.., or secret_key_file = '/path' in tidemark.toml. Without one, FROM ENV and FROM FILE \
                          keep only where the value is.";

impl Session {
    pub(crate) fn create_secret(&mut self, create: &CreateSecret) -> Result<Outcome> {
        let done = || Ok(Outcome::Command("CREATE SECRET".into()));
        let target = Target { schema: SECRETS, name: self.global_name(&create.name, "secret")? };
        let before = self.existing(&target)?;
        if let Some(before) = &before {
            if create.if_not_exists {
                self.tell(format!("secret \"{}\" already exists, skipping", before.name));
                return done();
            }
            if !create.or_replace {
                return Err(already_exists(before));
            }
        }
        let oid = before.as_ref().map_or_else(|| self.database().new_oid(), |before| before.oid);
        let kind = ObjectKind::Secret(self.secret_of(oid, &target.name, &create.from)?);
        let object = match before {
            // Who uses it goes on to, with the new value.
            Some(before) => Object { kind, ..before.as_ref().clone() },
            None => Object { oid, ..self.object(target, Default::default(), kind)? },
        };
        self.change_catalog(vec![Change::Put(Box::new(object))], vec![])?;
        done()
    }

    pub(crate) fn alter_secret(&mut self, alter: &AlterSecret) -> Result<Outcome> {
        let name = self.global_name(&alter.name, "secret")?;
        let catalog = self.catalog()?;
        match catalog.secret(&name) {
            Ok(before) => {
                let kind = ObjectKind::Secret(self.secret_of(before.oid, &name, &alter.from)?);
                let object = Object { kind, ..before.as_ref().clone() };
                self.change_catalog(vec![Change::Put(Box::new(object))], vec![])?;
            }
            Err(error) if alter.if_exists => self.tell(format!("{error}, skipping")),
            Err(error) => return Err(error),
        }
        Ok(Outcome::Command("ALTER SECRET".into()))
    }

    fn secret_of(&self, oid: Oid, name: &str, from: &SecretFrom) -> Result<Secret> {
        let empty = |what: &str| Error::invalid(format!("{what} of secret \"{name}\" is empty"));
        Ok(match from {
            SecretFrom::Literal(value) => {
                let length = value.reveal().len() as u64;
                if length == 0 {
                    return Err(empty("the value"));
                }
                if length > MAX_VALUE {
                    return Err(too_long(name));
                }
                let database = self.database();
                let key = database.environment.secret_key.as_ref().ok_or_else(|| {
                    Error::new(
                        SqlState::ObjectNotInPrerequisiteState,
                        format!("secret \"{name}\" cannot be kept: the server has no secret_key to encrypt it with"),
                    )
                    .with_hint(NEED_A_KEY)
                })?;
                Secret::Sealed(key.seal(oid, value)?)
            }
            SecretFrom::Env(variable) if variable.is_empty() => return Err(empty("the environment variable")),
            SecretFrom::Env(variable) => Secret::Env(variable.clone()),
            SecretFrom::File(path) if !path.starts_with('/') => {
                return Err(Error::invalid(format!(
                    "the file of secret \"{name}\" must be a whole path, not \"{path}\""
                ))
                .with_hint(
                    "A path from the root, such as '/run/secrets/name', means the same wherever the server starts.",
                ));
            }
            SecretFrom::File(path) => Secret::File(path.clone()),
        })
    }

    /// Which options are secrets, by OID.
    pub(super) fn secret_options(&self, secrets: &SecretOptions) -> Result<Vec<(String, Oid)>> {
        let catalog = self.catalog()?;
        secrets.iter().map(|(key, name)| Ok((key.clone(), catalog.secret(&fold(name))?.oid))).collect()
    }

    /// The name of what is in no schema.
    pub(crate) fn global_name(&self, name: &sql::ObjectName, kind: &str) -> Result<String> {
        let [part] = name.0.as_slice() else {
            return Err(Error::syntax(format!("a {kind} is in no schema: \"{name}\" has one name too many")));
        };
        let name = part.as_ident().map(fold).unwrap_or_default();
        super::check_length(&name)?;
        Ok(name)
    }
}

/// Options as they are used: environment variables and secrets in their places.
pub struct Resolved {
    pub options: Vec<(String, String)>,
    pub secrets: Vec<(String, Hidden)>,
}

pub fn resolve(
    options: &[(String, String)],
    secrets: &[(String, Oid)],
    catalog: &Catalog,
    key: Option<&SecretKey>,
) -> Result<Resolved> {
    refuse_secret_variables(options, catalog)?;
    let secrets = secrets.iter().map(|(option, oid)| Ok((option.clone(), value(catalog.expect(*oid)?, key)?)));
    Ok(Resolved { options: interpolated(options)?, secrets: secrets.collect::<Result<_>>()? })
}

/// Options as they are written, and which of them are secrets.
pub type Given = (Vec<(String, String)>, Vec<(String, Oid)>);

/// `ALTER .. SET (..)` and `RESET (..)`: what is set takes the place of what there was. `what`: names whose options they are.
pub fn altered(
    (mut options, mut secrets): Given,
    (set, set_secrets): (&WithOptions, Vec<(String, Oid)>),
    reset: &[String],
    what: &str,
) -> Result<Given> {
    let has = |key: &String| options.iter().any(|(k, _)| k == key) || secrets.iter().any(|(k, _)| k == key);
    if let Some(key) = reset.iter().find(|key| !has(key)) {
        return Err(Error::new(SqlState::UndefinedObject, format!("{what} has no option \"{key}\"")));
    }
    let goes = |key: &String| {
        reset.contains(key) || set.iter().any(|(k, _)| k == key) || set_secrets.iter().any(|(k, _)| k == key)
    };
    options.retain(|(key, _)| !goes(key));
    secrets.retain(|(key, _)| !goes(key));
    options.extend(set.iter().cloned());
    secrets.extend(set_secrets);
    Ok((options, secrets))
}

/// Options whose values nobody is shown.
const HIDDEN: [&str; 5] = ["password", "sslkey", "sslcert", "sslrootcert", "alert_webhook"];

/// What a secret reads from the environment is in no option that is shown, in an error for example.
pub fn refuse_secret_variables(options: &[(String, String)], catalog: &Catalog) -> Result<()> {
    let shown = |(option, value): &&(String, String)| value.contains("${") && !HIDDEN.contains(&option.as_str());
    for (option, value) in options.iter().filter(shown) {
        let read = catalog.objects().find_map(|object| match &object.kind {
            ObjectKind::Secret(Secret::Env(variable)) => {
                let variable = format!("${{{variable}}}");
                value.contains(&variable).then(|| (variable, object.name.clone()))
            }
            _ => None,
        });
        if let Some((variable, secret)) = read {
            let message = format!("option \"{option}\" has {variable}, which secret \"{secret}\" is read from");
            return Err(Error::new(SqlState::InsufficientPrivilege, message)
                .with_hint("Its value is shown where something fails: give it another variable."));
        }
    }
    Ok(())
}

/// The secret's value, now.
fn value(object: &Object, key: Option<&SecretKey>) -> Result<Hidden> {
    let name = &object.name;
    let unreadable =
        |why: String| Error::new(SqlState::ObjectNotInPrerequisiteState, format!("secret \"{name}\" {why}"));
    let ObjectKind::Secret(secret) = &object.kind else {
        return Err(Error::internal(format!("\"{name}\" is no secret")));
    };
    let value = match secret {
        Secret::Sealed(sealed) => {
            let key = key.ok_or_else(|| {
                unreadable("cannot be decrypted: the server was started without secret_key".into())
                    .with_hint("Start it with the key that was there when the secret was made.")
            })?;
            key.open(object.oid, sealed).ok_or_else(|| {
                unreadable("cannot be decrypted: secret_key is not the key it was encrypted with".into()).with_hint(
                    "Start the server with the key that was there when the secret was made, or give the secret a new value: \
                     ALTER SECRET name AS '..'.",
                )
            })?
        }
        Secret::Env(variable) => Hidden::new(environment(variable).ok_or_else(|| {
            unreadable(format!("is not there: environment variable {variable} is not set"))
                .with_hint("It is read from the environment that the server was started in.")
        })?),
        Secret::File(path) => {
            let text = read_file(path).map_err(|e| unreadable(format!("cannot be read from {path}: {e}")))?;
            if text.len() as u64 > MAX_VALUE {
                return Err(too_long(name));
            }
            Hidden::new(text.trim_end_matches(['\n', '\r']))
        }
    };
    if value.reveal().is_empty() {
        return Err(unreadable("is empty".into()));
    }
    Ok(value)
}

fn too_long(name: &str) -> Error {
    Error::new(
        SqlState::ProgramLimitExceeded,
        format!("the value of secret \"{name}\" is longer than {} kB", MAX_VALUE >> 10),
    )
}

/// No more of it than a secret may be long, and one byte.
fn read_file(path: &str) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(MAX_VALUE + 1).read_to_string(&mut text)?;
    Ok(text)
}

fn environment(variable: &str) -> Option<String> {
    std::env::var(variable).ok()
}

/// `${NAME}` in values gives way to the environment variable; `$${` stands for `${`.
pub fn interpolated(options: &[(String, String)]) -> Result<Vec<(String, String)>> {
    options.iter().map(|(key, value)| Ok((key.clone(), interpolate(key, value, environment)?))).collect()
}

fn interpolate(option: &str, value: &str, environment: impl Fn(&str) -> Option<String>) -> Result<String> {
    let mut out = String::new();
    let mut rest = value;
    while let Some(at) = rest.find("${") {
        if let Some(before) = rest[..at].strip_suffix('$') {
            out.push_str(before);
            out.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        out.push_str(&rest[..at]);
        let after = &rest[at + 2..];
        let (name, tail) = after.split_once('}').ok_or_else(|| {
            Error::invalid(format!("option \"{option}\" has \"${{\" without \"}}\""))
                .with_hint("Write $${ for ${ itself.")
        })?;
        if name.starts_with("TIDEMARK_") {
            let message =
                format!("environment variable \"{name}\" is the server's own: option \"{option}\" cannot have it");
            return Err(Error::new(SqlState::InsufficientPrivilege, message)
                .with_hint("Start the server with the value in a variable of another name."));
        }
        let found = environment(name).ok_or_else(|| {
            Error::new(
                SqlState::UndefinedObject,
                format!("environment variable \"{name}\" in option \"{option}\" is not set"),
            )
            .with_hint("It is read from the environment that the server was started in. Write $${ for ${ itself.")
        })?;
        out.push_str(&found);
        rest = tail;
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_give_way_to_their_values() {
        let environment = |name: &str| (name == "HOST").then(|| "db.${X}".to_string());
        let check = |value: &str| interpolate("host", value, environment).map_err(|e| e.to_string());
        assert_eq!(check("plain $ {} $HOST"), Ok("plain $ {} $HOST".into()));
        assert_eq!(check("a-${HOST}:${HOST}"), Ok("a-db.${X}:db.${X}".into()), "once only");
        assert_eq!(check("$${HOST} $$${HOST}"), Ok("${HOST} $${HOST}".into()));
        assert_eq!(check("${NONE}"), Err("environment variable \"NONE\" in option \"host\" is not set".into()));
        assert_eq!(check("${HOST"), Err("option \"host\" has \"${\" without \"}\"".into()));
    }
}
