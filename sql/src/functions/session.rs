//! Functions that tell who, where and when: they read the session through [`SessionFacts`].
//!
//! They are registered once a session, over the constant ones of [`super::register`]: a few dozen `Arc`s. None is immutable: a
//! view that uses one can be refused by its volatility. DataFusion's optimizer folds the stable ones, so a plan that is kept for
//! later must be kept as it was before optimization.

use std::fmt;
use std::sync::Arc;

use datafusion::logical_expr::ScalarUDF;
use tidemark_common::{Error, Result, SqlState};

use super::calendar::{self, Civil, DAY};
use super::declare::{Kind, Row, function};
use super::epoch_clock::PROCTIME;
use super::value::Value;

/// What a session knows of itself.
pub trait SessionFacts: fmt::Debug + Send + Sync {
    /// `current_user`: who is acting.
    fn user(&self) -> String;
    /// `session_user`: who logged in.
    fn session_user(&self) -> String {
        self.user()
    }
    fn database(&self) -> String;
    /// The schemas of `search_path` that exist, without the implicit `pg_catalog`.
    fn search_path(&self) -> Vec<String>;
    /// A setting as `SHOW` prints it; `None`: there is none of that name.
    fn setting(&self, name: &str) -> Option<String>;
    /// Returns the value as set.
    fn set_setting(&self, name: &str, value: &str, is_local: bool) -> Result<String>;
    fn backend_pid(&self) -> i32;
    fn transaction_start_micros(&self) -> i64;
    fn statement_start_micros(&self) -> i64;
    fn now_micros(&self) -> i64;
    fn server_start_micros(&self) -> i64;
    /// The next 64 bits of the session's own generator, which `setseed` makes repeatable.
    fn random_bits(&self) -> u64;
    fn set_seed(&self, seed: f64);
    /// What `txid_current()` returns.
    fn transaction_id(&self) -> i64;
    /// The server's and the client's address and port; `None` over a Unix socket or embedded.
    fn server_addr(&self) -> Option<(String, u16)> {
        None
    }
    fn client_addr(&self) -> Option<(String, u16)> {
        None
    }
}

/// The functions that depend on a session, to be registered in its context.
pub fn session_functions(facts: Arc<dyn SessionFacts>) -> Vec<ScalarUDF> {
    let mut functions = identity(&facts);
    functions.extend(settings(&facts));
    functions.extend(clocks(&facts));
    functions.extend(chance(&facts));
    functions
}

/// A function without arguments that reads one fact.
fn fact<F>(facts: &Arc<dyn SessionFacts>, name: &'static str, kind: Kind, read: F) -> super::declare::Function
where
    F: Fn(&dyn SessionFacts) -> Value + Send + Sync + 'static,
{
    let facts = Arc::clone(facts);
    function(name).stable().on(&[], kind, move |_| Ok(read(facts.as_ref())))
}

/// A part of what the session's clock shows at the start of the transaction.
fn shown(
    facts: &Arc<dyn SessionFacts>,
    name: &'static str,
    kind: Kind,
    part: fn(i64) -> i64,
) -> super::declare::Function {
    let facts = Arc::clone(facts);
    let read = move |row: &Row<'_>| Ok(part(row.clock().local(facts.transaction_start_micros())?).into());
    function(name).stable().on(&[], kind, read)
}

fn identity(facts: &Arc<dyn SessionFacts>) -> Vec<ScalarUDF> {
    let port = |addr: Option<(String, u16)>| Value::from(addr.map(|(_, port)| i64::from(port)));
    let host = |addr: Option<(String, u16)>| Value::from(addr.map(|(host, _)| host));
    let schemas = Arc::clone(facts);
    vec![
        fact(facts, "current_user", Kind::Name, |f| f.user().into()).alias("user").alias("current_role").udf(),
        fact(facts, "session_user", Kind::Name, |f| f.session_user().into()).udf(),
        fact(facts, "current_database", Kind::Name, |f| f.database().into()).alias("current_catalog").udf(),
        fact(facts, "current_schema", Kind::Name, |f| f.search_path().into_iter().next().into()).udf(),
        function("current_schemas")
            .stable()
            .on(&[Kind::Bool], Kind::Texts, move |row| {
                let implicit = row.bool(0).then(|| "pg_catalog".to_string());
                let path = schemas.search_path();
                let implicit = implicit.filter(|i| !path.contains(i));
                Ok(implicit.into_iter().chain(path).map(Some).collect::<Vec<_>>().into())
            })
            .udf(),
        fact(facts, "pg_backend_pid", Kind::Int4, |f| f.backend_pid().into()).udf(),
        fact(facts, "txid_current", Kind::Int8, |f| f.transaction_id().into()).alias("pg_current_xact_id").udf(),
        fact(facts, "inet_server_addr", Kind::Text, move |f| host(f.server_addr())).udf(),
        fact(facts, "inet_server_port", Kind::Int4, move |f| port(f.server_addr())).udf(),
        fact(facts, "inet_client_addr", Kind::Text, move |f| host(f.client_addr())).udf(),
        fact(facts, "inet_client_port", Kind::Int4, move |f| port(f.client_addr())).udf(),
    ]
}

fn settings(facts: &Arc<dyn SessionFacts>) -> Vec<ScalarUDF> {
    let (strict, lenient, setter) = (Arc::clone(facts), Arc::clone(facts), Arc::clone(facts));
    let unknown = |name: &str| {
        let message = format!("unrecognized configuration parameter \"{name}\"");
        Error::new(SqlState::UndefinedObject, message).with_hint("SHOW ALL lists the parameters.")
    };
    vec![
        function("current_setting")
            .stable()
            .on(&[Kind::Text], Kind::Text, move |row| {
                let name = row.text(0);
                strict.setting(name).map(Value::from).ok_or_else(|| unknown(name))
            })
            .on(&[Kind::Text, Kind::Bool], Kind::Text, move |row| {
                let name = row.text(0);
                match lenient.setting(name) {
                    None if !row.bool(1) => Err(unknown(name)),
                    value => Ok(value.into()),
                }
            })
            .udf(),
        function("set_config")
            .volatile()
            .on(&[Kind::Text, Kind::Text, Kind::Bool], Kind::Text, move |row| {
                Ok(setter.set_setting(row.text(0), row.text(1), row.bool(2))?.into())
            })
            .udf(),
    ]
}

fn clocks(facts: &Arc<dyn SessionFacts>) -> Vec<ScalarUDF> {
    let ticking = Arc::clone(facts);
    let spelled = Arc::clone(facts);
    let precise = Arc::clone(facts);
    vec![
        fact(facts, "now", Kind::TimestampTz, |f| f.transaction_start_micros().into())
            .alias("transaction_timestamp")
            .on(&[Kind::Int4], Kind::TimestampTz, move |row| {
                Ok(to_precision(precise.transaction_start_micros(), row.int4(0)?)?.into())
            })
            .alias("current_timestamp")
            .alias(PROCTIME)
            .udf(),
        fact(facts, "statement_timestamp", Kind::TimestampTz, |f| f.statement_start_micros().into()).udf(),
        function("clock_timestamp")
            .volatile()
            .on(&[], Kind::TimestampTz, move |_| Ok(ticking.now_micros().into()))
            .udf(),
        function("timeofday")
            .volatile()
            .on(&[], Kind::Text, move |_| Ok(time_of_day(spelled.now_micros()).into()))
            .udf(),
        shown(facts, "localtimestamp", Kind::Timestamp, |local| local).udf(),
        shown(facts, "current_date", Kind::Date, |local| local.div_euclid(DAY)).alias("today").udf(),
        shown(facts, "localtime", Kind::Time, |local| local.rem_euclid(DAY)).alias("current_time").udf(),
        fact(facts, "pg_postmaster_start_time", Kind::TimestampTz, |f| f.server_start_micros().into())
            .alias("pg_conf_load_time")
            .udf(),
    ]
}

fn chance(facts: &Arc<dyn SessionFacts>) -> Vec<ScalarUDF> {
    let (number, seeded, uuids) = (Arc::clone(facts), Arc::clone(facts), Arc::clone(facts));
    vec![
        function("random")
            .alias("rand")
            .volatile()
            // The 53 bits that a double holds: evenly spread over [0, 1).
            .on(&[], Kind::Float8, move |_| Ok(((number.random_bits() >> 11) as f64 / (1u64 << 53) as f64).into()))
            .udf(),
        function("setseed")
            .volatile()
            .on(&[Kind::Float8], Kind::Text, move |row| {
                let seed = row.float(0);
                if !(-1.0..=1.0).contains(&seed) {
                    return Err(Error::invalid(format!("setseed parameter {seed} is out of allowed range [-1,1]")));
                }
                seeded.set_seed(seed);
                Ok("".into())
            })
            .udf(),
        function("gen_random_uuid")
            .alias("uuid")
            .volatile()
            .on(&[], Kind::Uuid, move |_| {
                let bits = u128::from(uuids.random_bits()) << 64 | u128::from(uuids.random_bits());
                Ok(random_uuid(bits).into())
            })
            .udf(),
    ]
}

/// A version 4 uuid: all bits random but those that say so.
fn random_uuid(bits: u128) -> String {
    let bits = bits & !(0xF << 76) & !(0b11 << 62) | (4 << 76) | (0b10 << 62);
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

fn to_precision(micros: i64, digits: i32) -> Result<i64> {
    let digits = u32::try_from(digits)
        .map_err(|_| Error::invalid(format!("timestamp precision {digits} must not be negative")))?;
    let unit = 10i64.pow(6 - digits.min(6));
    micros.checked_add(unit / 2).map(|m| m.div_euclid(unit) * unit).ok_or_else(calendar::out_of_range)
}

fn time_of_day(micros: i64) -> String {
    let c = Civil::from_micros(micros);
    format!(
        "{} {} {:02} {:02}:{:02}:{:02}.{:06} {} UTC",
        super::names::WEEKDAYS[(c.iso_weekday() % 7) as usize].0,
        super::names::MONTHS[(c.month - 1) as usize].0,
        c.day,
        c.hour(),
        c.minute(),
        c.second(),
        c.fraction(),
        c.year
    )
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::HashMap;
    use std::sync::Mutex;

    use super::*;

    /// A session that stands still at 2024-02-29 12:00.
    #[derive(Debug, Default)]
    pub struct StillSession(Mutex<HashMap<String, String>>);

    const NOON: i64 = 1_709_208_000_000_000;

    impl SessionFacts for StillSession {
        fn user(&self) -> String {
            "ann".into()
        }
        fn database(&self) -> String {
            "tidemark".into()
        }
        fn search_path(&self) -> Vec<String> {
            vec!["public".into()]
        }
        fn setting(&self, name: &str) -> Option<String> {
            if name == "server_version_num" {
                return Some("150000".into());
            }
            self.0.lock().unwrap().get(name).cloned()
        }
        fn set_setting(&self, name: &str, value: &str, _: bool) -> Result<String> {
            self.0.lock().unwrap().insert(name.into(), value.into());
            Ok(value.into())
        }
        fn backend_pid(&self) -> i32 {
            7
        }
        fn transaction_start_micros(&self) -> i64 {
            NOON
        }
        fn statement_start_micros(&self) -> i64 {
            NOON + 1
        }
        fn now_micros(&self) -> i64 {
            NOON + 2
        }
        fn server_start_micros(&self) -> i64 {
            NOON - DAY
        }
        fn transaction_id(&self) -> i64 {
            42
        }
        fn random_bits(&self) -> u64 {
            0x0123_4567_89ab_cdef
        }
        fn set_seed(&self, _: f64) {}
    }

    #[test]
    fn random_uuids_say_so() {
        assert_eq!(random_uuid(u128::MAX), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(random_uuid(0), "00000000-0000-4000-8000-000000000000");
    }
}
