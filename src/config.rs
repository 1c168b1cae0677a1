//! Settings and the command line.
//!
//! ```text
//!   defaults ◀── tidemark.toml ◀── TIDEMARK_* environment ◀── flags        (the right one wins)
//!        └──────────────┴──────── SETTINGS ─────┴───────────────┘
//!                                    │
//!                    Config (typed) + Value (name, text, origin) for `tidemark config` and tidemark.settings
//! ```
//!
//! [`SETTINGS`] is the one table: flags, environment variables, keys of the file, `tidemark config` and the table in
//! docs/configuration.md all come from it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::builder::styling::Styles;
use clap::{Arg, ArgAction, ArgMatches};
use tidemark_catalog::SecretKey;
use tidemark_common::{Error, Result, SqlState, nearest};

use crate::pg_catalog::SettingFact;

/// What a setting's text must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Path,
    Address,
    /// An address, or `off`.
    OptionalAddress,
    Text,
    Duration,
    Size,
    Count,
    Switch,
    /// One of these words.
    Choice(&'static [&'static str]),
}

/// One setting, by every name it has.
#[derive(Debug)]
pub struct Setting {
    /// As in tidemark.toml and tidemark.settings; the flag has dashes, the environment variable TIDEMARK_ and capitals.
    pub name: &'static str,
    pub kind: Kind,
    /// Empty: none, or worked out from the machine; then `help` says how.
    pub default: &'static str,
    pub help: &'static str,
    /// Never shown.
    pub secret: bool,
}

const fn setting(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Setting {
    Setting { name, kind, default, help, secret: false }
}

const TLS_MODES: &[&str] = &["optional", "required"];

/// Every setting there is.
pub static SETTINGS: &[Setting] = &[
    setting("data_dir", Kind::Path, "./tidemark-data", "Directory that holds the database; made if it does not exist"),
    setting("listen", Kind::Address, "127.0.0.1:8433", "Address for psql and every other Postgres client"),
    setting("http", Kind::OptionalAddress, "127.0.0.1:8434", "Address for /healthz, /readyz and /metrics, or 'off'"),
    Setting {
        name: "password",
        kind: Kind::Text,
        default: "",
        help: "Password that clients must give; without one only loopback addresses can be listened on",
        secret: true,
    },
    setting(
        "tls",
        Kind::Choice(TLS_MODES),
        "optional",
        "Whether clients on other machines must encrypt, 'required', or may; with tls_cert and tls_key",
    ),
    setting("tls_cert", Kind::Path, "", "PEM file with the server's certificate and its chain; default: no TLS"),
    setting("tls_key", Kind::Path, "", "PEM file with the private key of tls_cert"),
    Setting {
        name: "secret_key",
        kind: Kind::Text,
        default: "",
        help: "Key that CREATE SECRET encrypts values with, 64 hexadecimal digits, as `openssl rand -hex 32` makes them",
        secret: true,
    },
    setting("secret_key_file", Kind::Path, "", "File that holds the secret_key instead"),
    setting(
        "epoch_interval",
        Kind::Duration,
        "100ms",
        "Longest time between two ticks of the clock while there is input",
    ),
    setting("workers", Kind::Count, "", "Threads that dataflows are spread over; default: one per core"),
    setting("max_running_pipelines", Kind::Count, "4", "Pipelines that run at a time; further ones wait"),
    setting("max_connections", Kind::Count, "100", "Client connections at a time; further ones are refused"),
    setting("state_cache_bytes", Kind::Size, "512MB", "Memory for hot state of views, in front of the store"),
    setting(
        "block_cache_bytes",
        Kind::Size,
        "256MB",
        "Memory for what was read from the store: blocks, and rows looked up by key",
    ),
    setting(
        "column_rows",
        Kind::Count,
        "65536",
        "Rows from which on a table or view is kept by column as well, for queries that read all of it; 0: none is",
    ),
    setting(
        "query_memory_limit",
        Kind::Size,
        "1GB",
        "Memory that all running queries together may use for sorts, joins and aggregates",
    ),
    setting("max_transaction_bytes", Kind::Size, "256MB", "Size of the uncommitted writes of one transaction"),
    setting(
        "max_cursor_bytes",
        Kind::Size,
        "256MB",
        "Rows that the SCROLL and WITH HOLD cursors of one session may keep in memory",
    ),
    setting(
        "source_queue_bytes",
        Kind::Size,
        "16MB",
        "Bytes that wait between a source and the clock; then the source waits",
    ),
    setting(
        "source_queue_rows",
        Kind::Count,
        "100000",
        "Rows that wait between a source and the clock; then the source waits",
    ),
    setting(
        "lookup_max_bytes",
        Kind::Size,
        "256MB",
        "Rows that wait for the lookups of one view; then the clock waits for them",
    ),
    setting("outbox_max_bytes", Kind::Size, "1GB", "Undelivered records of one sink; then the clock waits for it"),
    setting(
        "sync",
        Kind::Switch,
        "on",
        "Commits wait for the disk (fsync); when off, a crash of the machine may lose the last epochs, never mix them",
    ),
    setting(
        "log",
        Kind::Text,
        "info",
        "What is logged to stderr: error, warn, info, debug, trace, or module=level, ..",
    ),
    setting("shutdown_timeout", Kind::Duration, "10s", "How long running statements may go on after SIGTERM"),
];

impl Setting {
    pub fn flag(&self) -> String {
        self.name.replace('_', "-")
    }

    pub fn env(&self) -> String {
        format!("TIDEMARK_{}", self.name.to_uppercase())
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Default,
    File(PathBuf),
    Environment(String),
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File(path) => write!(f, "file {}", path.display()),
            Origin::Environment(name) => write!(f, "environment {name}"),
            Origin::Flag(name) => write!(f, "flag --{name}"),
        }
    }
}

/// A setting's value in this process.
#[derive(Debug, Clone)]
pub struct Value {
    pub setting: &'static Setting,
    pub text: String,
    pub origin: Origin,
}

impl Value {
    /// The text, stars for a secret.
    pub fn shown(&self) -> &str {
        if self.setting.secret && !self.text.is_empty() { "***" } else { &self.text }
    }
}

/// The server's certificate and key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Clients on other machines must encrypt.
    pub required: bool,
}

/// All settings, checked.
#[derive(Clone)]
pub struct Config {
    pub data_dir: PathBuf,
    pub listen: String,
    /// `None`: off.
    pub http: Option<String>,
    pub password: Option<String>,
    pub tls: Option<TlsFiles>,
    pub secret_key: Option<SecretKey>,
    pub epoch_interval: Duration,
    pub workers: usize,
    pub max_running_pipelines: usize,
    pub max_connections: usize,
    pub state_cache_bytes: u64,
    pub block_cache_bytes: u64,
    pub column_rows: usize,
    pub query_memory_limit: u64,
    pub max_transaction_bytes: u64,
    pub max_cursor_bytes: u64,
    pub source_queue_bytes: u64,
    pub source_queue_rows: usize,
    pub lookup_max_bytes: u64,
    pub outbox_max_bytes: u64,
    pub sync: bool,
    pub log: String,
    pub shutdown_timeout: Duration,
    /// In the order of [`SETTINGS`].
    pub values: Vec<Value>,
}

/// What the process shall do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Serve,
    /// Runs a script (`-`: standard input) against an instance inside this process, then ends.
    Run {
        script: PathBuf,
        /// No data directory was named: use one that goes away afterwards.
        temporary: bool,
    },
    /// Shows the settings.
    Config,
}

/// Reads flags, environment and file of this process. Does not return for `--help`, `--version` and wrong flags.
pub fn from_command_line() -> Result<(Command, Config)> {
    let matches = command_line().get_matches();
    resolve(&matches, &|name| std::env::var(name).ok())
}

fn resolve(matches: &ArgMatches, env: &dyn Fn(&str) -> Option<String>) -> Result<(Command, Config)> {
    // Global flags that follow a subcommand are in the subcommand's matches as well.
    let inner = matches.subcommand().map_or(matches, |(_, inner)| inner);
    let flags: BTreeMap<&str, String> =
        SETTINGS.iter().filter_map(|s| inner.get_one::<String>(s.name).map(|text| (s.name, text.clone()))).collect();
    let named = inner.get_one::<String>("config").cloned().or_else(|| env("TIDEMARK_CONFIG"));
    let file = read_file(named.as_deref().map(Path::new))?;
    let config = Config::new(&flags, env, file.as_ref())?;
    let command = match matches.subcommand() {
        Some(("run", run)) => Command::Run {
            script: run.get_one::<String>("script").expect("clap requires it").into(),
            temporary: config.origin("data_dir") == &Origin::Default,
        },
        Some(("config", _)) => Command::Config,
        _ => Command::Serve,
    };
    Ok((command, config))
}

fn command_line() -> clap::Command {
    let mut command = clap::Command::new("tidemark")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A streaming database: connect with psql, write SQL, and views stay up to date")
        .after_help(
            "Every setting can also be given as environment variable (--data-dir is TIDEMARK_DATA_DIR) or in tidemark.toml \
             (data_dir = \"..\"). Flags win over the environment, the environment over the file.\n\n\
             Connect:  psql -h 127.0.0.1 -p 8433 -U tidemark",
        )
        .styles(Styles::plain())
        .disable_help_subcommand(true)
        .subcommand(clap::Command::new("serve").about("Run the server (what happens without a command, too)"))
        .subcommand(
            clap::Command::new("run")
                .about("Run a SQL script against an instance inside this process, print its results, and exit")
                .long_about(
                    "Runs a SQL script against an instance inside this process, prints its results, and exits: with 0 if \
                     every statement succeeded, else with 1 at the first error. Without --data-dir the database is \
                     temporary and goes away afterwards.",
                )
                .arg(Arg::new("script").value_name("FILE.sql").required(true).help("The script; - reads standard input")),
        )
        .subcommand(clap::Command::new("config").about("Show every setting, its value, and where the value comes from"))
        .arg(
            Arg::new("config")
                .long("config")
                .value_name("FILE")
                .global(true)
                .help("File of settings [default: tidemark.toml in the working directory, if there is one]"),
        );
    for s in SETTINGS {
        let default = if s.default.is_empty() { String::new() } else { format!(" [default: {}]", s.default) };
        command = command.arg(
            Arg::new(s.name)
                .long(&*s.flag().leak()) // clap wants names that live for ever; this runs once
                .value_name(s.kind.placeholder())
                .global(true)
                .action(ArgAction::Set)
                .allow_hyphen_values(false)
                .help(format!("{}{default}", s.help)),
        );
    }
    command
}

/// The settings file: its path and its keys, values as text.
struct SettingsFile {
    path: PathBuf,
    values: BTreeMap<String, String>,
}

fn read_file(named: Option<&Path>) -> Result<Option<SettingsFile>> {
    let path = named.unwrap_or(Path::new("tidemark.toml"));
    match std::fs::read_to_string(path) {
        Ok(text) => SettingsFile::parse(path, &text).map(Some),
        Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::from(error).context(format!("settings file {}", path.display()))),
    }
}

impl SettingsFile {
    fn parse(path: &Path, text: &str) -> Result<Self> {
        let table: toml::Table =
            text.parse().map_err(|e| Error::syntax(format!("settings file {}: {e}", path.display())))?;
        let mut values = BTreeMap::new();
        for (key, value) in table {
            if !SETTINGS.iter().any(|s| s.name == key) {
                return Err(unknown_key(path, &key));
            }
            let text = match value {
                toml::Value::String(text) => text,
                toml::Value::Integer(number) => number.to_string(),
                toml::Value::Boolean(switch) => if switch { "on" } else { "off" }.to_string(),
                other => {
                    return Err(Error::invalid(format!(
                        "settings file {}: {key} cannot be a {}",
                        path.display(),
                        other.type_str()
                    )));
                }
            };
            values.insert(key, text);
        }
        Ok(Self { path: path.to_path_buf(), values })
    }
}

fn unknown_key(path: &Path, key: &str) -> Error {
    let error = Error::new(
        SqlState::UndefinedObject,
        format!("settings file {}: unrecognized setting \"{key}\"", path.display()),
    );
    match nearest(key, SETTINGS.iter().map(|s| s.name)) {
        Some(near) => error.with_hint(format!("Perhaps you meant \"{near}\".")),
        None => error.with_hint("`tidemark config` lists the settings."),
    }
}

impl Config {
    fn new(
        flags: &BTreeMap<&str, String>,
        env: &dyn Fn(&str) -> Option<String>,
        file: Option<&SettingsFile>,
    ) -> Result<Self> {
        let values: Vec<Value> = SETTINGS
            .iter()
            .map(|setting| {
                let (text, origin) = if let Some(text) = flags.get(setting.name) {
                    (text.clone(), Origin::Flag(setting.flag()))
                } else if let Some(text) = env(&setting.env()) {
                    (text, Origin::Environment(setting.env()))
                } else if let Some((file, text)) = file.and_then(|f| Some((f, f.values.get(setting.name)?))) {
                    (text.clone(), Origin::File(file.path.clone()))
                } else {
                    (setting.default_text(), Origin::Default)
                };
                Value { setting, text, origin }
            })
            .collect();
        let read = Reader { values: &values };
        let config = Self {
            data_dir: PathBuf::from(read.text("data_dir")),
            listen: read.text("listen").to_string(),
            http: Some(read.text("http").to_string()).filter(|a| a != "off"),
            password: Some(read.text("password").to_string()).filter(|p| !p.is_empty()),
            tls: read.tls()?,
            secret_key: read.secret_key()?,
            epoch_interval: read.parse("epoch_interval", parse_duration)?,
            workers: read.count("workers", 1)?,
            max_running_pipelines: read.count("max_running_pipelines", 1)?,
            max_connections: read.count("max_connections", 1)?,
            state_cache_bytes: read.parse("state_cache_bytes", parse_size)?,
            block_cache_bytes: read.parse("block_cache_bytes", parse_size)?,
            column_rows: read.count("column_rows", 0)?,
            query_memory_limit: read.parse("query_memory_limit", parse_size)?,
            max_transaction_bytes: read.parse("max_transaction_bytes", parse_size)?,
            max_cursor_bytes: read.parse("max_cursor_bytes", parse_size)?,
            source_queue_bytes: read.parse("source_queue_bytes", parse_size)?,
            source_queue_rows: read.count("source_queue_rows", 1)?,
            lookup_max_bytes: read.parse("lookup_max_bytes", parse_size)?,
            outbox_max_bytes: read.parse("outbox_max_bytes", parse_size)?,
            sync: read.parse("sync", parse_switch)?,
            log: read.text("log").to_string(),
            shutdown_timeout: read.parse("shutdown_timeout", parse_duration)?,
            values: Vec::new(),
        };
        if config.epoch_interval.is_zero() {
            return Err(read.error("epoch_interval", "a duration above zero"));
        }
        let config = Self { values, ..config };
        config.check_addresses()?;
        Ok(config)
    }

    /// Whoever can reach an open port is superuser unless there is a password.
    fn check_addresses(&self) -> Result<()> {
        for (name, address) in [("listen", Some(&self.listen)), ("http", self.http.as_ref())] {
            let Some(address) = address else { continue };
            let resolved = resolve_address(name, address)?;
            if self.password.is_none() && !resolved.iter().all(|a| a.ip().is_loopback()) {
                return Err(Error::new(
                    SqlState::InvalidAuthorization,
                    format!("{name} = '{address}' is open to other machines, and no password is set"),
                )
                .with_hint("Set a password (TIDEMARK_PASSWORD), or listen on 127.0.0.1."));
            }
        }
        Ok(())
    }

    pub fn listen_addresses(&self) -> Result<Vec<SocketAddr>> {
        resolve_address("listen", &self.listen)
    }

    pub fn http_addresses(&self) -> Result<Vec<SocketAddr>> {
        self.http.as_ref().map_or(Ok(Vec::new()), |address| resolve_address("http", address))
    }

    pub fn origin(&self, name: &str) -> &Origin {
        &self.values.iter().find(|v| v.setting.name == name).expect("a name from SETTINGS").origin
    }

    /// A setting of the server as SHOW prints it.
    pub fn shown_setting(&self, name: &str) -> Option<String> {
        self.values.iter().find(|v| v.setting.name == name).map(|v| v.shown().to_string())
    }

    /// The server's settings, for the system tables.
    pub fn facts(&self) -> impl Iterator<Item = SettingFact> + '_ {
        self.values.iter().map(|v| SettingFact {
            name: v.setting.name.to_string(),
            value: v.shown().to_string(),
            default: v.setting.default_text(),
            unit: None,
            description: v.setting.help.to_string(),
            source: v.origin.to_string(),
            context: "postmaster".to_string(),
            kind: match v.setting.kind {
                Kind::Count => "integer",
                Kind::Switch => "bool",
                _ => "string",
            }
            .to_string(),
        })
    }

    /// What `tidemark config` prints: name, value and origin, in columns.
    pub fn listing(&self) -> String {
        let name_width = self.values.iter().map(|v| v.setting.name.len()).max().unwrap_or(0);
        let value_width = self.values.iter().map(|v| v.shown().len()).max().unwrap_or(0);
        let mut out = String::new();
        for v in &self.values {
            out += &format!("{:name_width$}  {:value_width$}  {}\n", v.setting.name, v.shown(), v.origin);
        }
        out
    }
}

fn resolve_address(name: &str, address: &str) -> Result<Vec<SocketAddr>> {
    let resolved: Vec<SocketAddr> = address
        .to_socket_addrs()
        .map_err(|e| {
            Error::invalid(format!("{name} = '{address}' is not an address: {e}"))
                .with_hint("Write it as host:port, e.g. 127.0.0.1:8433 or [::1]:8433.")
        })?
        .collect();
    if resolved.is_empty() {
        return Err(Error::invalid(format!("{name} = '{address}' names no address")));
    }
    Ok(resolved)
}

/// Takes typed values out of the texts, naming setting and origin in errors.
struct Reader<'a> {
    values: &'a [Value],
}

impl Reader<'_> {
    fn value(&self, name: &str) -> &Value {
        self.values.iter().find(|v| v.setting.name == name).expect("a name from SETTINGS")
    }

    fn text(&self, name: &str) -> &str {
        &self.value(name).text
    }

    fn parse<T>(&self, name: &str, parse: fn(&str) -> Option<T>) -> Result<T> {
        parse(self.text(name)).ok_or_else(|| self.error(name, self.value(name).setting.kind.expected()))
    }

    fn count(&self, name: &str, least: usize) -> Result<usize> {
        let parsed = usize::from_str(&self.text(name).replace('_', "")).ok().filter(|n| *n >= least);
        parsed.ok_or_else(|| self.error(name, &format!("a whole number, at least {least}")))
    }

    /// The key itself, or the one in the file.
    fn secret_key(&self) -> Result<Option<SecretKey>> {
        let (text, file) = (self.text("secret_key"), self.text("secret_key_file"));
        let (name, text) = match (text.is_empty(), file.is_empty()) {
            (true, true) => return Ok(None),
            (false, true) => ("secret_key", text.to_string()),
            (true, false) => {
                let cannot = |e: std::io::Error| Error::from(e).context(format!("secret_key_file: cannot read {file}"));
                ("secret_key_file", std::fs::read_to_string(file).map_err(cannot)?)
            }
            (false, false) => {
                return Err(Error::invalid("secret_key and secret_key_file are both set").with_hint("Set one of them."));
            }
        };
        let wrong = || {
            let what = "64 hexadecimal digits";
            match name {
                "secret_key" => self.error(name, what),
                _ => Error::invalid(format!("secret_key_file: {file} must hold {what}")),
            }
            .with_hint("`openssl rand -hex 32` makes a key.")
        };
        SecretKey::parse(&text).map(Some).ok_or_else(wrong)
    }

    /// Certificate and key, both or none.
    fn tls(&self) -> Result<Option<TlsFiles>> {
        let mode = self.text("tls");
        if !TLS_MODES.contains(&mode) {
            return Err(self.error("tls", "optional or required"));
        }
        let required = mode == "required";
        let (certificate, key) = (self.text("tls_cert"), self.text("tls_key"));
        let missing = match (certificate.is_empty(), key.is_empty()) {
            (false, false) => {
                return Ok(Some(TlsFiles { certificate: certificate.into(), key: key.into(), required }));
            }
            (true, true) if !required => return Ok(None),
            (true, true) => "tls = 'required' needs tls_cert and tls_key, which are not set",
            (true, false) => "tls_key is set, and tls_cert is not",
            (false, true) => "tls_cert is set, and tls_key is not",
        };
        Err(Error::invalid(missing).with_hint("Set both to PEM files, or neither."))
    }

    fn error(&self, name: &str, expected: &str) -> Error {
        let value = self.value(name);
        Error::invalid(format!("{name} must be {expected}, not '{}' ({})", value.shown(), value.origin))
    }
}

impl Setting {
    fn default_text(&self) -> String {
        match self.name {
            "workers" => std::thread::available_parallelism().map_or(1, |n| n.get()).to_string(),
            _ => self.default.to_string(),
        }
    }
}

impl Kind {
    fn placeholder(self) -> &'static str {
        match self {
            Kind::Path => "PATH",
            Kind::Address | Kind::OptionalAddress => "HOST:PORT",
            Kind::Text => "TEXT",
            Kind::Duration => "DURATION",
            Kind::Size => "SIZE",
            Kind::Count => "N",
            Kind::Switch => "ON|OFF",
            Kind::Choice(_) => "WORD",
        }
    }

    fn expected(self) -> &'static str {
        match self {
            Kind::Path => "a path",
            Kind::Address | Kind::OptionalAddress => "an address, host:port",
            Kind::Text => "text",
            Kind::Duration => "a duration such as 100ms, 5s, 10min, 1h",
            Kind::Size => "a size such as 512kB, 64MB, 1GB",
            Kind::Count => "a whole number",
            Kind::Switch => "on or off",
            Kind::Choice(_) => "one of its words",
        }
    }
}

/// Splits `64MB` into 64 and `MB`.
fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
    let number = text[..digits].replace('_', "").parse().ok()?;
    Some((number, text[digits..].trim()))
}

/// Units as Postgres has them: powers of 1024. Without a unit: bytes.
pub fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = number_and_unit(text)?;
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" | "kib" => 1 << 10,
        "mb" | "mib" => 1 << 20,
        "gb" | "gib" => 1 << 30,
        "tb" | "tib" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(factor)
}

/// A unit is asked for, unless it is zero.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = number_and_unit(text)?;
    match unit {
        "us" => Some(Duration::from_micros(number)),
        "ms" => Some(Duration::from_millis(number)),
        "s" | "sec" => Some(Duration::from_secs(number)),
        "m" | "min" => Some(Duration::from_secs(number.checked_mul(60)?)),
        "h" => Some(Duration::from_secs(number.checked_mul(3600)?)),
        "d" => Some(Duration::from_secs(number.checked_mul(86_400)?)),
        "" if number == 0 => Some(Duration::ZERO),
        _ => None,
    }
}

fn parse_switch(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" | "1" => Some(true),
        "off" | "false" | "no" | "0" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(args: &[&str], env: &[(&str, &str)], file: Option<&str>) -> Result<(Command, Config)> {
        let dir = tempfile::tempdir().unwrap();
        let mut all = vec!["tidemark".to_string()];
        all.extend(args.iter().map(|a| a.to_string()));
        // Never the working directory's file.
        let path = dir.path().join("tidemark.toml");
        std::fs::write(&path, file.unwrap_or("")).unwrap();
        all.extend(["--config".to_string(), path.display().to_string()]);
        let matches = command_line().try_get_matches_from(all).map_err(|e| Error::syntax(e.to_string()))?;
        resolve(&matches, &|name| env.iter().find(|(n, _)| *n == name).map(|(_, v)| v.to_string()))
    }

    #[test]
    fn the_command_line_is_consistent() {
        command_line().debug_assert();
    }

    #[test]
    fn defaults_are_valid() {
        let (command, config) = config(&[], &[], None).unwrap();
        assert_eq!(command, Command::Serve);
        assert_eq!(config.listen, "127.0.0.1:8433");
        assert_eq!(config.http.as_deref(), Some("127.0.0.1:8434"));
        assert_eq!(config.epoch_interval, Duration::from_millis(100));
        assert!(config.values.iter().all(|v| v.origin == Origin::Default));
    }

    #[test]
    fn flags_win_over_environment_over_file_over_default() {
        let file = Some("workers = 1\nmax_connections = 2\nsync = false\nlog = 'warn'");
        let env = [("TIDEMARK_WORKERS", "3"), ("TIDEMARK_MAX_CONNECTIONS", "4")];
        let (_, config) = config(&["serve", "--workers", "5"], &env, file).unwrap();
        assert_eq!((config.workers, config.max_connections, config.sync), (5, 4, false));
        assert_eq!(*config.origin("workers"), Origin::Flag("workers".into()));
        assert_eq!(*config.origin("max_connections"), Origin::Environment("TIDEMARK_MAX_CONNECTIONS".into()));
        assert!(matches!(config.origin("sync"), Origin::File(_)));
        assert_eq!(*config.origin("data_dir"), Origin::Default);
    }

    #[test]
    fn flags_may_stand_before_the_command() {
        let (command, config) = config(&["--workers", "7", "run", "x.sql"], &[], None).unwrap();
        assert_eq!(config.workers, 7);
        assert_eq!(command, Command::Run { script: "x.sql".into(), temporary: true });
        let (command, _) = super::tests::config(&["run", "-", "--data-dir", "d"], &[], None).unwrap();
        assert_eq!(command, Command::Run { script: "-".into(), temporary: false });
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest() {
        let error = config(&[], &[], Some("max_conections = 1")).err().unwrap();
        assert!(error.message().contains("unrecognized setting \"max_conections\""), "{error:?}");
        assert_eq!(error.hint(), Some("Perhaps you meant \"max_connections\"."));
    }

    #[test]
    fn only_loopback_without_a_password() {
        for address in ["0.0.0.0:8433", "[::]:8433"] {
            for flag in ["--listen", "--http"] {
                let error = config(&[flag, address], &[], None).err().unwrap();
                assert_eq!(error.state(), SqlState::InvalidAuthorization, "{address}");
                config(&[flag, address, "--password", "x"], &[], None).unwrap();
            }
        }
        config(&["--listen", "localhost:1", "--http", "off"], &[], None).unwrap();
        assert!(config(&["--listen", "8433"], &[], None).is_err());
    }

    #[test]
    fn wrong_values_name_the_setting_and_its_origin() {
        let error = config(&[], &[("TIDEMARK_SYNC", "maybe")], None).err().unwrap();
        assert_eq!(error.message(), "sync must be on or off, not 'maybe' (environment TIDEMARK_SYNC)");
        assert!(config(&["--epoch-interval", "0"], &[], None).is_err());
        assert!(config(&["--workers", "0"], &[], None).is_err());
        assert!(config(&["--epoch-interval", "100"], &[], None).is_err());
    }

    #[test]
    fn certificate_and_key_go_together() {
        let message = |args: &[&str]| config(args, &[], None).err().unwrap().message().to_string();
        assert_eq!(message(&["--tls-cert", "c.pem"]), "tls_cert is set, and tls_key is not");
        assert_eq!(message(&["--tls-key", "k.pem"]), "tls_key is set, and tls_cert is not");
        assert_eq!(message(&["--tls", "required"]), "tls = 'required' needs tls_cert and tls_key, which are not set");
        assert_eq!(message(&["--tls", "maybe"]), "tls must be optional or required, not 'maybe' (flag --tls)");
        assert_eq!(config(&[], &[], None).unwrap().1.tls, None);
        let (_, both) = config(&["--tls-cert", "c.pem", "--tls-key", "k.pem"], &[], None).unwrap();
        assert!(!both.tls.unwrap().required);
    }

    #[test]
    fn sizes_and_durations() {
        assert_eq!(parse_size("64MB"), Some(64 << 20));
        assert_eq!(parse_size("1_000"), Some(1000));
        assert_eq!(parse_size("2 GB"), Some(2 << 30));
        assert_eq!(parse_size("99999999999TB"), None);
        assert_eq!(parse_size("MB"), None);
        assert_eq!(parse_duration("100ms"), Some(Duration::from_millis(100)));
        assert_eq!(parse_duration("2min"), Some(Duration::from_secs(120)));
        assert_eq!(parse_duration("5"), None);
    }

    #[test]
    fn a_secret_is_never_shown() {
        let (_, config) = config(&["--password", "sesame"], &[], None).unwrap();
        assert!(!config.listing().contains("sesame"));
        assert!(config.listing().contains("password               ***"));
    }

    /// docs/configuration.md has a row for each setting, as the table here says it. UPDATE_EXPECT=1 rewrites it.
    #[test]
    fn the_documentation_lists_every_setting() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
        let text = std::fs::read_to_string(&path).unwrap();
        let (begin, end) = ("<!-- settings -->\n", "<!-- /settings -->");
        let from = text.find(begin).unwrap() + begin.len();
        let to = text.find(end).unwrap();
        let mut table = String::from("| Setting | Default | |\n|---|---|---|\n");
        for s in SETTINGS {
            let default = if s.default.is_empty() { String::new() } else { format!("`{}`", s.default) };
            table += &format!("| `{}` | {default} | {}. |\n", s.name, s.help);
        }
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(&path, format!("{}{table}{}", &text[..from], &text[to..])).unwrap();
        } else {
            assert_eq!(&text[from..to], table, "run with UPDATE_EXPECT=1 to rewrite docs/configuration.md");
        }
    }
}
