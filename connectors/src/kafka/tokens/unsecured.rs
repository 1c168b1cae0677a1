//! Tokens without a signature, for trying things out: `enable.sasl.oauthbearer.unsecure.jwt`. librdkafka has such of its own, but
//! gives them only to who polls in its way, and they end after an hour.

use serde_json::json;
use tidemark_common::{Error, Hidden, Result};

use super::super::security::Properties;
use super::{FAR, Token, jwt};

const CONFIG: &str = "sasl.oauthbearer.config";

/// `principal=admin scope=a,b lifeSeconds=3600 extension_name=value`, as librdkafka reads it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unsecured {
    principal: String,
    principal_claim: String,
    scope_claim: String,
    scope: Vec<String>,
    seconds: i64,
    extensions: Vec<(String, String)>,
}

impl Unsecured {
    pub fn take(properties: &mut Properties) -> Result<Self> {
        let config = properties.remove(CONFIG).unwrap_or_else(|| Hidden::new(""));
        let wrong = |why: &str| {
            Error::invalid(format!("option \"properties.{CONFIG}\" {why}"))
                .with_hint("Such as 'principal=admin scope=role1,role2 lifeSeconds=600'.")
        };
        let mut this = Self {
            principal: String::new(),
            principal_claim: "sub".into(),
            scope_claim: "scope".into(),
            scope: Vec::new(),
            seconds: 3600,
            extensions: Vec::new(),
        };
        for word in config.reveal().split_whitespace() {
            let (name, value) = word.split_once('=').ok_or_else(|| wrong(&format!("has no value at \"{word}\"")))?;
            match name {
                "principal" => this.principal = value.into(),
                "principalClaimName" => this.principal_claim = value.into(),
                "scopeClaimName" => this.scope_claim = value.into(),
                "scope" => this.scope = value.split(',').map(String::from).collect(),
                "lifeSeconds" => {
                    let seconds = value.parse().ok().filter(|seconds| (1..=FAR).contains(seconds));
                    this.seconds = seconds.ok_or_else(|| wrong("cannot have that lifeSeconds"))?;
                }
                _ => match name.strip_prefix("extension_") {
                    Some(name) => this.extensions.extend(super::extensions(CONFIG, &format!("{name}={value}"))?),
                    None => return Err(wrong(&format!("knows no \"{name}\""))),
                },
            }
        }
        match this.principal.is_empty() {
            true => Err(wrong("must name a principal")),
            false => Ok(this),
        }
    }

    pub fn token(&self, now: i64) -> Result<Token> {
        let seconds = now as f64 / 1e6;
        let mut claims = json!({ "iat": seconds, "exp": seconds + self.seconds as f64 });
        claims[&self.principal_claim] = json!(self.principal);
        if !self.scope.is_empty() {
            claims[&self.scope_claim] = json!(self.scope);
        }
        Ok(Token {
            value: Hidden::new(jwt::unsecured(&claims)),
            principal: self.principal.clone(),
            extensions: self.extensions.clone(),
            issued: now,
            expires: now + self.seconds * 1_000_000,
        })
    }
}
