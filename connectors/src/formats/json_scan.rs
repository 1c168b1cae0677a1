//! Finds the text of values in a JSON object without building them.
//!
//! For columns of type json, which keep a value as it was written. Often arrow-json has read the object; where it has not yet,
//! what is found may be no JSON, and is found out when it is read. On anything unexpected the scan stops and says so.

/// Calls `found` with the key (as written, between its quotes) and the text of each value at the top of the object.
/// `None` if this is not an object.
pub(super) fn top_level<'a>(object: &'a [u8], mut found: impl FnMut(&'a [u8], &'a [u8])) -> Option<()> {
    let mut at = skip_blanks(object, 0);
    if *object.get(at)? != b'{' {
        return None;
    }
    at = skip_blanks(object, at + 1);
    if *object.get(at)? == b'}' {
        return Some(());
    }
    loop {
        let key_end = end_of_string(object, at)?;
        let key = &object[at + 1..key_end - 1];
        at = skip_blanks(object, key_end);
        if *object.get(at)? != b':' {
            return None;
        }
        at = skip_blanks(object, at + 1);
        let end = end_of_value(object, at)?;
        found(key, &object[at..end]);
        at = skip_blanks(object, end);
        match object.get(at)? {
            b',' => at = skip_blanks(object, at + 1),
            b'}' => return Some(()),
            _ => return None,
        }
    }
}

/// Calls `found` with the text of each item. `None` if this is not an array.
pub(super) fn items<'a>(array: &'a [u8], mut found: impl FnMut(&'a [u8])) -> Option<()> {
    let mut at = skip_blanks(array, 0);
    if *array.get(at)? != b'[' {
        return None;
    }
    at = skip_blanks(array, at + 1);
    if *array.get(at)? == b']' {
        return Some(());
    }
    loop {
        let end = end_of_value(array, at)?;
        found(&array[at..end]);
        at = skip_blanks(array, end);
        match array.get(at)? {
            b',' => at = skip_blanks(array, at + 1),
            b']' => return Some(()),
            _ => return None,
        }
    }
}

/// A key, which may be written with escapes.
pub(super) fn key_text(written: &[u8]) -> Option<String> {
    serde_json::from_slice([b"\"", written, b"\""].concat().as_slice()).ok()
}

/// Whether a key, which may be written with escapes, is this name.
pub(super) fn is_key(written: &[u8], name: &str) -> bool {
    if !written.contains(&b'\\') {
        return written == name.as_bytes();
    }
    key_text(written).is_some_and(|key| key == name)
}

fn skip_blanks(text: &[u8], mut at: usize) -> usize {
    while text.get(at).is_some_and(u8::is_ascii_whitespace) {
        at += 1;
    }
    at
}

/// Just after the closing quote of the string that opens at `at`.
fn end_of_string(text: &[u8], at: usize) -> Option<usize> {
    if *text.get(at)? != b'"' {
        return None;
    }
    let mut at = at + 1;
    loop {
        match text.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

fn end_of_value(text: &[u8], at: usize) -> Option<usize> {
    match text.get(at)? {
        b'"' => end_of_string(text, at),
        b'{' | b'[' => {
            let mut depth = 0usize;
            let mut at = at;
            loop {
                match text.get(at)? {
                    b'"' => {
                        at = end_of_string(text, at)?;
                        continue;
                    }
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => depth -= 1,
                    _ => {}
                }
                at += 1;
                if depth == 0 {
                    return Some(at);
                }
            }
        }
        _ => {
            let length = text[at..].iter().position(|b| matches!(b, b',' | b'}' | b']') || b.is_ascii_whitespace())?;
            Some(at + length)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(text: &str) -> Option<Vec<(String, String)>> {
        let mut all = Vec::new();
        let show = |b: &[u8]| String::from_utf8(b.to_vec()).unwrap();
        top_level(text.as_bytes(), |key, value| all.push((show(key), show(value))))?;
        Some(all)
    }

    #[test]
    fn values_are_found_as_written() {
        let found = scan(r#" { "a" : {"x": [1, "}"]}, "b\"c":"q\\", "n": -1.5e3 ,"t":true, "z": null}"#).unwrap();
        let found: Vec<(&str, &str)> = found.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(
            found,
            [("a", r#"{"x": [1, "}"]}"#), ("b\\\"c", r#""q\\""#), ("n", "-1.5e3"), ("t", "true"), ("z", "null")]
        );
        assert_eq!(scan("{}").unwrap(), []);
    }

    #[test]
    fn what_is_cut_off_is_not_an_object() {
        let text = r#"{"a": {"b": [1, "x"]}, "c": 1}"#;
        for cut in 0..text.len() {
            assert_eq!(scan(&text[..cut]), None, "{}", &text[..cut]);
        }
    }
}
