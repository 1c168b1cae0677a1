//! Signing in at Kafka by tokens (SASL OAUTHBEARER), beside a broker that checks signature, audience and end of each, and closes
//! connections whose token has ended.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use crate::harness::start;
use crate::kafka_broker::{Kafka, Listener, Record};
use crate::token_endpoint::{CLIENT, Mood, SCOPE, SECRET, TokenEndpoint, signing_key};

/// How long a token lives, in seconds.
const LIFE: u64 = 10;

/// The broker of all tests here, and the key that its tokens are signed by.
fn broker() -> &'static (Kafka, PathBuf) {
    static SHARED: OnceLock<(Kafka, PathBuf)> = OnceLock::new();
    SHARED.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap().keep();
        let (key, set) = signing_key(&dir);
        let url = format!("file://{}", set.display());
        let login = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;";
        let setting = |key, value: &str| (key, value.to_string());
        let shared = vec![
            setting("sasl.enabled.mechanisms", "OAUTHBEARER"),
            setting("oauthbearer.sasl.jaas.config", login),
            setting("oauthbearer.connections.max.reauth.ms", "3600000"),
        ];
        let mut signed = shared.clone();
        signed.extend([
            setting(
                "oauthbearer.sasl.server.callback.handler.class",
                "org.apache.kafka.common.security.oauthbearer.OAuthBearerValidatorCallbackHandler",
            ),
            setting("oauthbearer.sasl.oauthbearer.jwks.endpoint.url", &url),
            setting("oauthbearer.sasl.oauthbearer.expected.audience", "kafka"),
        ]);
        let listeners = [
            Listener { name: "SIGNED", protocol: "SASL_PLAINTEXT", settings: signed },
            Listener { name: "UNSIGNED", protocol: "SASL_PLAINTEXT", settings: shared },
        ];
        let allowed = format!("-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={url}");
        (Kafka::guarded(&listeners, &allowed), key)
    })
}

/// Options of a client that asks this endpoint.
fn signing_in(kafka: &Kafka, endpoint: &TokenEndpoint, secret: &str) -> String {
    format!(
        "properties.bootstrap.servers = '{}', properties.security.protocol = 'SASL_PLAINTEXT', \
         properties.sasl.mechanism = 'OAUTHBEARER', properties.sasl.oauthbearer.method = 'oidc', \
         properties.sasl.oauthbearer.token.endpoint.url = '{}', properties.sasl.oauthbearer.client.id = '{CLIENT}', \
         properties.sasl.oauthbearer.client.secret = '{secret}', properties.sasl.oauthbearer.scope = '{SCOPE}', \
         properties.sasl.oauthbearer.extensions = 'logicalCluster=lkc-1,identityPoolId=pool-2'",
        kafka.servers_of("SIGNED"),
        endpoint.url(),
    )
}

fn ids(from: i64, to: i64) -> Vec<Record> {
    (from..to).map(|id| Record::new(0, format!("{{\"id\": {id}}}"))).collect()
}

fn source(name: &str, topic: &str, with: &str) -> String {
    format!(
        "CREATE SOURCE {name} (id BIGINT) WITH (connector = 'kafka', topic = '{topic}', {with}) FORMAT PLAIN ENCODE JSON"
    )
}

/// Reading and writing go on past the end of the first token, though nothing was read or written when it was due.
#[tokio::test]
async fn tokens_are_renewed() {
    let (kafka, key) = broker();
    kafka.topic("renewed", 2).await;
    kafka.topic("renewed_out", 1).await;
    kafka.send("renewed", ids(0, 10)).await;
    let endpoint = TokenEndpoint::start(key, LIFE).await;
    let instance = start().await;
    let with = signing_in(kafka, &endpoint, SECRET);
    instance.run(&source("s", "renewed", &with)).await;
    instance.run("CREATE MATERIALIZED VIEW m AS SELECT count(*) AS n FROM s").await;
    instance
        .run(&format!(
            "CREATE SINK out AS SELECT id FROM s WITH (connector = 'kafka', topic = 'renewed_out', {with}) FORMAT PLAIN ENCODE JSON"
        ))
        .await;
    instance.wait_for("SELECT n FROM m", &["10"]).await;
    let delivered = "SELECT state, rows, pending_rows, failures FROM tidemark.sinks";
    instance.wait_for(delivered, &["running 10 0 0"]).await;
    let given = endpoint.given();
    tokio::time::sleep(Duration::from_secs(2 * LIFE)).await;
    kafka.send("renewed", ids(10, 20)).await;
    instance.wait_for("SELECT n FROM m", &["20"]).await;
    instance.wait_for(delivered, &["running 20 0 0"]).await;
    assert_eq!(instance.value("SELECT state, error FROM tidemark.sources").await, "running NULL");
    assert_eq!(kafka.read("renewed_out").await.len(), 20);
    // All clients of a source share one token, and so do those of a sink.
    let more = endpoint.given() - given;
    assert!((2..=8).contains(&more), "{more} more tokens");
}

#[tokio::test]
async fn who_gets_no_token_is_told_why() {
    let (kafka, key) = broker();
    kafka.topic("refused", 1).await;
    let mut endpoint = TokenEndpoint::start(key, LIFE).await;
    let instance = start().await;
    let refused = async |with: &str, code: &str, said: &[&str]| {
        let error = instance.client().await.batch_execute(&source("s", "refused", with)).await.unwrap_err();
        let error = error.as_db_error().unwrap();
        let whole = format!("{} {} {:?}", error.code().code(), error.message(), error.hint());
        assert_eq!(error.code().code(), code, "{whole}");
        assert!(error.hint().is_some() && said.iter().all(|part| whole.contains(part)), "{whole}");
        assert!(!whole.contains(SECRET), "{whole}");
    };
    let wrong = signing_in(kafka, &endpoint, "wrong");
    refused(&wrong, "28000", &["gives us no token", "401", "who is that?", "client.secret"]).await;
    let with = signing_in(kafka, &endpoint, SECRET);
    endpoint.set_mood(Mood::Babbling);
    refused(&with, "08P01", &["does not answer as a token endpoint", "token.endpoint.url"]).await;
    endpoint.go_away().await;
    refused(&with, "08000", &["cannot be asked for a token", "token.endpoint.url"]).await;
    // A token that the broker does not take.
    endpoint.come_back().await;
    endpoint.set_mood(Mood::Good);
    let unsigned = format!(
        "properties.bootstrap.servers = '{}', properties.security.protocol = 'SASL_PLAINTEXT', properties.sasl.mechanism = 'OAUTHBEARER', \
         properties.enable.sasl.oauthbearer.unsecure.jwt = 'true', properties.sasl.oauthbearer.config = 'principal=tide'",
        kafka.servers_of("SIGNED"),
    );
    refused(&unsigned, "28000", &["SASL authentication error", "sasl.mechanism"]).await;
    let amazon = format!(
        "properties.bootstrap.servers = '{}', properties.security.protocol = 'SASL_PLAINTEXT', properties.sasl.mechanism = 'AWS_MSK_IAM', \
         aws.region = 'eu-west-1', aws.credentials.access_key_id = 'AKIA', aws.credentials.secret_access_key = 'x'",
        kafka.servers_of("SIGNED"),
    );
    refused(&amazon, "28000", &["SASL authentication error"]).await;
    std::fs::write(instance.dir.path().join("pw"), "wrong").unwrap();
    let file = instance.dir.path().join("pw");
    instance.run(&format!("CREATE SECRET pw FROM FILE '{}'", file.display())).await;
    let connection = signing_in(kafka, &endpoint, "wrong").replace("'wrong'", "SECRET pw");
    instance.run(&format!("CREATE CONNECTION k WITH (type = 'kafka', {connection})")).await;
    let checked = instance.lines("CHECK CONNECTION k").await;
    assert!(checked[1].starts_with("connect f") && checked[1].contains("who is that?"), "{checked:?}");
    let plain = signing_in(kafka, &endpoint, "wrong");
    let (code, said) = instance.error(&format!("CREATE CONNECTION bad WITH (type = 'kafka', {plain})")).await;
    assert!(code == "22023" && said.contains("client.secret\" must be a secret"), "{said}");
}

/// A source that runs waits for its endpoint, says so, and goes on where it was; a server that starts meanwhile does, too.
#[tokio::test]
async fn an_endpoint_that_is_away_is_waited_for() {
    let (kafka, key) = broker();
    kafka.topic("away", 1).await;
    kafka.send("away", ids(0, 10)).await;
    let mut endpoint = TokenEndpoint::start(key, LIFE).await;
    let mut instance = start().await;
    instance.run(&source("s", "away", &signing_in(kafka, &endpoint, SECRET))).await;
    instance.run("CREATE MATERIALIZED VIEW m AS SELECT count(*) AS n FROM s").await;
    instance.wait_for("SELECT n FROM m", &["10"]).await;
    let trouble = |said: &str| format!("SELECT state, error LIKE '%{said}%' FROM tidemark.sources");
    for mood in [Some(Mood::Refusing), Some(Mood::Babbling), None] {
        let said = match mood {
            Some(Mood::Refusing) => "gives us no token: 401",
            Some(_) => "does not answer as a token endpoint",
            None => "cannot be asked for a token",
        };
        match mood {
            Some(mood) => endpoint.set_mood(mood),
            None => endpoint.go_away().await,
        }
        instance.wait_for(&trouble(said), &["retrying t"]).await;
    }
    // Beyond the end of the last token, so that the broker has closed the connection.
    tokio::time::sleep(Duration::from_secs(LIFE)).await;
    kafka.send("away", ids(10, 20)).await;
    endpoint.set_mood(Mood::Good);
    endpoint.come_back().await;
    instance.wait_for("SELECT n FROM m", &["20"]).await;
    instance.wait_for("SELECT state, error FROM tidemark.sources", &["running NULL"]).await;

    endpoint.go_away().await;
    instance.server.kill_and_restart().await.unwrap();
    instance.wait_for(&trouble("cannot be asked for a token"), &["retrying t"]).await;
    kafka.send("away", ids(20, 30)).await;
    endpoint.come_back().await;
    instance.wait_for("SELECT n FROM m", &["30"]).await;
    assert_eq!(instance.value("SELECT count(*) FROM s").await, "30");
}

#[tokio::test]
async fn tokens_without_a_signature() {
    let (kafka, _) = broker();
    kafka.topic("unsigned", 1).await;
    kafka.send("unsigned", ids(0, 10)).await;
    let instance = start().await;
    let with = format!(
        "properties.bootstrap.servers = '{}', properties.security.protocol = 'SASL_PLAINTEXT', properties.sasl.mechanism = 'OAUTHBEARER', \
         properties.enable.sasl.oauthbearer.unsecure.jwt = 'true', \
         properties.sasl.oauthbearer.config = 'principal=tide lifeSeconds=5 extension_traceId=7'",
        kafka.servers_of("UNSIGNED"),
    );
    instance.run(&source("s", "unsigned", &with)).await;
    instance.run("CREATE MATERIALIZED VIEW m AS SELECT count(*) AS n FROM s").await;
    instance.wait_for("SELECT n FROM m", &["10"]).await;
    tokio::time::sleep(Duration::from_secs(LIFE)).await;
    kafka.send("unsigned", ids(10, 20)).await;
    instance.wait_for("SELECT n FROM m", &["20"]).await;
    assert_eq!(instance.value("SELECT state, error FROM tidemark.sources").await, "running NULL");
}
