//! A schema registry as Confluent's answers, as far as its clients go: subjects, versions, ids, references, compatibility BACKWARD of
//! Avro schemas, basic authentication, errors with their `error_code`. Its memory outlives its going away.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use serde_json::{Value, json};

use crate::certificates::{Served, Tls};

pub struct Registry {
    known: Arc<Known>,
    served: Served,
}

#[derive(Default)]
struct Known {
    /// `user:password` in base64, if it asks for it.
    credentials: Option<&'static str>,
    all: Mutex<All>,
}

#[derive(Default)]
struct All {
    /// Those with the ids 1, 2, ..: what was posted.
    schemas: Vec<Value>,
    /// Subject -> the id of each version.
    subjects: BTreeMap<String, Vec<usize>>,
    asked: usize,
}

type Answer = (StatusCode, Value);

impl Registry {
    pub async fn start() -> Registry {
        Self::with(None).await
    }

    /// `credentials`: `user:password` in base64.
    pub async fn with(credentials: Option<&'static str>) -> Registry {
        Self::new(credentials, None).await
    }

    pub async fn over(tls: Tls) -> Registry {
        Self::new(None, Some(tls)).await
    }

    async fn new(credentials: Option<&'static str>, tls: Option<Tls>) -> Registry {
        let known = Arc::new(Known { credentials, all: Mutex::default() });
        let router = Router::new().fallback(answer).with_state(Arc::clone(&known));
        Registry { known, served: Served::start(router, tls).await }
    }

    pub fn url(&self) -> String {
        self.served.url()
    }

    pub async fn go_away(&mut self) {
        self.served.go_away().await;
    }

    /// With all that it had, on the same port.
    pub async fn come_back(&mut self) {
        self.served.come_back().await;
    }

    /// Of a subject's latest version.
    pub fn id_of(&self, subject: &str) -> usize {
        *self.known.all.lock().unwrap().subjects[subject].last().unwrap()
    }

    /// How many questions it has been asked.
    pub fn asked(&self) -> usize {
        self.known.all.lock().unwrap().asked
    }

    pub fn avro(&self, subject: &str, schema: &Value) -> u32 {
        self.post(subject, json!({ "schema": schema.to_string() }))
    }

    /// `imports`: name of the import and its subject.
    pub fn protobuf(&self, subject: &str, schema: &str, imports: &[(&str, &str)]) -> u32 {
        let one = |(name, subject): &(&str, &str)| json!({ "name": name, "subject": subject, "version": 1 });
        let references: Vec<Value> = imports.iter().map(one).collect();
        self.post(subject, json!({ "schemaType": "PROTOBUF", "schema": schema, "references": references }))
    }

    fn post(&self, subject: &str, body: Value) -> u32 {
        let (status, answer) = self.known.all.lock().unwrap().register(subject, body);
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer["id"].as_u64().unwrap() as u32
    }
}

async fn answer(
    State(known): State<Arc<Known>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, String) {
    let mut all = known.all.lock().unwrap();
    all.asked += 1;
    let given = headers.get("authorization").and_then(|value| value.to_str().ok()?.strip_prefix("Basic "));
    if known.credentials.is_some() && known.credentials != given {
        return (StatusCode::UNAUTHORIZED, json!({ "error_code": 401, "message": "Unauthorized" }).to_string());
    }
    let path: Vec<String> = uri.path().split('/').skip(1).map(unescaped).collect();
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    let (status, answer) = match (method.as_str(), path.as_slice()) {
        ("GET", ["subjects"]) => (StatusCode::OK, json!(all.subjects.keys().collect::<Vec<_>>())),
        ("GET", ["subjects", subject, "versions"]) => match all.subjects.get(*subject) {
            Some(ids) => (StatusCode::OK, json!((1..=ids.len()).collect::<Vec<_>>())),
            None => no_subject(subject),
        },
        ("GET", ["subjects", subject, "versions", version]) => all.version(subject, version),
        ("POST", ["subjects", subject, "versions"]) => match serde_json::from_slice(&body) {
            Ok(body) => all.register(subject, body),
            Err(_) => refused(422, 42201, "Invalid schema"),
        },
        ("GET", ["schemas", "ids", id]) => {
            match id.parse::<usize>().ok().and_then(|id| all.schemas.get(id.checked_sub(1)?)) {
                Some(schema) => (StatusCode::OK, schema.clone()),
                None => refused(404, 40403, &format!("Schema {id} not found")),
            }
        }
        _ => refused(404, 404, "HTTP 404 Not Found"),
    };
    (status, answer.to_string())
}

impl All {
    fn version(&self, subject: &str, version: &str) -> Answer {
        let Some(ids) = self.subjects.get(subject) else { return no_subject(subject) };
        let number = match version {
            "latest" => Some(ids.len()),
            number => number.parse().ok().filter(|number| (1..=ids.len()).contains(number)),
        };
        let Some(number) = number else { return refused(404, 40402, "Version not found.") };
        let mut answer = self.schemas[ids[number - 1] - 1].clone();
        answer["subject"] = json!(subject);
        answer["version"] = json!(number);
        answer["id"] = json!(ids[number - 1]);
        (StatusCode::OK, answer)
    }

    fn register(&mut self, subject: &str, mut body: Value) -> Answer {
        let is_avro = matches!(body["schemaType"].as_str(), None | Some("AVRO"));
        if is_avro {
            // As the real one answers: Avro is not named.
            body.as_object_mut().unwrap().remove("schemaType");
        }
        let Some(text) = body["schema"].as_str() else { return refused(422, 42201, "Empty schema") };
        if is_avro {
            let Ok(schema) = serde_json::from_str::<Value>(text) else { return refused(422, 42201, "Invalid schema") };
            let before = self.subjects.get(subject).and_then(|ids| ids.last());
            let before =
                before.map(|id| serde_json::from_str(self.schemas[id - 1]["schema"].as_str().unwrap()).unwrap());
            if before.is_some_and(|before: Value| !is_compatible(&schema, &before)) {
                let message =
                    format!("Schema being registered is incompatible with an earlier schema for subject \"{subject}\"");
                return refused(409, 409, &message);
            }
        }
        let id = match self.schemas.iter().position(|schema| *schema == body) {
            Some(at) => at + 1,
            None => {
                self.schemas.push(body);
                self.schemas.len()
            }
        };
        let versions = self.subjects.entry(subject.to_string()).or_default();
        if !versions.contains(&id) {
            versions.push(id);
        }
        (StatusCode::OK, json!({ "id": id }))
    }
}

/// BACKWARD: the new schema reads what the one before it wrote.
fn is_compatible(new: &Value, old: &Value) -> bool {
    let fields = |schema: &Value| schema["fields"].as_array().cloned().unwrap_or_default();
    fields(new).iter().all(|field| match fields(old).iter().find(|old| old["name"] == field["name"]) {
        None => field.get("default").is_some(),
        Some(old) => {
            let promoted =
                matches!((old["type"].as_str(), field["type"].as_str()), (Some("int"), Some("long" | "double")));
            old["type"] == field["type"] || promoted
        }
    })
}

fn no_subject(subject: &str) -> Answer {
    refused(404, 40401, &format!("Subject '{subject}' not found."))
}

fn refused(status: u16, code: u32, message: &str) -> Answer {
    (StatusCode::from_u16(status).unwrap(), json!({ "error_code": code, "message": message }))
}

fn unescaped(part: &str) -> String {
    let mut pieces = part.split('%');
    let mut bytes = pieces.next().unwrap().as_bytes().to_vec();
    for piece in pieces {
        bytes.push(u8::from_str_radix(&piece[..2], 16).unwrap());
        bytes.extend(&piece.as_bytes()[2..]);
    }
    String::from_utf8(bytes).unwrap()
}
