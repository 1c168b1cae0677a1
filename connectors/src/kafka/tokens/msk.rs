//! `sasl.mechanism = 'AWS_MSK_IAM'`: Amazon's Kafka takes a signature as a token, that of a request which nobody sends.
//!
//! ```text
//!   https://kafka.<region>.amazonaws.com/?Action=kafka-cluster:Connect ──SigV4, 900 s──▶ &User-Agent=.. ──base64url──▶ token
//! ```

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use object_store::aws::{AmazonS3Builder, AwsCredentialProvider};
use tidemark_common::{Error, Hidden, Result, SqlState};
use tokio::sync::OnceCell;

use super::super::security::half_named;
use super::Token;
use super::sigv4::{Credentials, Request, no_body};
use crate::options::Options;

const REGION: &str = "aws.region";
const ID: &str = "aws.credentials.access_key_id";
const SECRET: &str = "aws.credentials.secret_access_key";
const SESSION: &str = "aws.credentials.session_token";
/// How long a signature counts, in seconds.
const LIFE: i64 = 900;

/// What is given of the options `aws.*`.
#[derive(Debug, Default)]
pub(super) struct AwsOptions {
    region: Option<String>,
    id: Option<Hidden>,
    secret: Option<Hidden>,
    session: Option<Hidden>,
}

impl AwsOptions {
    pub fn take(options: &mut Options) -> Self {
        Self {
            region: options.take(REGION),
            id: options.take_credential(ID),
            secret: options.take_credential(SECRET),
            session: options.take_credential(SESSION),
        }
    }

    /// The name of one that is given.
    pub fn given(&self) -> Option<&'static str> {
        let given = [
            (REGION, self.region.is_some()),
            (ID, self.id.is_some()),
            (SECRET, self.secret.is_some()),
            (SESSION, self.session.is_some()),
        ];
        given.iter().find(|(_, given)| *given).map(|(name, _)| *name)
    }
}

#[derive(Debug)]
pub(super) struct Msk {
    region: String,
    keys: Keys,
}

#[derive(Debug)]
enum Keys {
    Given(Credentials),
    /// Those of the environment, or the machine's role.
    Found(OnceCell<AwsCredentialProvider>),
}

impl Msk {
    pub fn new(options: AwsOptions) -> Result<Self> {
        let region =
            options.region.or_else(|| ["AWS_REGION", "AWS_DEFAULT_REGION"].iter().find_map(|v| std::env::var(v).ok()));
        let region = region
            .ok_or_else(|| half_named("properties.sasl.mechanism", REGION, "the cluster's, such as 'eu-west-1'"))?;
        if region.is_empty() || !region.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-') {
            return Err(
                Error::invalid(format!("option \"{REGION}\" cannot be '{region}'")).with_hint("Such as 'eu-west-1'.")
            );
        }
        let keys = match (options.id, options.secret, options.session) {
            (Some(id), Some(secret), session) => Keys::Given(Credentials { id, secret, session }),
            (Some(_), None, _) => return Err(half_named(ID, SECRET, "the key's secret")),
            (None, Some(_), _) => return Err(half_named(SECRET, ID, "whose secret it is")),
            (None, None, Some(_)) => return Err(half_named(SESSION, ID, "whose session it is")),
            (None, None, None) => Keys::Found(OnceCell::new()),
        };
        Ok(Self { region, keys })
    }

    pub async fn token(&self, now: i64) -> Result<Token> {
        let found = match &self.keys {
            Keys::Given(keys) => keys.clone(),
            Keys::Found(provider) => self.found(provider).await?,
        };
        signed(&self.region, &found, now)
    }

    async fn found(&self, provider: &OnceCell<AwsCredentialProvider>) -> Result<Credentials> {
        let nobody = |e: object_store::Error| {
            Error::new(SqlState::InvalidAuthorization, format!("no AWS credentials to sign in to Kafka with: {e}"))
                .with_hint(format!(
                    "Give {ID} and {SECRET}, or the server AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or its machine a role."
                ))
        };
        // Object stores find credentials in the same places; the bucket is never asked for.
        let make = async || {
            let store = AmazonS3Builder::from_env().with_bucket_name("none").with_region(&self.region).build()?;
            Ok(store.credentials().clone())
        };
        let provider = provider.get_or_try_init(make).await.map_err(nobody)?;
        let found = provider.get_credential().await.map_err(nobody)?;
        Ok(Credentials {
            id: Hidden::new(&found.key_id),
            secret: Hidden::new(&found.secret_key),
            session: found.token.as_ref().map(Hidden::new),
        })
    }
}

fn signed(region: &str, keys: &Credentials, now: i64) -> Result<Token> {
    let request = Request {
        host: &format!("kafka.{region}.amazonaws.com"),
        path: "/",
        query: &[("Action", "kafka-cluster:Connect")],
        body: &no_body(),
        region,
        service: "kafka-cluster",
    };
    let url = request.presigned(keys, now, LIFE)?;
    Ok(Token {
        value: Hidden::new(URL_SAFE_NO_PAD.encode(format!("{url}&User-Agent=tidemark"))),
        principal: keys.id.reveal().to_string(),
        extensions: Vec::new(),
        issued: now,
        // From the whole second that the signature names.
        expires: now - now.rem_euclid(1_000_000) + LIFE * 1_000_000,
    })
}
