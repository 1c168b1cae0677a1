use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::msk::{AwsOptions, Msk};
use super::sigv4::{Credentials, Request};
use super::*;

const NOW: i64 = 1_369_353_600_000_000; // 2013-05-24 00:00:00

fn keys(session: Option<&str>) -> Credentials {
    Credentials {
        id: Hidden::new("AKIAIOSFODNN7EXAMPLE"),
        secret: Hidden::new("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
        session: session.map(Hidden::new),
    }
}

/// Amazon's own example of a signature in a query: GET of an object of S3.
#[test]
fn signatures_are_as_amazon_shows_them() {
    let request = Request {
        host: "examplebucket.s3.amazonaws.com",
        path: "/test.txt",
        query: &[],
        body: "UNSIGNED-PAYLOAD",
        region: "us-east-1",
        service: "s3",
    };
    let url = request.presigned(&keys(None), NOW, 86_400).unwrap();
    assert_eq!(
        url,
        "https://examplebucket.s3.amazonaws.com/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256\
         &X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request\
         &X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host\
         &X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
    );
}

#[tokio::test]
async fn a_token_for_msk_is_a_signed_url() {
    let pairs = [
        ("aws.region", "eu-west-1"),
        ("aws.credentials.access_key_id", "AKIAIOSFODNN7EXAMPLE"),
        ("aws.credentials.secret_access_key", "s"),
        ("aws.credentials.session_token", "a/b+c=="),
    ];
    let pairs: Vec<_> = pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    let mut options = Options::new(&pairs).unwrap();
    let msk = Msk::new(AwsOptions::take(&mut options)).unwrap();
    options.finish().unwrap();
    let token = msk.token(NOW + 700_000).await.unwrap();
    assert_eq!((token.issued, token.expires), (NOW + 700_000, NOW + 900_000_000));
    let url = String::from_utf8(URL_SAFE_NO_PAD.decode(token.value.reveal()).unwrap()).unwrap();
    let (before, after) = url.split_once("&X-Amz-Signature=").unwrap();
    assert_eq!(
        before,
        "https://kafka.eu-west-1.amazonaws.com/?Action=kafka-cluster%3AConnect&X-Amz-Algorithm=AWS4-HMAC-SHA256\
         &X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Feu-west-1%2Fkafka-cluster%2Faws4_request\
         &X-Amz-Date=20130524T000000Z&X-Amz-Expires=900&X-Amz-Security-Token=a%2Fb%2Bc%3D%3D&X-Amz-SignedHeaders=host"
    );
    let (signature, agent) = after.split_once('&').unwrap();
    assert!(signature.len() == 64 && agent == "User-Agent=tidemark", "{after}");
}

fn take(pairs: &[(&str, &str)]) -> Result<Option<Arc<Tokens>>> {
    let (of_aws, properties): (Vec<_>, Vec<_>) = pairs.iter().partition(|(key, _)| key.starts_with("aws."));
    let mut properties: Properties =
        properties.iter().map(|(key, value)| (key.to_string(), Hidden::new(*value))).collect();
    let pairs: Vec<_> = of_aws.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    let taken = Tokens::take(&mut properties, &mut Options::new(&pairs)?)?;
    if taken.is_some() {
        // What librdkafka would not know, or do by itself.
        assert_eq!(properties.keys().collect::<Vec<_>>(), ["sasl.mechanism"]);
        assert_eq!(mechanism(&properties), OAUTHBEARER);
    }
    Ok(taken)
}

#[test]
fn what_is_half_said_is_refused() {
    let sasl = ("sasl.mechanism", "oauthbearer");
    let oidc = ("sasl.oauthbearer.method", "OIDC");
    let url = ("sasl.oauthbearer.token.endpoint.url", "https://h/token");
    let (id, secret) = (("sasl.oauthbearer.client.id", "i"), ("sasl.oauthbearer.client.secret", "s"));
    let unsecured = ("enable.sasl.oauthbearer.unsecure.jwt", "true");
    let (msk, region) = (("sasl.mechanism", "AWS_MSK_IAM"), ("aws.region", "eu-west-1"));
    assert!(take(&[sasl, oidc, url, id, secret, ("https.ca.location", "/ca")]).unwrap().is_some());
    assert!(take(&[sasl, unsecured, ("sasl.oauthbearer.config", "principal=a extension_b=c")]).unwrap().is_some());
    assert!(take(&[msk, region]).unwrap().is_some());
    assert!(take(&[("sasl.mechanism", "PLAIN")]).unwrap().is_none());
    for (pairs, part) in [
        (&[sasl] as &[_], "needs the option \"properties.sasl.oauthbearer.method\""),
        (&[sasl, oidc], "needs the option \"properties.sasl.oauthbearer.token.endpoint.url\""),
        (&[sasl, oidc, url], "needs the option \"properties.sasl.oauthbearer.client.id\""),
        (&[sasl, oidc, url, id], "needs the option \"properties.sasl.oauthbearer.client.secret\""),
        (&[sasl, oidc, unsecured], "exclude each other"),
        (&[sasl, ("sasl.oauthbearer.method", "magic")], "cannot be 'magic'"),
        (&[sasl, oidc, ("sasl.oauthbearer.token.endpoint.url", "h:1"), id, secret], "cannot begin with"),
        (&[sasl, oidc, ("sasl.oauthbearer.token.endpoint.url", "http://u:p@h"), id, secret], "must not hold"),
        (&[sasl, oidc, url, id, secret, ("sasl.oauthbearer.extensions", "a b=c")], "cannot be 'a b=c'"),
        (&[sasl, oidc, url, id, secret, ("sasl.oauthbearer.grant.type", "password")], "grant.type"),
        (&[sasl, oidc, url, id, secret, ("sasl.oauthbearer.assertion.file", "/f")], "assertion.file"),
        (&[sasl, unsecured], "must name a principal"),
        (&[sasl, unsecured, ("sasl.oauthbearer.config", "principal=a lifeSeconds=0")], "lifeSeconds"),
        (&[sasl, unsecured, ("sasl.oauthbearer.config", "colour=a")], "knows no \"colour\""),
        (&[region], "needs the option \"properties.sasl.mechanism\""),
        (&[msk, region, ("aws.credentials.access_key_id", "i")], "\"aws.credentials.secret_access_key\""),
        (&[msk, region, ("aws.credentials.secret_access_key", "s")], "\"aws.credentials.access_key_id\""),
        (&[msk, region, ("aws.credentials.session_token", "s")], "\"aws.credentials.access_key_id\""),
        (&[msk, ("aws.region", "eu/west")], "cannot be 'eu/west'"),
    ] {
        let error = take(pairs).unwrap_err();
        assert!(error.message().contains(part), "{error:?}");
        assert!(error.hint().is_some() && error.code().len() == 5, "{error:?}");
    }
}

#[test]
fn claims_are_read() {
    let token = jwt::unsecured(&serde_json::json!({ "sub": "me", "exp": 5 }));
    let claims = jwt::claims(&token).unwrap();
    assert_eq!((claims["sub"].as_str(), claims["exp"].as_i64()), (Some("me"), Some(5)));
    for opaque in ["", "abc", "a.b.c", "a.%%.c", "a.W10.c"] {
        assert_eq!(jwt::claims(opaque), None, "{opaque}");
    }
}
