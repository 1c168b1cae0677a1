//! WITH (..) of a pipeline.

use tidemark_catalog::{Catalog, Pipeline, SecretKey};
use tidemark_common::{Error, Result};
use tidemark_connectors::load::latest_by;
use tidemark_connectors::options::Options;
use tidemark_sql::grammar::interval::{self, Qualifier};

const SECOND: i64 = 1_000_000;

/// Times are in microseconds.
#[derive(Debug, Clone, PartialEq)]
pub struct PipelineOptions {
    /// Only rows with more in this column than all that were loaded before.
    pub incremental_column: Option<String>,
    pub filter: Option<String>,
    pub dedupe: Option<Dedupe>,
    pub limit: Option<u64>,
    /// How many of the rows are taken, 0 to 1.
    pub sample: Option<f64>,
    pub on_drift: OnDrift,
    /// How often a run that failed is tried again, and how.
    pub retries: u32,
    pub retry_backoff: i64,
    pub retry_timeout: i64,
    /// Of one attempt.
    pub timeout: Option<i64>,
    pub catch_up: CatchUp,
    pub freshness: Option<i64>,
    /// How long runs are remembered.
    pub history: i64,
    pub alert_every: i64,
    /// Where the address for alerts is: in this text, or in the secret of the option.
    pub alert_webhook: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Dedupe {
    /// Rows that are equal in all columns.
    Distinct,
    /// Of rows with one key of the target, the one with the greatest value in this column.
    LatestBy(String),
}

/// What to do with due times that nobody was there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CatchUp {
    #[default]
    Latest,
    All,
    None,
}

/// When the query's columns are not the target's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnDrift {
    #[default]
    Error,
    Ignore,
    Evolve,
}

impl PipelineOptions {
    pub fn of(pipeline: &Pipeline) -> Result<Self> {
        if let Some((other, _)) = pipeline.secrets.iter().find(|(key, _)| key != "alert_webhook") {
            return Err(Error::invalid(format!("option \"{other}\" cannot be a secret"))
                .with_hint("alert_webhook can: CREATE SECRET name AS 'https://..'; alert_webhook = SECRET name."));
        }
        let mut options = Options::new(&pipeline.options)?;
        let parsed = Self {
            incremental_column: options.take("incremental_column"),
            filter: options.take("filter"),
            dedupe: dedupe(options.take("dedupe"))?,
            limit: options.parse("limit", "a whole number")?,
            sample: sample(options.take("sample"))?,
            on_drift: word(
                &mut options,
                "on_drift",
                &[("error", OnDrift::Error), ("ignore", OnDrift::Ignore), ("evolve", OnDrift::Evolve)],
            )?,
            retries: options.parse("retries", "a whole number")?.unwrap_or(0),
            retry_backoff: time(&mut options, "retry_backoff")?.unwrap_or(10 * SECOND),
            retry_timeout: time(&mut options, "retry_timeout")?.unwrap_or(3600 * SECOND),
            timeout: time(&mut options, "timeout")?,
            catch_up: word(
                &mut options,
                "catch_up",
                &[("latest", CatchUp::Latest), ("all", CatchUp::All), ("none", CatchUp::None)],
            )?,
            freshness: time(&mut options, "freshness")?,
            history: time(&mut options, "history")?.unwrap_or(30 * 86_400 * SECOND),
            alert_every: time(&mut options, "alert_every")?.unwrap_or(3600 * SECOND),
            alert_webhook: options.take("alert_webhook"),
        };
        options.finish()?;
        parsed.check()?;
        Ok(parsed)
    }

    /// The option by which a run does not load all rows that there are.
    pub fn leaving_out(&self) -> Option<&'static str> {
        let leaves_out = [("limit", self.limit.is_some()), ("sample", self.sample.is_some())];
        leaves_out.iter().find(|(_, given)| *given).map(|(option, _)| *option)
    }

    fn check(&self) -> Result<()> {
        if self.incremental_column.is_some()
            && let Some(option) = self.leaving_out()
        {
            return Err(Error::invalid(format!("option \"{option}\" cannot be used together with incremental_column"))
                .with_hint("The rows it leaves out would count as loaded, and never be."));
        }
        if self.retries > 1000 {
            return Err(Error::invalid("option \"retries\" must be at most 1000"));
        }
        Ok(())
    }
}

/// Whether a webhook's address can be one. `${NAME}` is put in when it is used.
pub fn check_webhook(address: &str) -> Result<()> {
    if address.starts_with("${") || is_address(address) {
        return Ok(());
    }
    Err(Error::invalid("option \"alert_webhook\" must be an address that begins with http:// or https://"))
}

fn is_address(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

/// The address alerts go to.
pub fn webhook(pipeline: &Pipeline, catalog: &Catalog, key: Option<&SecretKey>) -> Result<Option<String>> {
    let given: Vec<(String, String)> = pipeline.options.iter().filter(|(k, _)| k == "alert_webhook").cloned().collect();
    let resolved = crate::coordinator::secrets::resolve(&given, &pipeline.secrets, catalog, key)?;
    let secret =
        resolved.secrets.iter().find(|(key, _)| key == "alert_webhook").map(|(_, value)| value.reveal().to_string());
    let address = secret.or_else(|| resolved.options.into_iter().next().map(|(_, value)| value));
    match &address {
        Some(text) if !is_address(text) => Err(Error::invalid("the address of alert_webhook is none")),
        _ => Ok(address),
    }
}

fn word<T: Copy + Default>(options: &mut Options, key: &'static str, words: &[(&str, T)]) -> Result<T> {
    let Some(text) = options.take(key) else { return Ok(T::default()) };
    let found = words.iter().find(|(word, _)| text.eq_ignore_ascii_case(word));
    found.map(|(_, value)| *value).ok_or_else(|| {
        let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        Error::invalid(format!("option \"{key}\" must be {}, not \"{text}\"", words.join(", ")))
    })
}

fn time(options: &mut Options, key: &'static str) -> Result<Option<i64>> {
    let Some(text) = options.take(key) else { return Ok(None) };
    let wrong =
        || Error::invalid(format!("option \"{key}\" must be a time such as '30 seconds' or '1 hour', not \"{text}\""));
    let parsed = interval::parse(&text, Qualifier::default()).map_err(|_| wrong())?;
    let micros = i64::from(parsed.days).checked_mul(86_400 * SECOND).and_then(|days| days.checked_add(parsed.micros));
    match micros {
        Some(micros) if micros > 0 && parsed.months == 0 => Ok(Some(micros)),
        _ => Err(wrong()),
    }
}

fn dedupe(text: Option<String>) -> Result<Option<Dedupe>> {
    let Some(text) = text else { return Ok(None) };
    if text.trim().eq_ignore_ascii_case("distinct") {
        return Ok(Some(Dedupe::Distinct));
    }
    match latest_by(&text) {
        Some(column) => Ok(Some(Dedupe::LatestBy(column.to_string()))),
        None => {
            Err(Error::invalid(format!("option \"dedupe\" must be 'distinct' or 'latest by column', not \"{text}\"")))
        }
    }
}

/// `10%` or `0.1`
fn sample(text: Option<String>) -> Result<Option<f64>> {
    let Some(text) = text else { return Ok(None) };
    let share = match text.trim().strip_suffix('%') {
        Some(percent) => percent.trim().parse::<f64>().map(|percent| percent / 100.0),
        None => text.trim().parse::<f64>(),
    };
    match share {
        Ok(share) if share > 0.0 && share <= 1.0 => Ok(Some(share)),
        _ => Err(Error::invalid(format!("option \"sample\" must be a share such as '10%' or '0.1', not \"{text}\""))),
    }
}
