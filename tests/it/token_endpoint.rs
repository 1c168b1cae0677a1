//! A token endpoint as OAuth has them: signed tokens on client credentials, and the keys by which others check them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::json;

use crate::certificates::{Served, Tls};

/// Who may ask, and for what.
pub const CLIENT: &str = "tide";
pub const SECRET: &str = "rising";
pub const SCOPE: &str = "kafka-read";

pub struct TokenEndpoint {
    known: Arc<Known>,
    served: Served,
}

struct Known {
    key: PathBuf,
    state: Mutex<Behaviour>,
}

#[derive(Debug, Clone, Copy)]
struct Behaviour {
    /// Of a token, in seconds.
    life: u64,
    mood: Mood,
    given: usize,
}

/// How it answers who has the right to a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Good,
    /// As if the secret were wrong.
    Refusing,
    /// With something that is no JSON.
    Babbling,
}

impl TokenEndpoint {
    /// Signs by the key of [`signing_key`].
    pub async fn start(key: &Path, life: u64) -> Self {
        Self::over(key, life, None).await
    }

    pub async fn over(key: &Path, life: u64, tls: Option<Tls>) -> Self {
        let state = Mutex::new(Behaviour { life, mood: Mood::Good, given: 0 });
        let known = Arc::new(Known { key: key.into(), state });
        let router = Router::new().fallback(answer).with_state(Arc::clone(&known));
        Self { known, served: Served::start(router, tls).await }
    }

    pub fn url(&self) -> String {
        format!("{}/token", self.served.url())
    }

    pub async fn go_away(&mut self) {
        self.served.go_away().await;
    }

    /// With all that it had, on the same port.
    pub async fn come_back(&mut self) {
        self.served.come_back().await;
    }

    pub fn set_mood(&self, mood: Mood) {
        self.known.state.lock().unwrap().mood = mood;
    }

    /// Tokens that it has given out.
    pub fn given(&self) -> usize {
        self.known.state.lock().unwrap().given
    }
}

async fn answer(State(known): State<Arc<Known>>, headers: HeaderMap, body: String) -> (StatusCode, String) {
    let mut state = known.state.lock().unwrap();
    let expected = format!("Basic {}", STANDARD.encode(format!("{CLIENT}:{SECRET}")));
    let is_known = headers.get("authorization").is_some_and(|given| given.as_bytes() == expected.as_bytes());
    if !is_known || state.mood == Mood::Refusing {
        let error = json!({ "error": "invalid_client", "error_description": "who is that?" });
        return (StatusCode::UNAUTHORIZED, error.to_string());
    }
    if body != format!("grant_type=client_credentials&scope={SCOPE}") {
        return (StatusCode::BAD_REQUEST, json!({ "error": "invalid_request" }).to_string());
    }
    if state.mood == Mood::Babbling {
        return (StatusCode::OK, "<html>".to_string());
    }
    state.given += 1;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({ "iss": "tests", "sub": CLIENT, "aud": "kafka", "iat": now, "exp": now + state.life });
    let token = signed(&known.key, &claims.to_string());
    (StatusCode::OK, json!({ "access_token": token, "token_type": "Bearer", "expires_in": state.life }).to_string())
}

fn openssl(args: &[&str]) -> Vec<u8> {
    let done = Command::new("openssl").args(args).output().expect("openssl is installed");
    assert!(done.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    done.stdout
}

/// A key in a file of that directory, and the file with the set of keys that tells it from others.
pub fn signing_key(dir: &Path) -> (PathBuf, PathBuf) {
    let (key, set) = (dir.join("signing.key"), dir.join("jwks.json"));
    let path = key.to_str().unwrap();
    openssl(&["genrsa", "-out", path, "2048"]);
    let modulus = String::from_utf8(openssl(&["rsa", "-in", path, "-noout", "-modulus"])).unwrap();
    let hex = modulus.trim().strip_prefix("Modulus=").unwrap();
    let bytes: Vec<u8> =
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
    let n = URL_SAFE_NO_PAD.encode(bytes);
    let jwk = json!({ "kty": "RSA", "kid": "one", "use": "sig", "alg": "RS256", "e": "AQAB", "n": n });
    std::fs::write(&set, json!({ "keys": [jwk] }).to_string()).unwrap();
    (key, set)
}

fn signed(key: &Path, claims: &str) -> String {
    let head = json!({ "alg": "RS256", "kid": "one", "typ": "JWT" }).to_string();
    let text = format!("{}.{}", URL_SAFE_NO_PAD.encode(head), URL_SAFE_NO_PAD.encode(claims));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &text).unwrap();
    let signature = openssl(&["dgst", "-sha256", "-sign", key.to_str().unwrap(), file.path().to_str().unwrap()]);
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
}
