//! TLS: psql with every sslmode, direct TLS, and what is refused.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::harness::{Instance, binary, start, start_with, text};

/// A self-signed certificate for localhost, made by openssl: certificate and key.
fn certificate(dir: &std::path::Path, name: &str) -> (PathBuf, PathBuf) {
    let (cert, key) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .stderr(Stdio::null())
        .status()
        .expect("openssl is installed");
    assert!(made.success());
    (cert, key)
}

fn psql(instance: &Instance, mode: &str, more: &str) -> (bool, String) {
    let connection = format!(
        "host=localhost hostaddr=127.0.0.1 port={} user=tidemark dbname=tidemark sslmode={mode} {more}",
        instance.server.port
    );
    let output = Command::new("psql")
        .args(["-X", "-d", &connection, "-c", "\\conninfo", "-c", "SELECT repeat('x', 200000)", "-o", "/dev/null"])
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .output()
        .expect("psql is installed");
    (output.status.success(), format!("{}{}", text(&output.stdout), text(&output.stderr)))
}

#[tokio::test]
async fn psql_encrypts_when_there_is_a_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = certificate(dir.path(), "server");
    let (other, _) = certificate(dir.path(), "other");
    let instance =
        start_with(&["--tls-cert", cert.to_str().unwrap(), "--tls-key", key.to_str().unwrap(), "--password", "sesame"])
            .await;
    let password = "password=sesame";
    for mode in ["prefer", "require"] {
        let (ok, said) = psql(&instance, mode, password);
        assert!(ok, "{mode}: {said}");
    }
    let (ok, said) = psql(&instance, "verify-full", &format!("{password} sslrootcert={}", cert.display()));
    assert!(ok, "{said}");
    let (ok, said) = psql(&instance, "verify-full", &format!("{password} sslrootcert={}", other.display()));
    assert!(!ok && said.contains("certificate verify failed"), "{said}");
    // Optional: plain goes, too. A wrong password is told over TLS as well.
    assert!(psql(&instance, "disable", password).0);
    let (ok, said) = psql(&instance, "require", "password=wrong");
    assert!(!ok && said.contains("password authentication failed"), "{said}");
    let shown = psql_shows_encryption(&instance);
    assert!(shown.contains("SSL connection (protocol: TLSv1.3"), "{shown}");
}

fn psql_shows_encryption(instance: &Instance) -> String {
    let connection = format!(
        "host=127.0.0.1 port={} user=tidemark dbname=tidemark sslmode=require password=sesame",
        instance.server.port
    );
    let output = Command::new("psql").args(["-X", "-d", &connection, "-c", "\\conninfo"]).output().unwrap();
    text(&output.stdout)
}

#[tokio::test]
async fn without_a_certificate_there_is_no_encryption() {
    let instance = start().await;
    assert!(psql(&instance, "prefer", "").0);
    let (ok, said) = psql(&instance, "require", "");
    assert!(!ok && said.contains("server does not support SSL"), "{said}");
}

/// A client that begins with the handshake must name the protocol.
#[tokio::test]
async fn direct_tls() {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = certificate(dir.path(), "server");
    let instance = start_with(&["--tls-cert", cert.to_str().unwrap(), "--tls-key", key.to_str().unwrap()]).await;
    let address = format!("127.0.0.1:{}", instance.server.port);
    let handshake = |alpn: &[&str]| {
        let output = Command::new("openssl")
            .args(["s_client", "-connect", &address, "-quiet", "-no_ign_eof"])
            .args(alpn)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        startup_through(output)
    };
    let answer = handshake(&["-alpn", "postgresql"]);
    assert!(answer.windows(14).any(|w| w == b"server_version"), "{:?}", text(&answer));
    assert!(handshake(&[]).is_empty(), "no ALPN");
    assert!(handshake(&["-alpn", "http/1.1"]).is_empty());
    assert_eq!(instance.value("SELECT 1").await, "1", "and plain goes on");
}

/// Sends a startup message and Terminate; what came back.
fn startup_through(mut client: std::process::Child) -> Vec<u8> {
    use std::io::Write;
    let body = b"\0\x03\0\0user\0tidemark\0database\0tidemark\0\0";
    let mut message = (body.len() as u32 + 4).to_be_bytes().to_vec();
    message.extend(body);
    message.extend(b"X\0\0\0\x04");
    let mut stdin = client.stdin.take().unwrap();
    // A handshake that was refused has closed it.
    let _ = stdin.write_all(&message);
    let output = client.wait_with_output().unwrap();
    drop(stdin);
    output.stdout
}

#[test]
fn half_a_configuration_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = certificate(dir.path(), "server");
    let (_, wrong) = certificate(dir.path(), "wrong");
    let data = dir.path().join("data");
    let refused = |args: &[&str]| {
        let output = Command::new(binary())
            .args(["serve", "--listen", "127.0.0.1:0", "--http", "off", "--data-dir"])
            .arg(&data)
            .args(args)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(!output.status.success(), "{args:?}");
        text(&output.stderr)
    };
    let (cert, key, wrong) = (cert.to_str().unwrap(), key.to_str().unwrap(), wrong.to_str().unwrap());
    assert!(refused(&["--tls-cert", cert]).contains("tls_cert is set, and tls_key is not"));
    assert!(refused(&["--tls-key", key]).contains("tls_key is set, and tls_cert is not"));
    assert!(refused(&["--tls", "required"]).contains("needs tls_cert and tls_key"));
    assert!(refused(&["--tls-cert", "/nowhere.crt", "--tls-key", key]).contains("tls_cert: cannot read /nowhere.crt"));
    assert!(refused(&["--tls-cert", key, "--tls-key", key]).contains("holds no certificate"));
    assert!(refused(&["--tls-cert", cert, "--tls-key", cert]).contains("tls_key: cannot read"));
    assert!(refused(&["--tls-cert", cert, "--tls-key", wrong]).contains("does not go with"));
}
