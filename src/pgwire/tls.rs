//! TLS: the server's certificate, and what is asked of clients.
//!
//! ```text
//!   first byte 0x16 (a TLS handshake) ──▶ handshake, ALPN "postgresql" ──▶ startup, encrypted
//!   SSLRequest ──▶ S ─────────────────▶ handshake ────────────────────────▶ startup, encrypted
//!              ──▶ N, without a certificate ──────────────────────────────▶ startup, plain
//! ```

use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tidemark_common::{Error, Result, SqlState};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// The protocol's registered name.
const ALPN: &[u8] = b"postgresql";

/// How connections are encrypted.
#[derive(Clone, Default)]
pub struct Encryption {
    acceptor: Option<TlsAcceptor>,
    /// Plain connections from other machines are refused.
    required: bool,
}

impl Encryption {
    /// With the certificate chain and private key in these PEM files.
    pub fn with_files(certificate: &Path, key: &Path, required: bool) -> Result<Self> {
        let chain = CertificateDer::pem_file_iter(certificate)
            .and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>)
            .map_err(|e| unreadable("tls_cert", certificate, &e))?;
        if chain.is_empty() {
            return Err(unreadable("tls_cert", certificate, &"it holds no certificate in PEM format"));
        }
        let private = PrivateKeyDer::from_pem_file(key).map_err(|e| unreadable("tls_key", key, &e))?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|e| Error::internal(e.to_string()))?
            .with_no_client_auth()
            .with_single_cert(chain, private)
            .map_err(|e| {
                let message = format!("tls_key: {} does not go with {}: {e}", key.display(), certificate.display());
                Error::invalid(message).with_hint("tls_cert and tls_key must be made for each other.")
            })?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self { acceptor: Some(TlsAcceptor::from(Arc::new(config))), required })
    }

    pub fn is_offered(&self) -> bool {
        self.acceptor.is_some()
    }

    pub fn is_required(&self) -> bool {
        self.required
    }

    /// The server's side of the handshake. `direct`: it came without an SSLRequest, so that the client must have named the
    /// protocol that it means.
    pub async fn accept<S>(&self, stream: S, direct: bool) -> std::io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let acceptor = self.acceptor.as_ref().ok_or_else(|| std::io::Error::other("there is no certificate"))?;
        let stream = acceptor.accept(stream).await?;
        match direct && stream.get_ref().1.alpn_protocol() != Some(ALPN) {
            true => Err(std::io::Error::other("direct TLS without the ALPN protocol \"postgresql\"")),
            false => Ok(stream),
        }
    }
}

fn unreadable(setting: &str, path: &Path, reason: &dyn std::fmt::Display) -> Error {
    Error::new(SqlState::IoError, format!("{setting}: cannot read {}: {reason}", path.display()))
        .with_hint("tls_cert and tls_key name files in PEM format.")
}
