//! What NORMALIZE of a column says: steps that a value goes through before it is stored, and what becomes of one that cannot.
//!
//! ```text
//!   NORMALIZE (trim, parse_int, default(0), on_failure = null) ──sql::grammar──▶ Normalize ──connectors::load──▶ SQL
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};

/// NORMALIZE of a column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Normalize {
    pub steps: Vec<Step>,
    pub on_failure: OnFailure,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// The value is computed from the row's other columns. Always the first step.
    Derive(String),
    Trim,
    Lower,
    Upper,
    EmptyToNull,
    CollapseSpaces,
    /// Every match of the pattern is replaced.
    RegexReplace(String, String),
    Email,
    ParseInt,
    ParseNumeric,
    /// Formats to try one after the other; none: ISO 8601.
    ParseDate(Vec<String>),
    ParseTimestamp(Vec<String>),
    /// What takes the place of NULL, as text.
    Default(String),
}

/// What becomes of a value that a step cannot take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum OnFailure {
    #[default]
    Error,
    Null,
    /// It is replaced by what the step `default` gives.
    Default,
}

impl Step {
    pub const NAMES: [&'static str; 13] = [
        "derive",
        "trim",
        "lower",
        "upper",
        "empty_to_null",
        "collapse_spaces",
        "regex_replace",
        "email",
        "parse_int",
        "parse_numeric",
        "parse_date",
        "parse_timestamp",
        "default",
    ];

    pub fn name(&self) -> &'static str {
        match self {
            Step::Derive(_) => "derive",
            Step::Trim => "trim",
            Step::Lower => "lower",
            Step::Upper => "upper",
            Step::EmptyToNull => "empty_to_null",
            Step::CollapseSpaces => "collapse_spaces",
            Step::RegexReplace(..) => "regex_replace",
            Step::Email => "email",
            Step::ParseInt => "parse_int",
            Step::ParseNumeric => "parse_numeric",
            Step::ParseDate(_) => "parse_date",
            Step::ParseTimestamp(_) => "parse_timestamp",
            Step::Default(_) => "default",
        }
    }

    /// Makes text the value of another type.
    pub fn parses(&self) -> bool {
        matches!(self, Step::ParseInt | Step::ParseNumeric | Step::ParseDate(_) | Step::ParseTimestamp(_))
    }

    /// There are values that it cannot take.
    pub fn can_fail(&self) -> bool {
        self.parses() || *self == Step::Email
    }
}

impl Normalize {
    /// The step that makes another type of the text that comes.
    pub fn parsing(&self) -> Option<&Step> {
        self.steps.iter().find(|step| step.parses())
    }

    /// The expression that the value is computed by.
    pub fn derived(&self) -> Option<&str> {
        match self.steps.first() {
            Some(Step::Derive(expr)) => Some(expr),
            _ => None,
        }
    }

    /// What takes the place of NULL.
    pub fn default(&self) -> Option<&str> {
        self.steps.iter().find_map(|step| match step {
            Step::Default(text) => Some(text.as_str()),
            _ => None,
        })
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name())?;
        match self {
            Step::Derive(expr) => write!(f, "({expr})"),
            Step::Default(text) => write!(f, "({})", quoted(text)),
            Step::RegexReplace(pattern, by) => write!(f, "({}, {})", quoted(pattern), quoted(by)),
            Step::ParseDate(formats) | Step::ParseTimestamp(formats) if !formats.is_empty() => {
                write!(f, " [{}]", formats.iter().map(|format| quoted(format)).collect::<Vec<_>>().join(", "))
            }
            _ => Ok(()),
        }
    }
}

/// As it stands in CREATE TABLE.
impl fmt::Display for Normalize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps: Vec<String> = self.steps.iter().map(Step::to_string).collect();
        let on_failure = match self.on_failure {
            OnFailure::Error => "",
            OnFailure::Null => ", on_failure = null",
            OnFailure::Default => ", on_failure = default",
        };
        write!(f, "NORMALIZE ({}{on_failure})", steps.join(", "))
    }
}
