//! Amazon's signature, version 4, in the query of a URL: <https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html>

use chrono::DateTime;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use tidemark_common::{Error, Hidden, Result};

use crate::https::percent_encoded;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

#[derive(Debug, Clone)]
pub(super) struct Credentials {
    pub id: Hidden,
    pub secret: Hidden,
    pub session: Option<Hidden>,
}

/// A GET that nobody has sent yet.
pub(super) struct Request<'a> {
    pub host: &'a str,
    pub path: &'a str,
    pub query: &'a [(&'a str, &'a str)],
    /// What stands for the body, or its SHA-256.
    pub body: &'a str,
    pub region: &'a str,
    pub service: &'a str,
}

impl Request<'_> {
    /// Its URL with a signature that counts for so many seconds from `now` on (microseconds since 1970).
    pub fn presigned(&self, keys: &Credentials, now: i64, seconds: i64) -> Result<String> {
        let moment = DateTime::from_timestamp_micros(now).ok_or_else(|| Error::internal("a time beyond all dates"))?;
        let (time, day) = (moment.format("%Y%m%dT%H%M%SZ").to_string(), moment.format("%Y%m%d").to_string());
        let scope = format!("{day}/{}/{}/aws4_request", self.region, self.service);
        let (credential, expires) = (format!("{}/{scope}", keys.id.reveal()), seconds.to_string());
        let mut query = self.query.to_vec();
        query.extend([
            ("X-Amz-Algorithm", ALGORITHM),
            ("X-Amz-Credential", &credential),
            ("X-Amz-Date", &time),
            ("X-Amz-Expires", &expires),
            ("X-Amz-SignedHeaders", "host"),
        ]);
        query.extend(keys.session.as_ref().map(|session| ("X-Amz-Security-Token", session.reveal())));
        let mut query: Vec<String> =
            query.iter().map(|(key, value)| format!("{}={}", percent_encoded(key), percent_encoded(value))).collect();
        query.sort_unstable();
        let (query, Self { host, path, body, .. }) = (query.join("&"), self);
        let canonical = format!("GET\n{path}\n{query}\nhost:{host}\n\nhost\n{body}");
        let to_sign = format!("{ALGORITHM}\n{time}\n{scope}\n{}", hex(&Sha256::digest(canonical)));
        let first = format!("AWS4{}", keys.secret.reveal()).into_bytes();
        let signed = [&day, self.region, self.service, "aws4_request", &to_sign];
        let signature = signed.iter().try_fold(first, |key, part| mac(&key, part))?;
        Ok(format!("https://{host}{path}?{query}&X-Amz-Signature={}", hex(&signature)))
    }
}

fn mac(key: &[u8], text: &str) -> Result<Vec<u8>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).map_err(|e| Error::internal(e.to_string()))?;
    mac.update(text.as_bytes());
    Ok(mac.finalize().into_bytes().to_vec())
}

/// The SHA-256 of no body.
pub(super) fn no_body() -> String {
    hex(&Sha256::digest(b""))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
