use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::options::Options;

fn options(pairs: &[(&str, &str)]) -> Result<Option<RegistryOptions>> {
    let pairs: Vec<_> = pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    let mut own = Options::new(&pairs)?;
    let taken = RegistryOptions::take(&mut own, &mut Options::default())?;
    own.finish()?;
    Ok(taken)
}

fn registry(urls: &str) -> Arc<Registry> {
    let pairs = [
        ("schema.registry", urls),
        ("schema.registry.username", "u"),
        ("schema.registry.password", "verysecret"),
        ("schema.registry.timeout", "2s"),
    ];
    Arc::new(Registry::new(options(&pairs).unwrap().unwrap()))
}

/// The head has come, and the body that it tells of.
fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse::<usize>().ok());
    body.len() >= length.unwrap_or_default()
}

/// A server that answers each path as `answer` does: the status and the body; and how often it was asked.
async fn serve(answer: fn(&str, usize) -> (u16, String)) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !is_whole(&request) {
                assert!(stream.read_buf(&mut request).await.unwrap() > 0);
            }
            let head = String::from_utf8_lossy(&request).to_string();
            assert!(head.to_lowercase().contains("authorization: basic dtp2zxj5c2vjcmv0"), "{head}");
            let path = head.split(' ').nth(1).unwrap();
            let (status, body) = answer(path, count.fetch_add(1, Relaxed));
            let length = body.len();
            let response =
                format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
            stream.write_all(response.as_bytes()).await.unwrap();
        }
    });
    (url, asked)
}

#[tokio::test]
async fn what_has_been_fetched_is_kept_with_what_it_refers_to() {
    let (url, asked) = serve(|path, _| {
        let reference = |name: &str| format!("{{\"name\": \"{name}\", \"subject\": \"{name}\", \"version\": 1}}");
        let body = match path {
            "/schemas/ids/7" => {
                format!("{{\"schema\": \"top\", \"references\": [{}, {}]}}", reference("a"), reference("b"))
            }
            "/subjects/a/versions/1" => format!("{{\"schema\": \"A\", \"references\": [{}]}}", reference("b")),
            "/subjects/b/versions/1" => "{\"schema\": \"B\"}".to_string(),
            "/subjects/odd%2Fname-value/versions/latest" => {
                "{\"id\": 9, \"schemaType\": \"PROTOBUF\", \"schema\": \"P\"}".to_string()
            }
            other => panic!("{other}"),
        };
        (200, body)
    })
    .await;
    let registry = registry(&format!("{url}/"));
    let lookup = Lookup::new(&registry).unwrap();
    for _ in 0..3 {
        let fetched = registry.by_id(7).await.unwrap();
        let names: Vec<&str> = fetched.references.iter().map(|named| named.name.as_str()).collect();
        assert_eq!((names, fetched.text.as_str()), (vec!["b", "a"], "top"));
    }
    assert_eq!(asked.load(Relaxed), 3);
    let latest = registry.latest("odd/name-value").await.unwrap();
    assert_eq!((latest.id, latest.kind), (9, SchemaKind::Protobuf));
    assert!(latest.of_kind(SchemaKind::Avro).is_err());
    assert_eq!(lookup.by_id(9).unwrap(), latest);
}

#[tokio::test]
async fn other_urls_and_other_times_are_tried() {
    let (good, asked) = serve(|_, times| match times {
        0 => (503, "busy".to_string()),
        _ => (200, "{\"schema\": \"s\"}".to_string()),
    })
    .await;
    let registry = registry(&format!("http://127.0.0.1:1,{good}"));
    assert_eq!(registry.by_id(1).await.unwrap().text, "s");
    assert_eq!(registry.by_id(2).await.unwrap().text, "s");
    assert_eq!(asked.load(Relaxed), 3);
}

#[tokio::test]
async fn refusals_say_what_and_where() {
    let (url, _) = serve(|path, _| {
        let status = path.rsplit('/').next().unwrap().parse().unwrap();
        (status, "{\"error_code\": 1, \"message\": \"its own words\"}".to_string())
    })
    .await;
    let registry = registry(&url);
    for (id, code) in [(401, "28000"), (403, "42501"), (404, "42704"), (409, "42P17"), (422, "42P17"), (500, "08000")] {
        let error = registry.by_id(id).await.unwrap_err();
        assert_eq!(error.code(), code, "{error:?}");
        assert!(error.message().contains(&url) && error.hint().is_some(), "{error:?}");
        assert!(!format!("{error:?}").contains("verysecret"));
        assert_eq!(is_passing(&error), id == 500);
    }
    let away = self::registry("http://127.0.0.1:1").latest("s").await.unwrap_err();
    assert!(is_passing(&away) && away.message().contains("subject \"s\""), "{away:?}");
}

#[test]
fn options_are_checked() {
    assert!(options(&[]).unwrap().is_none());
    let url = ("schema.registry", "https://a:1/x/, http://b");
    let taken = options(&[url, ("schema.registry.name.strategy", "Record_Name_Strategy")]).unwrap().unwrap();
    assert_eq!(taken.urls, ["https://a:1/x", "http://b"]);
    assert_eq!(taken.strategy.subject("t", Some("a.B")).unwrap(), "a.B");
    for (pairs, part) in [
        (&[("schema.registry.ca", "/ca")] as &[_], "needs the option \"schema.registry\""),
        (&[url, ("schema.registry.username", "u")], "\"schema.registry.password\""),
        (&[url, ("schema.registry.password", "p")], "\"schema.registry.username\""),
        (&[url, ("schema.registry.key", "k")], "\"schema.registry.certificate\""),
        (&[url, ("schema.registry.name.strategy", "mine")], "'mine'"),
        (&[("schema.registry", "http://u:p@h")], "must not hold"),
        (&[("schema.registry", "kafka:9092")], "cannot begin with"),
        (&[("schema.registry", "")], "is no URL"),
        (&[url, ("schema.registry.colour", "x")], "unrecognized"),
    ] {
        let error = options(pairs).unwrap_err();
        assert!(error.message().contains(part), "{error:?}");
    }
    let record = options(&[url, ("schema.registry.name.strategy", "topic_record_name_strategy")]).unwrap().unwrap();
    assert!(record.strategy.subject("t", None).is_err());
    assert_eq!(record.strategy.subject("t", Some("R")).unwrap(), "t-R");
}

/// What a sink writes begins with the id that its schema was given, and is asked for once.
#[tokio::test(flavor = "multi_thread")]
async fn a_schema_is_registered_with_the_first_rows() {
    use crate::formats::random_rows::{columns, rows};
    use crate::formats::schema_encode::schema_encoder;
    use rand::SeedableRng;
    use tidemark_common::types::SqlType;

    let (url, asked) = serve(|path, _| match path {
        "/subjects/t-value/versions" => (200, "{\"id\": 258}".to_string()),
        other => panic!("{other}"),
    })
    .await;
    let schema = columns(&[SqlType::Integer, SqlType::Text]);
    let batch = rows(&schema, 5, 2, &mut rand::rngs::SmallRng::seed_from_u64(1));
    for (times, (encode, start)) in
        [("AVRO", vec![0, 0, 0, 1, 2]), ("PROTOBUF", vec![0, 0, 0, 1, 2, 0])].into_iter().enumerate()
    {
        let pairs = [
            ("schema.registry", url.as_str()),
            ("schema.registry.username", "u"),
            ("schema.registry.password", "verysecret"),
            ("message", "a.B"),
        ];
        let pairs: Vec<_> = pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        let (mut own, mut with) = (Options::new(&pairs).unwrap(), Options::default());
        let encoder = schema_encoder(encode, &schema, &mut own, &mut with, "t").unwrap().unwrap();
        own.finish().unwrap();
        assert_eq!(asked.load(Relaxed), times);
        for _ in 0..2 {
            let records = encoder.encode(&batch).unwrap();
            assert!(records.len() == 5 && records.iter().all(|record| record.as_ref().unwrap().starts_with(&start)));
        }
        assert_eq!(asked.load(Relaxed), times + 1);
    }
    assert!(schema_encoder("JSON", &schema, &mut Options::default(), &mut Options::default(), "t").unwrap().is_none());
}

/// One machine of several may not know yet what another has been given; a record without a schema stays one.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_unknown_is_asked_for_again() {
    use crate::formats::column::{Rows, Scalar};

    let (url, asked) = serve(|_, times| match times {
        1 => (200, "{\"schema\": \"s\"}".to_string()),
        _ => (404, "{\"error_code\": 40403, \"message\": \"Schema not found\"}".to_string()),
    })
    .await;
    let by_id = ById::new(Lookup::new(&registry(&url)).unwrap());
    let mut rows = Rows::new(&crate::testing::schema(&[("v", tidemark_common::types::SqlType::Text)])).unwrap();
    let records: [&[u8]; 5] =
        [&[0, 0, 0, 0, 7], &[0, 0, 0, 0, 8], &[0, 0, 0, 0, 9], &[0, 0, 0, 0, 8], &[0, 0, 0, 0, 7]];
    let read = by_id.read(
        &records.map(Some),
        &mut rows,
        |fetched| Ok(fetched.text.clone()),
        |text, _, columns| columns[0].append(Scalar::Text(text)),
    );
    read.unwrap();
    let (_, failures) = rows.finish().unwrap();
    assert_eq!(failures.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [1, 2, 3]);
    // 7 twice, 8 twice, 9 once.
    assert_eq!(asked.load(Relaxed), 5);
}
