//! What those who ask over HTTP share: whom they trust, how much they read, and what went wrong in words.

use reqwest::{Certificate, ClientBuilder, Response};
use tidemark_common::{Error, Result};

/// Trusts the certificates of a file in PEM beside the machine's own. `option`: which one names the file.
pub(crate) fn trusting(builder: ClientBuilder, option: &str, path: &str) -> Result<ClientBuilder> {
    trusting_pem(builder, &read(option, path)?).map_err(|why| not_pem(option, path, &why))
}

/// The error says why the certificates do not do.
pub(crate) fn trusting_pem(builder: ClientBuilder, pem: &[u8]) -> Result<ClientBuilder, String> {
    let certificates = Certificate::from_pem_bundle(pem).map_err(|e| causes(&e))?;
    match certificates.is_empty() {
        true => Err("it has no certificate".into()),
        false => Ok(certificates.into_iter().fold(builder, ClientBuilder::add_root_certificate)),
    }
}

pub(crate) fn read(option: &str, path: &str) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| {
        Error::from(e)
            .context(format!("option \"{option}\", file \"{path}\""))
            .with_hint("The path is the server's, of a file that it may read.")
    })
}

pub(crate) fn not_pem(option: &str, path: &str, why: &str) -> Error {
    Error::invalid(format!("option \"{option}\": the file \"{path}\" cannot be used: {why}"))
        .with_hint("Certificates and keys are files in PEM.")
}

/// The answer, if it is no longer than that.
pub(crate) async fn body(mut response: Response, longest: usize) -> reqwest::Result<Option<Vec<u8>>> {
    let mut answer = Vec::new();
    while let Some(part) = response.chunk().await? {
        answer.extend_from_slice(&part);
        if answer.len() > longest {
            return Ok(None);
        }
    }
    Ok(Some(answer))
}

/// What went wrong beneath, without the URL again.
pub(crate) fn causes(error: &reqwest::Error) -> String {
    let mut deepest: &dyn std::error::Error = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

/// What to do about it, if it is a matter of certificates: `ca` is the option that names whom to trust, `own` the one that says who
/// we are.
pub(crate) fn about_certificates(why: &str, ca: &str, own: Option<&str>) -> Option<String> {
    // What the other side finds wrong comes as an alert.
    let said = why.to_lowercase();
    match (said.contains("fatal alert"), said.contains("certificate") || said.contains("unknownca"), own) {
        (false, true, _) => {
            Some(format!("{ca} is to name the authority that signed the server's certificate, in PEM."))
        }
        (true, true, Some(own)) => {
            Some(format!("The server wants a certificate of an authority that it trusts: {own}."))
        }
        _ => None,
    }
}

/// As a part of a path or a query: all but letters, digits and `-_.~` by its bytes.
pub(crate) fn percent_encoded(text: &str) -> String {
    let one = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(one).collect()
}
