//! `$.a.b[0]['c d']`: where a value lies in a JSON text. Found without building anything.

use tidemark_common::{Error, Result};

use super::json_scan;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JsonPath(Vec<Step>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Key(String),
    /// From 0.
    Item(usize),
}

impl JsonPath {
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = || {
            Error::invalid(format!("\"{text}\" is no path into a JSON value")).with_hint(
                "Write $.a.b for keys, [0] for the first item of an array, ['a b'] for keys with other characters.",
            )
        };
        let mut rest = text.trim().strip_prefix('$').ok_or_else(wrong)?;
        let mut steps = Vec::new();
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix("['") {
                let (key, after) = after.split_once("']").ok_or_else(wrong)?;
                steps.push(Step::Key(key.to_string()));
                rest = after;
            } else if let Some(after) = rest.strip_prefix('[') {
                let (number, after) = after.split_once(']').ok_or_else(wrong)?;
                steps.push(Step::Item(number.trim().parse().map_err(|_| wrong())?));
                rest = after;
            } else {
                let after = rest.strip_prefix('.').ok_or_else(wrong)?;
                let end = after.find(['.', '[']).unwrap_or(after.len());
                if end == 0 {
                    return Err(wrong());
                }
                steps.push(Step::Key(after[..end].to_string()));
                rest = &after[end..];
            }
        }
        Ok(Self(steps))
    }

    pub fn key(name: &str) -> Self {
        Self(vec![Step::Key(name.to_string())])
    }

    /// Of the object that it leads into; `None`: it is the whole, or an array's.
    pub fn first_key(&self) -> Option<&str> {
        match self.0.first()? {
            Step::Key(name) => Some(name),
            Step::Item(_) => None,
        }
    }

    /// The text of the value; `None`: it is not there, or is null.
    pub fn find<'a>(&self, json: &'a [u8]) -> Option<&'a [u8]> {
        let mut at = json;
        for step in &self.0 {
            let mut found = None;
            match step {
                // The last of several with one key counts, as elsewhere.
                Step::Key(name) => json_scan::top_level(at, |key, value| {
                    if json_scan::is_key(key, name) {
                        found = Some(value);
                    }
                })?,
                Step::Item(n) => {
                    let mut item = 0;
                    json_scan::items(at, |value| {
                        if item == *n {
                            found = Some(value);
                        }
                        item += 1;
                    })?;
                }
            }
            at = found?;
        }
        (at != b"null").then_some(at)
    }
}

impl std::fmt::Display for JsonPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("$")?;
        self.0.iter().try_for_each(|step| match step {
            Step::Key(name) if name.contains(['.', '[', ' ']) => write!(f, "['{name}']"),
            Step::Key(name) => write!(f, ".{name}"),
            Step::Item(n) => write!(f, "[{n}]"),
        })
    }
}

/// The text of a JSON string, or the value's own text.
pub(crate) fn as_text(value: &[u8]) -> Option<String> {
    match value.first()? {
        b'"' => serde_json::from_slice(value).ok(),
        _ => String::from_utf8(value.to_vec()).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(path: &str, json: &str) -> Option<String> {
        let path = JsonPath::parse(path).unwrap();
        path.find(json.as_bytes()).map(|found| String::from_utf8(found.to_vec()).unwrap())
    }

    #[test]
    fn values_by_path() {
        let json = r#" {"a": {"b": [10, {"c d": "x"}, null]}, "é\"": 1, "n": null, "e": []} "#;
        assert_eq!(find("$.a.b[0]", json).unwrap(), "10");
        assert_eq!(find("$.a.b[1]['c d']", json).unwrap(), "\"x\"");
        assert_eq!(find("$['é\"']", json).unwrap(), "1");
        assert_eq!(find("$", "[1]").unwrap(), "[1]");
        for nothing in ["$.a.b[2]", "$.a.b[3]", "$.e[0]", "$.n", "$.n.x", "$.x", "$.a[0]", "$.a.b.c"] {
            assert_eq!(find(nothing, json), None, "{nothing}");
        }
        for cut in 0..json.trim_end().len() {
            // Of what is cut off nothing, or less, is found.
            let _found = find("$.a.b[1]", &json[..json.floor_char_boundary(cut)]);
        }
        for wrong in ["", "a.b", "$.", "$a", "$[x]", "$['a", "$.a..b", "$[0"] {
            assert!(JsonPath::parse(wrong).is_err(), "{wrong}");
        }
    }
}
