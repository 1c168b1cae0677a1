//! TLS: to brokers that know who comes by a certificate, to schema registries, to who gives out tokens.

use std::path::Path;
use std::sync::OnceLock;

use serde_json::json;

use crate::certificates::{Authority, Identity, Tls};
use crate::harness::{Instance, start};
use crate::kafka_broker::{Kafka, Listener, Record};
use crate::registry::Registry;
use crate::token_endpoint::{CLIENT, SCOPE, SECRET, TokenEndpoint, signing_key};

/// A broker that takes none without a certificate, and what one needs to be taken.
struct Guarded {
    kafka: Kafka,
    authority: Authority,
    client: Identity,
    stranger: Authority,
}

fn broker() -> &'static Guarded {
    static SHARED: OnceLock<Guarded> = OnceLock::new();
    SHARED.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap().keep();
        let (authority, stranger) = (Authority::new(&dir, "own"), Authority::new(&dir, "strange"));
        let (server, client) = (authority.sign_local("broker"), authority.sign_local("client"));
        // Java wants both in one file.
        let both = dir.join("broker.pem");
        let parts = [&server.key, &server.certificate].map(|path| std::fs::read_to_string(path).unwrap());
        std::fs::write(&both, parts.concat()).unwrap();
        let path = |path: &Path| path.to_str().unwrap().to_string();
        let settings = vec![
            ("ssl.keystore.type", "PEM".to_string()),
            ("ssl.keystore.location", path(&both)),
            ("ssl.truststore.type", "PEM".to_string()),
            ("ssl.truststore.location", path(&authority.certificate)),
            ("ssl.client.auth", "required".to_string()),
        ];
        let kafka = Kafka::guarded(&[Listener { name: "MUTUAL", protocol: "SSL", settings }], "");
        Guarded { kafka, authority, client, stranger }
    })
}

async fn refused(instance: &Instance, sql: &str, code: &str, said: &str) {
    let error = instance.client().await.batch_execute(sql).await.unwrap_err();
    let error = error.as_db_error().unwrap();
    let whole = format!("{} {:?} {:?}", error.message(), error.detail(), error.hint());
    assert!(error.code().code() == code && whole.contains(said), "{sql}: {} {whole}", error.code().code());
    assert!(error.hint().is_some(), "{whole}");
}

#[tokio::test]
async fn brokers_and_clients_show_certificates() {
    let Guarded { kafka, authority, client, stranger } = broker();
    kafka.topic("mutual", 1).await;
    kafka.topic("mutual_out", 1).await;
    kafka.send_texts("mutual", &["{\"id\": 1}", "{\"id\": 2}"]).await;
    let instance = start().await;
    let with = |authority: &Authority, client: Option<&Identity>| {
        let ca = authority.certificate.display();
        let mut with = format!(
            "properties.bootstrap.servers = '{}', properties.security.protocol = 'SSL', properties.ssl.ca.location = '{ca}'",
            kafka.servers_of("MUTUAL")
        );
        if let Some(Identity { certificate, key }) = client {
            with += &format!(
                ", properties.ssl.certificate.location = '{}', properties.ssl.key.location = '{}'",
                certificate.display(),
                key.display()
            );
        }
        with
    };
    let source = |with: &str| {
        format!(
            "CREATE SOURCE s (id INT) WITH (connector = 'kafka', topic = 'mutual', {with}) FORMAT PLAIN ENCODE JSON"
        )
    };
    refused(&instance, &source(&with(stranger, Some(client))), "08000", "certificate verify failed").await;
    refused(&instance, &source(&with(authority, None)), "08000", "SSL").await;
    let strange = stranger.sign_local("stranger");
    refused(&instance, &source(&with(authority, Some(&strange))), "08000", "SSL").await;
    let half = with(authority, Some(client)).replace("ssl.key.location", "ssl.colour");
    refused(&instance, &source(&half), "22023", "needs the option \"properties.ssl.key.location\"").await;
    let with = with(authority, Some(client));
    instance.run(&format!("CREATE CONNECTION k WITH (type = 'kafka', {with})")).await;
    instance.run(&source("connection = k")).await;
    instance.run("CREATE MATERIALIZED VIEW m AS SELECT sum(id) AS n FROM s").await;
    instance.wait_for("SELECT n FROM m", &["3"]).await;
    instance
        .run("CREATE SINK out AS SELECT id FROM s WITH (connector = 'kafka', topic = 'mutual_out', connection = k) FORMAT PLAIN ENCODE JSON")
        .await;
    instance.wait_for("SELECT state, rows FROM tidemark.sinks", &["running 2"]).await;
    assert_eq!(kafka.read("mutual_out").await.len(), 2);
}

#[tokio::test]
async fn registries_over_tls() {
    let Guarded { authority, client, stranger, .. } = broker();
    let kafka = Kafka::shared();
    kafka.topic("registry_tls", 1).await;
    let instance = start().await;
    let source = |registry: &Registry, more: &str| {
        format!(
            "CREATE SOURCE s (*) WITH (connector = 'kafka', topic = 'registry_tls', properties.bootstrap.servers = '{}'{more}) \
             FORMAT PLAIN ENCODE AVRO (schema.registry = '{}')",
            kafka.servers(),
            registry.url()
        )
    };
    let ca = |authority: &Authority| format!(", schema.registry.ca = '{}'", authority.certificate.display());
    let as_client = |identity: &Identity| {
        let Identity { certificate, key } = identity;
        format!(
            ", schema.registry.certificate = '{}', schema.registry.key = '{}'",
            certificate.display(),
            key.display()
        )
    };
    let schema = json!({ "type": "record", "name": "R", "fields": [{ "name": "id", "type": "int" }] });
    let identity = authority.sign_local("registry");
    let open = Registry::over(Tls { identity: identity.clone(), clients: None }).await;
    let id = open.avro("registry_tls-value", &schema);
    for more in [String::new(), ca(stranger)] {
        refused(&instance, &source(&open, &more), "08000", "invalid peer certificate: UnknownIssuer").await;
        refused(&instance, &source(&open, &more), "08000", "schema.registry.ca").await;
    }
    let missing = ", schema.registry.ca = '/nowhere/ca.pem'";
    refused(&instance, &source(&open, missing), "58P01", "option \"schema.registry.ca\"").await;
    let no_pem = format!(", schema.registry.ca = '{}'", broker().client.key.display());
    refused(&instance, &source(&open, &no_pem), "22023", "option \"schema.registry.ca\"").await;
    let value = [&[0], id.to_be_bytes().as_slice(), &[14]].concat();
    kafka.send("registry_tls", vec![Record::new(0, value)]).await;
    instance.run(&source(&open, &ca(authority))).await;
    instance.run("CREATE MATERIALIZED VIEW m AS SELECT id FROM s").await;
    instance.wait_for("SELECT id FROM m", &["7"]).await;
    instance.run("DROP SOURCE s CASCADE").await;

    let mutual = Registry::over(Tls { identity, clients: Some(authority.certificate.clone()) }).await;
    mutual.avro("registry_tls-value", &schema);
    let strange = stranger.sign_local("stranger_registry");
    refused(&instance, &source(&mutual, &ca(authority)), "08000", "schema.registry.certificate").await;
    refused(&instance, &source(&mutual, &(ca(authority) + &as_client(&strange))), "08000", "certificate").await;
    instance.run(&source(&mutual, &(ca(authority) + &as_client(client)))).await;
    instance.run("CREATE MATERIALIZED VIEW again AS SELECT id FROM s").await;
    instance.wait_for("SELECT id FROM again", &["7"]).await;
}

/// Who signs the endpoint's certificate is said by `https.ca.location`.
#[tokio::test]
async fn tokens_over_tls() {
    let Guarded { authority, stranger, .. } = broker();
    let dir = tempfile::tempdir().unwrap();
    let (key, _) = signing_key(dir.path());
    let tls = Tls { identity: authority.sign_local("tokens"), clients: None };
    let endpoint = TokenEndpoint::over(&key, 60, Some(tls)).await;
    let instance = start().await;
    let source = |more: &str| {
        format!(
            "CREATE SOURCE s (id INT) WITH (connector = 'kafka', topic = 't', properties.bootstrap.servers = '127.0.0.1:1', \
             properties.security.protocol = 'SASL_PLAINTEXT', properties.sasl.mechanism = 'OAUTHBEARER', \
             properties.sasl.oauthbearer.method = 'oidc', properties.sasl.oauthbearer.token.endpoint.url = '{}', \
             properties.sasl.oauthbearer.client.id = '{CLIENT}', properties.sasl.oauthbearer.client.secret = '{SECRET}', \
             properties.sasl.oauthbearer.scope = '{SCOPE}'{more}) FORMAT PLAIN ENCODE JSON",
            endpoint.url()
        )
    };
    let ca = |authority: &Authority| format!(", properties.https.ca.location = '{}'", authority.certificate.display());
    for more in [String::new(), ca(stranger)] {
        refused(&instance, &source(&more), "08000", "invalid peer certificate: UnknownIssuer").await;
        refused(&instance, &source(&more), "08000", "properties.https.ca.location").await;
    }
    assert_eq!(endpoint.given(), 0);
    // There is no broker, but there was a token.
    refused(&instance, &source(&ca(authority)), "08000", "properties.bootstrap.servers").await;
    assert_eq!(endpoint.given(), 1);
    let pem = std::fs::read_to_string(&authority.certificate).unwrap();
    refused(&instance, &source(&format!(", properties.https.ca.pem = '{pem}'")), "08000", "bootstrap.servers").await;
    refused(&instance, &source(", properties.https.ca.pem = 'x'"), "22023", "https.ca.pem").await;
}
