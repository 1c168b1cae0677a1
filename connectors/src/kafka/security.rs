//! How clients sign in, as the options say it. What is half said is refused, since librdkafka would go on without it.

use std::collections::BTreeMap;

use tidemark_common::{Error, Hidden, Result};

/// `properties.*`, the prefix cut off.
pub(super) type Properties = BTreeMap<String, Hidden>;

const MECHANISMS: &str = "PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER, AWS_MSK_IAM";
pub(super) const OAUTHBEARER: &str = "OAUTHBEARER";
/// Amazon's name for OAUTHBEARER with a signature of theirs as the token.
pub(super) const AWS_MSK_IAM: &str = "AWS_MSK_IAM";

pub(super) fn check(properties: &Properties) -> Result<()> {
    let get = |key: &str| properties.get(key).map(Hidden::reveal);
    let protocol = get("security.protocol").unwrap_or("plaintext").to_lowercase();
    let (is_sasl, is_tls) = (protocol.starts_with("sasl_"), protocol.ends_with("ssl"));
    let given = |prefix: &str| properties.keys().find(|key| key.starts_with(prefix));
    if let Some(key) = given("sasl.").filter(|_| !is_sasl) {
        return Err(half(key, "security.protocol", "'SASL_SSL', or 'SASL_PLAINTEXT' without encryption"));
    }
    if let Some(key) = given("ssl.").filter(|_| !is_tls) {
        return Err(half(key, "security.protocol", "'SSL' or 'SASL_SSL'"));
    }
    for part in ["location", "pem"] {
        let (certificate, key) = (format!("ssl.certificate.{part}"), format!("ssl.key.{part}"));
        match (get(&certificate), get(&key)) {
            (Some(_), None) => return Err(half(&certificate, &key, "the key of the certificate")),
            (None, Some(_)) => return Err(half(&key, &certificate, "the certificate of the key")),
            _ => {}
        }
    }
    let mechanism = mechanism(properties);
    if mechanism != OAUTHBEARER
        && let Some(key) = given("sasl.oauthbearer.").or_else(|| given("enable.sasl.oauthbearer"))
    {
        return Err(half(key, "sasl.mechanism", "'OAUTHBEARER'"));
    }
    if get("sasl.oauthbearer.method").is_none_or(|method| !method.eq_ignore_ascii_case("oidc"))
        && let Some(key) = given("https.")
    {
        return Err(half(key, "sasl.oauthbearer.method", "'oidc', whose token endpoint is asked over https"));
    }
    if !is_sasl {
        return Ok(());
    }
    match mechanism.as_str() {
        "" => Err(half("security.protocol", "sasl.mechanism", &format!("one of {MECHANISMS}"))),
        "PLAIN" | "SCRAM-SHA-256" | "SCRAM-SHA-512" => {
            needs(properties, "sasl.mechanism", &["sasl.username", "sasl.password"], "who signs in, and with what")
        }
        OAUTHBEARER | AWS_MSK_IAM => Ok(()),
        other => Err(Error::unsupported(format!("sasl.mechanism {other} is not supported"))
            .with_hint(format!("Known here: {MECHANISMS}."))),
    }
}

/// In capitals; empty if none is given.
pub(super) fn mechanism(properties: &Properties) -> String {
    properties.get("sasl.mechanism").map(|given| given.reveal().to_uppercase()).unwrap_or_default()
}

/// An error if one of these is missing.
pub(super) fn needs(properties: &Properties, given: &str, needed: &[&str], what: &str) -> Result<()> {
    match needed.iter().find(|key| !properties.contains_key(**key)) {
        Some(missing) => Err(half(given, missing, what)),
        None => Ok(()),
    }
}

pub(super) fn half(given: &str, missing: &str, what: &str) -> Error {
    half_named(&format!("properties.{given}"), &format!("properties.{missing}"), what)
}

/// Of options with their whole names.
pub(super) fn half_named(given: &str, missing: &str, what: &str) -> Error {
    Error::invalid(format!("option \"{given}\" needs the option \"{missing}\"")).with_hint(format!("It is {what}."))
}
