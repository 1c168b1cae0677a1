//! Certificates made by openssl, and HTTP servers that have some.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use axum::Router;
use axum::serve::Listener;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// A key of an elliptic curve.
const NEW_KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];

/// One that signs certificates.
pub struct Authority {
    pub certificate: PathBuf,
    key: PathBuf,
}

/// A certificate and its key, files in PEM.
#[derive(Debug, Clone)]
pub struct Identity {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

fn openssl(args: &[&str]) {
    let made = Command::new("openssl").args(args).stderr(Stdio::null()).stdout(Stdio::null()).status();
    assert!(made.expect("openssl is installed").success(), "openssl {args:?}");
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

impl Authority {
    /// Its files, in `dir`, begin with the name.
    pub fn new(dir: &Path, name: &str) -> Self {
        let (certificate, key) = (dir.join(format!("{name}-ca.crt")), dir.join(format!("{name}-ca.key")));
        let subject = format!("/CN=authority {name}");
        let request = ["req", "-x509", "-days", "2", "-subj", &subject];
        openssl(&[&request[..], &["-keyout", text(&key), "-out", text(&certificate)], &NEW_KEY].concat());
        Self { certificate, key }
    }

    /// For hosts (`DNS:localhost,IP:127.0.0.1`) or for a client.
    pub fn sign(&self, name: &str, hosts: &str) -> Identity {
        let file = |what: &str| self.certificate.with_file_name(format!("{name}.{what}"));
        let (certificate, key, request, extensions) = (file("crt"), file("key"), file("csr"), file("extensions"));
        std::fs::write(&extensions, format!("subjectAltName={hosts}\nbasicConstraints=CA:FALSE\n")).unwrap();
        let subject = format!("/CN={name}");
        openssl(&[&["req", "-subj", &subject, "-keyout", text(&key), "-out", text(&request)], &NEW_KEY[..]].concat());
        let signed = ["x509", "-req", "-days", "2", "-CAcreateserial"];
        let files = ["-in", text(&request), "-out", text(&certificate), "-extfile", text(&extensions)];
        let by = ["-CA", text(&self.certificate), "-CAkey", text(&self.key)];
        openssl(&[&signed[..], &files, &by].concat());
        Identity { certificate, key }
    }

    /// For this machine, by both of its names.
    pub fn sign_local(&self, name: &str) -> Identity {
        self.sign(name, "DNS:localhost,IP:127.0.0.1")
    }
}

/// How a server is encrypted.
#[derive(Debug, Clone)]
pub struct Tls {
    pub identity: Identity,
    /// Whoever comes must have a certificate of this authority.
    pub clients: Option<PathBuf>,
}

impl Tls {
    fn config(&self) -> ServerConfig {
        let provider = Arc::new(ring::default_provider());
        let builder =
            ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
        let builder = match &self.clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(CertificateDer::from_pem_file(authority).unwrap()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build().unwrap();
                builder.with_client_cert_verifier(verifier)
            }
        };
        let chain = vec![CertificateDer::from_pem_file(&self.identity.certificate).unwrap()];
        builder.with_single_cert(chain, PrivateKeyDer::from_pem_file(&self.identity.key).unwrap()).unwrap()
    }
}

/// Answers on that port of this machine, or if it is 0 on a free one, for as long as the task runs.
async fn serve(router: Router, port: u16, tls: Option<&Tls>) -> (u16, JoinHandle<()>) {
    let tcp = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let port = tcp.local_addr().unwrap().port();
    let task = match tls {
        None => tokio::spawn(async move { axum::serve(tcp, router).await.unwrap() }),
        Some(tls) => {
            let listener = Encrypted { tcp, acceptor: TlsAcceptor::from(Arc::new(tls.config())) };
            tokio::spawn(async move { axum::serve(listener, router).await.unwrap() })
        }
    };
    (port, task)
}

struct Encrypted {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener for Encrypted {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, from) = self.tcp.accept().await.unwrap();
            // Who does not shake hands properly is what some tests are about.
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, from);
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.tcp.local_addr()
    }
}

/// A service of the tests' own, which may go away and come back on its port.
pub struct Served {
    router: Router,
    port: u16,
    tls: Option<Tls>,
    server: Option<JoinHandle<()>>,
}

impl Served {
    pub async fn start(router: Router, tls: Option<Tls>) -> Self {
        let mut this = Self { router, port: 0, tls, server: None };
        this.come_back().await;
        this
    }

    pub fn url(&self) -> String {
        format!("http{}://127.0.0.1:{}", if self.tls.is_some() { "s" } else { "" }, self.port)
    }

    /// Nobody listens any more.
    pub async fn go_away(&mut self) {
        let server = self.server.take().unwrap();
        server.abort();
        assert!(server.await.unwrap_err().is_cancelled());
    }

    /// On the same port.
    pub async fn come_back(&mut self) {
        let (port, server) = serve(self.router.clone(), self.port, self.tls.as_ref()).await;
        (self.port, self.server) = (port, Some(server));
    }
}
