//! TLS to another server: SSLRequest, handshake, and what is asked of its certificate.
//!
//! ```text
//!   sslmode       encrypted             certificate
//!   disable       never                 -
//!   prefer        if the server can     any
//!   require       always                any; of a trusted authority if sslrootcert is given
//!   verify-ca     always                of a trusted authority: sslrootcert, or the system's
//!   verify-full   always                and for this host
//! ```
//!
//! A certificate that is itself in `sslrootcert` is trusted, as OpenSSL does: that is how self-signed ones are used.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tidemark_common::{Error, Hidden, Result, SqlState};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use super::options::{PostgresOptions, SslMode};

/// A connection's bytes, encrypted or not.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Length and code of Postgres' SSLRequest.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// The stream as `sslmode` asks for it, and what it is now, in words.
pub async fn secure(mut stream: Box<dyn Io>, options: &PostgresOptions) -> Result<(Box<dyn Io>, String)> {
    let failed = |why: String| Error::new(SqlState::ConnectionException, why);
    if options.sslmode == SslMode::Disable || options.is_socket() {
        return Ok((stream, "not encrypted".into()));
    }
    stream.write_all(&SSL_REQUEST).await.map_err(|e| failed(format!("the server cannot be asked for TLS: {e}")))?;
    let mut answer = [0];
    stream.read_exact(&mut answer).await.map_err(|e| failed(format!("the server did not answer about TLS: {e}")))?;
    match (answer[0], options.sslmode) {
        (b'S', _) => {}
        (b'N', SslMode::Prefer) => return Ok((stream, "not encrypted: the server has no TLS".into())),
        (b'N', mode) => {
            return Err(failed("the server does not support TLS".into())
                .with_hint(format!("sslmode is '{}': turn TLS on at the server (ssl = on).", mode.name())));
        }
        _ => return Err(failed("what answers there is no PostgreSQL".into())),
    }
    let config = client_config(options)?;
    let name = ServerName::try_from(options.host.clone())
        .map_err(|_| failed(format!("\"{}\" is no name that a certificate could have", options.host)))?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|e| {
        let error = failed(format!("the TLS handshake failed: {e}"));
        match options.sslmode {
            SslMode::VerifyCa | SslMode::VerifyFull => error.with_hint(
                "sslrootcert must name the authority that signed the server's certificate, and with verify-full the \
                 certificate must be for the host's name.",
            ),
            _ => error,
        }
    })?;
    let version = stream.get_ref().1.protocol_version().map(|v| format!("{v:?}").replace('_', "."));
    let verified = match checked(options) {
        Checked::Nothing => "certificate not verified",
        Checked::Authority => "authority verified",
        Checked::Host => "authority and host verified",
    };
    Ok((Box::new(stream), format!("{}, {verified}", version.unwrap_or_default())))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Checked {
    Nothing,
    Authority,
    Host,
}

fn checked(options: &PostgresOptions) -> Checked {
    match options.sslmode {
        SslMode::VerifyFull => Checked::Host,
        SslMode::VerifyCa => Checked::Authority,
        SslMode::Require if options.sslrootcert.is_some() => Checked::Authority,
        SslMode::Require | SslMode::Prefer | SslMode::Disable => Checked::Nothing,
    }
}

fn client_config(options: &PostgresOptions) -> Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let (roots, trusted) = match checked(options) {
        Checked::Nothing => (RootCertStore::empty(), Vec::new()),
        _ => roots(options.sslrootcert.as_ref())?,
    };
    let verifier = Verifier { checked: checked(options), roots, trusted, algorithms };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::internal(e.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let (Some(certificate), Some(key)) = (&options.sslcert, &options.sslkey) else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = certificates("sslcert", certificate)?;
    let pem = pem("sslkey", key)?;
    let key = PrivateKeyDer::from_pem_slice(pem.reveal().as_bytes())
        .map_err(|_| Error::invalid("sslkey holds no private key in PEM format that is not itself encrypted"))?;
    builder
        .with_client_auth_cert(chain, key)
        .map_err(|e| Error::invalid(format!("sslkey does not go with sslcert: {e}")))
}

/// The authorities that count, and the certificates among them as they are.
fn roots(given: Option<&Hidden>) -> Result<(RootCertStore, Vec<CertificateDer<'static>>)> {
    let certificates = match given {
        Some(given) => certificates("sslrootcert", given)?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    let mut roots = RootCertStore::empty();
    for certificate in &certificates {
        // One that is no authority may still be the server's own.
        if let Err(error) = roots.add(certificate.clone()) {
            tracing::debug!(%error, "a certificate that is no authority");
        }
    }
    if certificates.is_empty() {
        return Err(Error::invalid("this machine has no certificates of authorities")
            .with_hint("Name the one to trust: sslrootcert = '/path/ca.crt'."));
    }
    Ok((roots, certificates))
}

fn certificates(option: &str, given: &Hidden) -> Result<Vec<CertificateDer<'static>>> {
    let pem = pem(option, given)?;
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem.reveal().as_bytes())
        .collect::<std::result::Result<_, _>>()
        .map_err(|e| Error::invalid(format!("{option} is not in PEM format: {e}")))?;
    match found.is_empty() {
        true => Err(Error::invalid(format!("{option} holds no certificate in PEM format"))),
        false => Ok(found),
    }
}

/// The text itself, or that of the file which it names.
fn pem(option: &str, given: &Hidden) -> Result<Hidden> {
    let text = given.reveal();
    if text.contains("-----BEGIN") {
        return Ok(given.clone());
    }
    std::fs::read_to_string(text)
        .map(Hidden::new)
        .map_err(|e| Error::from(e).context(format!("{option}: cannot read it")))
}

#[derive(Debug)]
struct Verifier {
    checked: Checked,
    roots: RootCertStore,
    trusted: Vec<CertificateDer<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        if self.checked != Checked::Nothing {
            let parsed = ParsedCertificate::try_from(certificate)?;
            if !self.trusted.contains(certificate) {
                let (roots, algorithms) = (&self.roots, self.algorithms.all);
                verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms)?;
            }
            if self.checked == Checked::Host {
                verify_server_name(&parsed, name)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
