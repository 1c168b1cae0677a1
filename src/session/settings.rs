//! Settings of a session: those that change what a statement does, and those that clients set whatever they do.

use tidemark_common::{Error, Result, SqlState, nearest};

pub struct Setting {
    pub name: &'static str,
    pub default: &'static str,
    /// `user`: by SET; `internal`: never.
    pub context: &'static str,
    pub kind: Kind,
    /// Clients are told when it changes.
    pub reported: bool,
    pub description: &'static str,
}

pub enum Kind {
    Text,
    Bool,
    Integer(i64, i64),
    /// Milliseconds, or a time with a unit.
    Millis,
    TimeZone,
    OneOf(&'static [&'static str]),
}

const fn user(name: &'static str, default: &'static str, kind: Kind, description: &'static str) -> Setting {
    Setting { name, default, context: "user", kind, reported: false, description }
}

const fn reported(name: &'static str, default: &'static str, kind: Kind, description: &'static str) -> Setting {
    Setting { name, default, context: "user", kind, reported: true, description }
}

const fn fixed(name: &'static str, default: &'static str, description: &'static str) -> Setting {
    Setting { name, default, context: "internal", kind: Kind::Text, reported: true, description }
}

const ISOLATION: &[&str] = &["read uncommitted", "read committed", "repeatable read", "serializable"];

/// In order of name, as SHOW ALL lists them.
pub static SETTINGS: &[Setting] = &[
    reported("application_name", "", Kind::Text, "Name of the application, for pg_stat_activity"),
    user(
        "backfill_rate_limit",
        "-1",
        Kind::Integer(-1, i64::MAX),
        "Rows a second that the backfill of a new materialized view may read; -1: no limit",
    ),
    user("bytea_output", "hex", Kind::OneOf(&["hex", "escape"]), "How bytea is written"),
    user("check_function_bodies", "on", Kind::Bool, "Accepted for pg_dump's sake"),
    reported("client_encoding", "UTF8", Kind::OneOf(&["utf8", "unicode", "utf-8"]), "Always UTF8"),
    user("client_min_messages", "notice", Kind::Text, "Accepted; all messages are sent"),
    reported("datestyle", "ISO, MDY", Kind::Text, "How dates are written; always ISO"),
    user(
        "default_transaction_isolation",
        "repeatable read",
        Kind::OneOf(ISOLATION),
        "Every transaction reads one epoch, whatever is asked for",
    ),
    reported("default_transaction_read_only", "off", Kind::Bool, "New transactions may not write"),
    user("extra_float_digits", "1", Kind::Integer(-15, 3), "Digits of floats; 1 and above are exact"),
    user("idle_in_transaction_session_timeout", "0", Kind::Millis, "Accepted"),
    reported("in_hot_standby", "off", Kind::Bool, "Always off"),
    fixed("integer_datetimes", "on", "Timestamps are whole microseconds"),
    reported("intervalstyle", "postgres", Kind::OneOf(&["postgres", "iso_8601"]), "How intervals are written"),
    reported("is_superuser", "on", Kind::Bool, "Whether the user may do everything"),
    user("lc_collate", "C", Kind::Text, "Text is ordered by its bytes"),
    user("lock_timeout", "0", Kind::Millis, "Accepted; nothing waits for locks"),
    fixed("max_identifier_length", "63", "Longest name"),
    user("row_security", "on", Kind::Bool, "Accepted"),
    reported("search_path", "\"$user\", public", Kind::Text, "Schemas in which names are looked up"),
    fixed("server_encoding", "UTF8", "Encoding of the database"),
    fixed("server_version", "15.0", "Version of Postgres whose dialect this is"),
    fixed("server_version_num", "150000", "The same as a number"),
    reported("session_authorization", "tidemark", Kind::Text, "The session's user"),
    reported("standard_conforming_strings", "on", Kind::Bool, "Backslashes in '..' are plain characters"),
    user("statement_timeout", "0", Kind::Millis, "Longest time a statement may take; 0: no limit"),
    user("synchronize_seqscans", "on", Kind::Bool, "Accepted for pg_dump's sake"),
    user("tidemark.run_id", "", Kind::Text, "Loads into tables kept elsewhere are done once for each id"),
    reported("timezone", "UTC", Kind::TimeZone, "Time zone in which timestamptz is written and read"),
    user("transaction_isolation", "repeatable read", Kind::OneOf(ISOLATION), "Isolation of this transaction"),
    user("transaction_read_only", "off", Kind::Bool, "This transaction may not write"),
    user("xmloption", "content", Kind::Text, "Accepted for pg_dump's sake"),
];

/// The setting of that name, in any case.
pub fn find(name: &str) -> Option<&'static Setting> {
    let is = |other: &str| name.eq_ignore_ascii_case(other);
    let name = if is("time zone") {
        "timezone"
    } else if is("names") {
        "client_encoding"
    } else {
        name
    };
    SETTINGS.iter().find(|s| s.name.eq_ignore_ascii_case(name))
}

pub fn unknown(name: &str) -> Error {
    let error = Error::new(SqlState::UndefinedObject, format!("unrecognized configuration parameter \"{name}\""));
    match nearest(name, SETTINGS.iter().map(|s| s.name)) {
        Some(near) => error.with_hint(format!("Perhaps you meant \"{near}\".")),
        None => error.with_hint("SHOW ALL lists what there is."),
    }
}

impl Setting {
    /// The value as it is kept, or why it cannot be.
    pub fn check(&self, value: &str) -> Result<String> {
        let wrong = || Error::invalid(format!("invalid value for parameter \"{}\": \"{value}\"", self.name));
        if self.context == "internal" {
            return Err(Error::new(
                SqlState::CantChangeRuntimeParam,
                format!("parameter \"{}\" cannot be changed", self.name),
            ));
        }
        let lower = value.to_lowercase();
        match &self.kind {
            Kind::Text if self.name == "datestyle" => {
                let iso =
                    lower.split(',').all(|p| matches!(p.trim(), "iso" | "mdy" | "dmy" | "ymd" | "us" | "european"));
                if iso { Ok("ISO, MDY".into()) } else { Err(wrong().with_hint("Dates are always written as ISO.")) }
            }
            Kind::Text => Ok(value.to_string()),
            Kind::Bool => match lower.as_str() {
                "on" | "true" | "yes" | "1" | "t" | "y" => Ok("on".into()),
                "off" | "false" | "no" | "0" | "f" | "n" => Ok("off".into()),
                _ => Err(Error::invalid(format!("parameter \"{}\" requires a Boolean value", self.name))),
            },
            Kind::Integer(min, max) => match value.trim().parse::<i64>() {
                Ok(n) if (*min..=*max).contains(&n) => Ok(n.to_string()),
                Ok(n) => Err(Error::invalid(format!(
                    "{n} is outside the valid range for parameter \"{}\" ({min} .. {max})",
                    self.name
                ))),
                Err(_) => Err(wrong()),
            },
            Kind::Millis => millis(value).map(|_| value.to_string()).ok_or_else(wrong),
            Kind::TimeZone => time_zone(value).ok_or_else(|| wrong().with_hint("Use a name such as 'Europe/Berlin'.")),
            Kind::OneOf(allowed) if allowed.contains(&lower.as_str()) => {
                Ok(if self.name == "client_encoding" { "UTF8".into() } else { lower })
            }
            Kind::OneOf(allowed) => Err(wrong().with_hint(format!("Available values: {}.", allowed.join(", ")))),
        }
    }
}

/// A time such as `500`, `500ms`, `2s`, `1min`, in milliseconds.
pub fn millis(text: &str) -> Option<u64> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..split].parse().ok()?;
    let factor = match text[split..].trim() {
        "" | "ms" => 1,
        "s" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(factor)
}

fn time_zone(text: &str) -> Option<String> {
    let text = text.trim().trim_matches('\'');
    let known = |name: &str| name.parse::<datafusion::arrow::array::timezone::Tz>().is_ok();
    match text.to_lowercase().as_str() {
        "utc" | "gmt" | "z" | "zulu" | "default" | "local" => Some("UTC".into()),
        _ if known(text) => Some(text.to_string()),
        _ => None,
    }
}

/// The names of a search_path, unquoted.
pub fn split_list(list: &str) -> Vec<String> {
    list.split(',')
        .map(str::trim)
        .filter(|s| !s.is_empty())
        .map(|s| match s.strip_prefix('"').and_then(|s| s.strip_suffix('"')) {
            Some(quoted) => quoted.replace("\"\"", "\""),
            None => s.trim_matches('\'').to_lowercase(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_in_order_and_their_defaults_are_valid() {
        assert!(SETTINGS.windows(2).all(|pair| pair[0].name < pair[1].name));
        for setting in SETTINGS.iter().filter(|s| s.context == "user") {
            assert!(setting.check(setting.default).is_ok(), "{}", setting.name);
        }
    }

    #[test]
    fn values_are_checked() {
        assert_eq!(find("TimeZone").unwrap().check("Europe/Berlin").unwrap(), "Europe/Berlin");
        assert_eq!(find("timezone").unwrap().check("Nowhere").unwrap_err().code(), "22023");
        assert_eq!(find("server_version").unwrap().check("1").unwrap_err().code(), "55P02");
        assert_eq!(millis("2min"), Some(120_000));
        assert_eq!(millis("2 parsecs"), None);
        assert_eq!(split_list("\"$user\", Public"), ["$user", "public"]);
    }
}
