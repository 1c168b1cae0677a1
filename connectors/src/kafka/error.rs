//! What librdkafka and brokers say, as errors.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use tidemark_common::{Error, SqlState};

/// `what`: what was asked for, e.g. `reading topic "clicks"`.
pub(super) fn from_kafka(error: &KafkaError, what: &str) -> Error {
    if let KafkaError::ClientConfig(_, why, key, value) = error {
        return from_config(why, key, value);
    }
    if let KafkaError::ClientCreation(why) = error {
        return Error::invalid(format!("the options \"properties.*\" do not go together: {why}"));
    }
    let Some(code) = error.rdkafka_error_code() else {
        return Error::new(SqlState::ConnectionException, format!("{what}: {error}"));
    };
    let error = Error::new(state(code), format!("{what}: {code}"));
    match hint(code) {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

fn from_config(why: &str, key: &str, value: &str) -> Error {
    let java = [
        ("sasl.jaas.config", "Use properties.sasl.username and properties.sasl.password."),
        (
            "sasl.login.callback.handler",
            "Use properties.sasl.oauthbearer.method = 'oidc', or sasl.mechanism AWS_MSK_IAM.",
        ),
        ("sasl.client.callback.handler", "Use properties.sasl.mechanism = 'AWS_MSK_IAM'."),
        ("ssl.truststore", "Use properties.ssl.ca.location, a file of certificates in PEM."),
        ("ssl.keystore", "Use properties.ssl.certificate.location and properties.ssl.key.location, in PEM."),
        ("deserializer", "Say FORMAT .. ENCODE .. instead."),
        ("serializer", "Say FORMAT .. ENCODE .. instead."),
    ];
    let hint = java.iter().find(|(known, _)| key.contains(known)).map(|(_, hint)| *hint);
    let message = match why.is_empty() || why.starts_with("No such configuration property") {
        true => format!("unrecognized option \"properties.{key}\": librdkafka has no such property"),
        // Credentials are named in no message.
        false if key.contains("password") || key.contains("secret") => {
            format!("option \"properties.{key}\" is refused")
        }
        false => format!("option \"properties.{key}\" cannot be \"{value}\": {why}"),
    };
    Error::invalid(message).with_hint(hint.unwrap_or("Properties are those of librdkafka."))
}

/// What does not go away by waiting.
pub(super) fn is_lasting(code: Code) -> bool {
    matches!(
        code,
        Code::UnknownTopicOrPartition
            | Code::UnknownTopic
            | Code::UnknownPartition
            | Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::SaslAuthenticationFailed
            | Code::Authentication
            | Code::OffsetOutOfRange
            | Code::AutoOffsetReset
            | Code::Fatal
            | Code::BadMessage
            | Code::InvalidMessage
            | Code::UnsupportedFeature
    )
}

fn state(code: Code) -> SqlState {
    match code {
        Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition => SqlState::UndefinedObject,
        Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed | Code::ClusterAuthorizationFailed => {
            SqlState::InsufficientPrivilege
        }
        Code::OffsetOutOfRange | Code::AutoOffsetReset => SqlState::DataCorrupted,
        Code::SaslAuthenticationFailed | Code::Authentication => SqlState::InvalidAuthorization,
        _ => SqlState::ConnectionException,
    }
}

fn hint(code: Code) -> Option<&'static str> {
    Some(match code {
        Code::UnknownTopicOrPartition | Code::UnknownTopic => "Create the topic first, or mend the option \"topic\".",
        Code::OffsetOutOfRange | Code::AutoOffsetReset => {
            "The topic no longer has what comes next: it was deleted by its retention. \
             properties.auto.offset.reset = 'earliest' goes on with what there is."
        }
        Code::SaslAuthenticationFailed | Code::Authentication => {
            "See properties.sasl.mechanism and who signs in by it."
        }
        Code::AllBrokersDown | Code::BrokerTransportFailure | Code::OperationTimedOut | Code::Resolve => {
            "Is properties.bootstrap.servers right, and can it be reached from here?"
        }
        _ => return None,
    })
}
