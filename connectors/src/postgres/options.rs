//! The options of a connection, checked. Their names are libpq's.

use std::time::Duration;

use tidemark_common::connector::LookupCache;
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Hidden, Result};

use crate::options::Options;

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
const DEFAULT_CACHE_KEYS: usize = 100_000;

/// How a connection is encrypted, and what is asked of the server's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslMode {
    Disable,
    /// Encrypted if the server can.
    Prefer,
    /// Encrypted, whoever the server is; with `sslrootcert` as `verify-ca`, as in libpq.
    Require,
    /// The certificate is of an authority that is trusted.
    VerifyCa,
    /// And it is the host's.
    VerifyFull,
}

impl SslMode {
    const NAMES: [(&'static str, SslMode); 5] = [
        ("disable", SslMode::Disable),
        ("prefer", SslMode::Prefer),
        ("require", SslMode::Require),
        ("verify-ca", SslMode::VerifyCa),
        ("verify-full", SslMode::VerifyFull),
    ];

    fn parse(text: &str) -> Option<SslMode> {
        Self::NAMES.iter().find(|(name, _)| *name == text).map(|(_, mode)| *mode)
    }

    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, mode)| *mode == self).map_or("", |(name, _)| name)
    }
}

#[derive(Debug, Clone)]
pub struct PostgresOptions {
    /// A name, an address, or the directory of a Unix socket.
    pub host: String,
    pub port: u16,
    pub database: String,
    pub user: String,
    pub password: Option<Hidden>,
    pub sslmode: SslMode,
    /// Each a file's path, or PEM text.
    pub sslrootcert: Option<Hidden>,
    pub sslcert: Option<Hidden>,
    pub sslkey: Option<Hidden>,
    /// For all steps together.
    pub connect_timeout: Duration,
    pub application_name: String,
    /// Settings of the session, as libpq's `options`: `-c work_mem=64MB`.
    pub options: Option<String>,
    /// What a `numeric` without precision is read as.
    pub numeric: SqlType,
    /// What lookups by this connection remember.
    pub lookup_cache: LookupCache,
}

impl PostgresOptions {
    pub fn parse(mut options: Options) -> Result<Self> {
        let kind = options.require("type")?;
        if kind.eq_ignore_ascii_case("kafka") {
            return Err(Error::invalid("it is of type kafka, not postgres"));
        }
        if !kind.eq_ignore_ascii_case("postgres") && !kind.eq_ignore_ascii_case("postgresql") {
            return Err(
                Error::invalid(format!("unknown type of connection \"{kind}\"")).with_hint("Known: kafka, postgres.")
            );
        }
        let lookup_cache = lookup_cache(&mut options)?;
        let parsed = Self { lookup_cache, ..Self::take(&mut options)? };
        options.finish()?;
        parsed.complete()
    }

    /// Takes what says how to connect. What must be said is there only after [`Self::complete`].
    pub fn take(options: &mut Options) -> Result<Self> {
        Ok(Self {
            host: options.take("host").unwrap_or_else(|| "localhost".into()),
            port: options.parse("port", "a port number")?.unwrap_or(5432),
            user: options.take("user").unwrap_or_default(),
            database: options.take("database").unwrap_or_default(),
            sslmode: ssl_mode(options)?,
            password: options.take_credential("password"),
            sslrootcert: options.take_credential("sslrootcert"),
            sslcert: options.take_credential("sslcert"),
            sslkey: options.take_credential("sslkey"),
            connect_timeout: timeout(options)?,
            application_name: options.take("application_name").unwrap_or_else(|| "tidemark".into()),
            options: options.take("options"),
            numeric: numeric(options)?,
            lookup_cache: LookupCache::default(),
        })
    }

    pub fn complete(mut self) -> Result<Self> {
        if self.user.is_empty() {
            return Err(Error::invalid("option \"user\" is missing").with_hint("Add user = '..' to WITH (..)."));
        }
        if self.database.is_empty() {
            self.database = self.user.clone();
        }
        self.check_together()?;
        Ok(self)
    }

    fn check_together(&self) -> Result<()> {
        if self.sslcert.is_some() != self.sslkey.is_some() {
            return Err(Error::invalid("options \"sslcert\" and \"sslkey\" go together"));
        }
        let certificates = self.sslcert.is_some() || self.sslrootcert.is_some();
        if certificates && self.sslmode == SslMode::Disable {
            return Err(Error::invalid("there are certificates, and sslmode is 'disable'"));
        }
        Ok(())
    }

    /// Host and port as messages name them.
    pub fn address(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    /// One server, database and user, as far as names tell.
    pub fn is_same_database(&self, other: &Self) -> bool {
        let of = |o: &Self| (o.host.clone(), o.port, o.database.clone(), o.user.clone());
        of(self) == of(other)
    }

    pub fn is_socket(&self) -> bool {
        self.host.starts_with('/')
    }
}

fn ssl_mode(options: &mut Options) -> Result<SslMode> {
    let Some(text) = options.take("sslmode") else { return Ok(SslMode::Prefer) };
    SslMode::parse(&text.to_lowercase()).ok_or_else(|| {
        let names: Vec<&str> = SslMode::NAMES.iter().map(|(name, _)| *name).collect();
        Error::invalid(format!("option \"sslmode\" must be one of {}, not \"{text}\"", names.join(", ")))
    })
}

/// Seconds, as in libpq, or `500ms`, `10s`.
fn timeout(options: &mut Options) -> Result<Duration> {
    let Some(text) = options.take("connect_timeout") else { return Ok(DEFAULT_TIMEOUT) };
    let trimmed = text.trim();
    let parsed = match trimmed.strip_suffix("ms") {
        Some(millis) => millis.trim().parse().ok().map(Duration::from_millis),
        None => trimmed.strip_suffix('s').unwrap_or(trimmed).trim().parse().ok().map(Duration::from_secs),
    };
    parsed.filter(|timeout| !timeout.is_zero()).ok_or_else(|| {
        Error::invalid(format!("option \"connect_timeout\" must be a time such as 10s or 500ms, not \"{text}\""))
    })
}

/// `numeric`, `numeric(p, s)` or `text`.
fn numeric(options: &mut Options) -> Result<SqlType> {
    let Some(text) = options.take("numeric") else { return Ok(SqlType::Numeric(None)) };
    let parsed = match text.trim().to_lowercase().as_str() {
        "numeric" => Some(SqlType::Numeric(None)),
        "text" => Some(SqlType::Text),
        other => other.strip_prefix("numeric(").and_then(|rest| rest.strip_suffix(')')).and_then(|sizes| {
            let (precision, scale) = sizes.split_once(',').unwrap_or((sizes, "0"));
            let (precision, scale): (u8, i8) = (precision.trim().parse().ok()?, scale.trim().parse().ok()?);
            let fits = (1..=76).contains(&precision) && scale >= 0 && scale as u8 <= precision;
            fits.then_some(SqlType::Numeric(Some((precision, scale))))
        }),
    };
    parsed.ok_or_else(|| {
        Error::invalid(format!(
            "option \"numeric\" must be numeric, numeric(p, s) up to 76 digits, or text, not \"{text}\""
        ))
    })
}

/// `lookup_cache_ttl`, an interval, and `lookup_cache_keys`.
fn lookup_cache(options: &mut Options) -> Result<LookupCache> {
    let ttl = options.duration("lookup_cache_ttl")?.unwrap_or_default();
    let ttl = i64::try_from(ttl.as_micros()).unwrap_or(i64::MAX);
    let keys = options.parse("lookup_cache_keys", "a number of keys")?;
    Ok(LookupCache { ttl, keys: keys.unwrap_or(DEFAULT_CACHE_KEYS) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<PostgresOptions> {
        let pairs: Vec<(String, String)> = pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        PostgresOptions::parse(Options::with_secrets(&pairs, &[("password".into(), Hidden::new("hush"))])?)
    }

    #[test]
    fn what_is_not_said_is_as_libpq_has_it() {
        let options = parse(&[("type", "postgres"), ("user", "etl")]).unwrap();
        assert_eq!((options.address().as_str(), options.database.as_str()), ("localhost:5432", "etl"));
        assert_eq!((options.sslmode, options.connect_timeout), (SslMode::Prefer, Duration::from_secs(10)));
        assert_eq!(options.password, Some(Hidden::new("hush")));
        assert!(!format!("{options:?}").contains("hush"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let message = |more: &[(&str, &str)]| {
            let error = parse(&[&[("type", "postgres"), ("user", "u")], more].concat()).unwrap_err();
            format!("{} {}", error.message(), error.hint().unwrap_or_default())
        };
        assert_eq!(message(&[("hots", "x")]), "unrecognized option \"hots\" Perhaps you meant \"host\".");
        assert!(message(&[("port", "many")]).contains("\"port\" must be a port number"));
        assert!(message(&[("sslmode", "maybe")]).contains("must be one of disable, prefer, require"));
        assert!(message(&[("sslcert", "/a")]).contains("go together"));
        assert!(message(&[("connect_timeout", "0")]).contains("such as 10s"));
        assert!(message(&[("numeric", "numeric(90,2)")]).contains("up to 76 digits"));
        assert!(parse(&[("type", "mysql")]).unwrap_err().message().contains("\"mysql\""));
        assert!(parse(&[("user", "u")]).unwrap_err().message().contains("\"type\" is missing"));
    }
}
