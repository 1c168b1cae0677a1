//! Every type, random values: what is written is read back as it was, in text and in binary; and what PostgreSQL 15 prints.

use std::sync::Arc;

use crate::types::SqlType;
use bytes::BytesMut;
use datafusion::arrow::array::{ArrayRef, DictionaryArray, Int32Array, StringArray, StringViewArray, UInt64Array};
use datafusion::arrow::datatypes::{DataType, Field, Int32Type};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Column, ColumnBuilder, Style, scalar_from_binary, scalar_from_text};

fn all_types() -> Vec<SqlType> {
    let array = |t| SqlType::Array(Box::new(t));
    vec![
        SqlType::Boolean,
        SqlType::SmallInt,
        SqlType::Integer,
        SqlType::BigInt,
        SqlType::Real,
        SqlType::Double,
        SqlType::Numeric(None),
        SqlType::Numeric(Some((10, 2))),
        SqlType::Numeric(Some((5, 5))),
        SqlType::Numeric(Some((7, -3))),
        SqlType::Numeric(Some((60, 15))),
        SqlType::Text,
        SqlType::Varchar(None),
        SqlType::Varchar(Some(12)),
        SqlType::Char(5),
        SqlType::Bytea,
        SqlType::Date,
        SqlType::Time,
        SqlType::Timestamp,
        SqlType::TimestampTz,
        SqlType::Interval,
        SqlType::Uuid,
        SqlType::Json,
        SqlType::Jsonb,
        SqlType::Oid,
        SqlType::Name,
        array(SqlType::Integer),
        array(SqlType::Text),
        array(SqlType::Double),
        array(SqlType::Bytea),
        array(SqlType::TimestampTz),
        array(SqlType::Jsonb),
        SqlType::Struct(vec![
            ("a".into(), SqlType::Integer),
            ("b c".into(), SqlType::Text),
            ("d".into(), array(SqlType::Varchar(None))),
        ]),
        array(SqlType::Struct(vec![("x".into(), SqlType::Text), ("y".into(), SqlType::Interval)])),
        SqlType::Map(Box::new(SqlType::Text), Box::new(SqlType::BigInt)),
        SqlType::Map(Box::new(SqlType::Integer), Box::new(array(SqlType::Timestamp))),
    ]
}

/// A text in the input syntax of the type; ugly ones preferred.
fn random_text(t: &SqlType, rng: &mut StdRng) -> String {
    let word = |rng: &mut StdRng, most: usize| -> String {
        const CHARS: [&str; 16] = ["a", "Z", "0", " ", ",", "\"", "\\", "{", "}", "(", ")", "'", "é", "😀", "\n", "\t"];
        (0..rng.random_range(0..=most)).map(|_| CHARS[rng.random_range(0..CHARS.len())]).collect()
    };
    let digits = |rng: &mut StdRng, n: usize| -> String {
        (0..rng.random_range(1..=n)).map(|_| char::from(b'0' + rng.random_range(0..10u8))).collect()
    };
    let sign = |rng: &mut StdRng| if rng.random() { "-" } else { "" };
    match t {
        SqlType::Boolean => if rng.random() { "t" } else { "false" }.into(),
        SqlType::SmallInt => rng.random::<i16>().to_string(),
        SqlType::Integer => rng.random::<i32>().to_string(),
        SqlType::BigInt => rng.random::<i64>().to_string(),
        SqlType::Oid => rng.random::<u32>().to_string(),
        SqlType::Real => match rng.random_range(0..8) {
            0 => "NaN".into(),
            1 => "-Infinity".into(),
            2 => "-0".into(),
            _ => f32::from_bits(rng.random::<u32>() & 0xbfff_ffff).to_string(),
        },
        SqlType::Double => match rng.random_range(0..8) {
            0 => "NaN".into(),
            1 => "Infinity".into(),
            2 => rng.random_range(-1_000_000..1_000_000i64).to_string(),
            _ => f64::from_bits(rng.random::<u64>() & 0xbfff_ffff_ffff_ffff).to_string(),
        },
        SqlType::Numeric(None) => format!("{}{}.{}", sign(rng), digits(rng, 28), digits(rng, 10)),
        SqlType::Numeric(Some((_, s))) if *s < 0 => format!("{}{}000", sign(rng), digits(rng, 7)),
        SqlType::Numeric(Some((p, s))) if i16::from(*p) == i16::from(*s) => {
            format!("{}0.{}", sign(rng), digits(rng, *s as usize))
        }
        SqlType::Numeric(Some((p, s))) => {
            format!("{}{}.{}", sign(rng), digits(rng, *p as usize - *s as usize), digits(rng, *s as usize))
        }
        SqlType::Text | SqlType::Varchar(_) | SqlType::Name => match rng.random_range(0..6) {
            0 => "null".into(),
            1 => String::new(),
            _ => word(rng, 12),
        },
        SqlType::Char(n) => word(rng, *n as usize),
        SqlType::Bytea => {
            let hex: String = (0..rng.random_range(0..20)).map(|_| format!("{:02x}", rng.random::<u8>())).collect();
            format!("\\x{hex}")
        }
        SqlType::Date => date_text(rng, 5_000_000),
        SqlType::Time => time_text(rng),
        SqlType::Timestamp | SqlType::TimestampTz => match rng.random_range(0..10) {
            0 => "infinity".into(),
            1 => "-infinity".into(),
            _ => {
                let date = date_text(rng, 290_000);
                let time = time_text(rng);
                match date.strip_suffix(" BC") {
                    Some(date) => format!("{date} {time} BC"),
                    None => format!("{date} {time}"),
                }
            }
        },
        SqlType::Interval => format!(
            "{} mons {} days {}{}",
            rng.random_range(-40_000..40_000),
            rng.random_range(-40_000..40_000),
            sign(rng),
            time_text(rng)
        ),
        SqlType::Uuid => uuid::Uuid::from_u128(rng.random()).to_string(),
        SqlType::Json | SqlType::Jsonb => {
            let text = serde_json::Value::String(word(rng, 8)).to_string();
            format!("{{\"k\":{text},  \"a\":[1.50,null,{}]}}", rng.random::<i64>())
        }
        SqlType::Array(item) => {
            let items: Vec<_> = (0..rng.random_range(0..5))
                .map(|_| if rng.random_range(0..5) == 0 { "NULL".into() } else { quoted(&random_text(item, rng)) })
                .collect();
            format!("{{{}}}", items.join(","))
        }
        SqlType::Struct(fields) => {
            let fields: Vec<_> = fields
                .iter()
                .map(|(_, t)| if rng.random_range(0..5) == 0 { String::new() } else { quoted(&random_text(t, rng)) })
                .collect();
            format!("({})", fields.join(","))
        }
        SqlType::Map(key, value) => {
            let entries: Vec<_> = (0..rng.random_range(0..4))
                .map(|_| {
                    let key = serde_json::Value::String(random_text(key, rng));
                    let value = match value.as_ref() {
                        SqlType::Array(_) => "[\"2024-01-31T04:05:06.7\",null]".into(),
                        value => random_text(value, rng),
                    };
                    format!("{key}:{value}")
                })
                .collect();
            format!("{{{}}}", entries.join(","))
        }
        SqlType::Other(_) => unreachable!("no column has it"),
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn date_text(rng: &mut StdRng, years: i64) -> String {
    let month_and_day = format!("{:02}-{:02}", rng.random_range(1..=12), rng.random_range(1..=28));
    match rng.random_range(0..4) {
        0 => format!("{:04}-{month_and_day} BC", rng.random_range(1..=4000)),
        1 => format!("{}-{month_and_day}", rng.random_range(1000..years)),
        _ => format!("{}-{month_and_day}", rng.random_range(1900..2100)),
    }
}

fn time_text(rng: &mut StdRng) -> String {
    let (hour, minute, second) = (rng.random_range(0..24), rng.random_range(0..60), rng.random_range(0..60));
    match rng.random() {
        true => format!("{hour:02}:{minute:02}:{second:02}.{:06}", rng.random_range(0..1_000_000)),
        false => format!("{hour:02}:{minute:02}:{second:02}"),
    }
}

fn build(t: &SqlType, texts: &[Option<String>], style: &Style) -> ArrayRef {
    let mut builder = ColumnBuilder::new(t).unwrap();
    for text in texts {
        match text {
            Some(text) => builder.append_text(text, style).unwrap_or_else(|e| panic!("{t}: {text}: {e:?}")),
            None => builder.append_null(),
        }
    }
    let array = builder.finish().unwrap();
    assert_eq!(array.len(), texts.len());
    assert_eq!(builder.finish().unwrap().len(), 0);
    assert_eq!(*array.data_type(), t.data_type());
    array
}

fn texts_of(array: &ArrayRef, t: &SqlType, style: &Style) -> Vec<Option<String>> {
    let column = Column::new(array, &t.to_field("c", true)).unwrap();
    (0..array.len())
        .map(|row| {
            let mut out = BytesMut::new();
            (!column.is_null(row)).then(|| {
                column.write_text(row, style, &mut out);
                String::from_utf8(out.to_vec()).unwrap()
            })
        })
        .collect()
}

#[test]
fn what_is_written_is_read_back() {
    let mut rng = StdRng::seed_from_u64(7);
    for zone in ["UTC", "Asia/Kolkata", "America/New_York"] {
        let style = Style::default().with_time_zone(zone).unwrap();
        for t in all_types() {
            let texts: Vec<_> =
                (0..200).map(|_| (rng.random_range(0..10) > 0).then(|| random_text(&t, &mut rng))).collect();
            let array = build(&t, &texts, &style);

            let printed = texts_of(&array, &t, &style);
            let again = build(&t, &printed, &style);
            assert_eq!(&array, &again, "text of {t}");
            assert_eq!(printed, texts_of(&again, &t, &style));

            let column = Column::new(&array, &t.to_field("c", true)).unwrap();
            let mut builder = ColumnBuilder::new(&t).unwrap();
            for (row, text) in printed.iter().enumerate() {
                let mut out = BytesMut::new();
                if column.is_null(row) {
                    builder.append_null();
                } else {
                    column.write_binary(row, &style, &mut out).unwrap();
                    builder.append_binary(&out).unwrap_or_else(|e| panic!("{t}: {text:?}: {e:?}"));
                }
            }
            assert_eq!(&array, &builder.finish().unwrap(), "binary of {t}");
        }
    }
}

#[test]
fn broken_input_is_refused_without_a_panic() {
    let mut rng = StdRng::seed_from_u64(11);
    let style = Style::default();
    for t in all_types() {
        for _ in 0..300 {
            let mut text: Vec<char> = random_text(&t, &mut rng).chars().collect();
            for _ in 0..rng.random_range(1..4) {
                let at = rng.random_range(0..=text.len());
                match rng.random_range(0..3) {
                    0 if at < text.len() => drop(text.remove(at)),
                    1 => text.truncate(at),
                    _ => text.insert(at, *[',', '"', '{', '-', ':', '9', 'e', 'é'].get(at % 8).unwrap()),
                }
            }
            let text: String = text.into_iter().collect();
            // Either way, but it returns.
            let _ = scalar_from_text(&t, &text, &style);

            let mut bytes: Vec<u8> = (0..rng.random_range(0..40)).map(|_| rng.random()).collect();
            if rng.random() {
                // Small counts and lengths go deeper into the readers.
                bytes.iter_mut().for_each(|b| *b &= 3);
            }
            let _ = scalar_from_binary(&t, &bytes);
        }
    }
}

/// Values in the form that data has are read without a detour; a blank around them is enough for the long way.
#[test]
fn the_short_way_reads_what_the_long_way_reads() {
    let mut rng = StdRng::seed_from_u64(13);
    let styles = ["UTC", "America/New_York"].map(|zone| Style::default().with_time_zone(zone).unwrap());
    let numbers = [None, Some((10, 2)), Some((5, 5)), Some((18, 0)), Some((38, 30)), Some((7, -3))];
    let numbers = numbers.map(SqlType::Numeric);
    let moments = [SqlType::Timestamp, SqlType::TimestampTz];
    for _ in 0..20_000 {
        let style = &styles[rng.random_range(0..2)];
        let (t, text) = match rng.random() {
            true => {
                let mut text: String =
                    (0..rng.random_range(0..21)).map(|_| char::from(rng.random_range(b'0'..=b'9'))).collect();
                for sign in [".", ".", "-"] {
                    if rng.random_range(0..3) == 0 {
                        let at = if sign == "-" { 0 } else { rng.random_range(0..=text.len()) };
                        text.insert_str(at, sign);
                    }
                }
                (&numbers[rng.random_range(0..numbers.len())], text)
            }
            false => {
                let zone = ["", "Z", "+02", "-05:30", "+16", "+01:60", "-0530", "+1"][rng.random_range(0..8)];
                let (year, month, day) =
                    (rng.random_range(0..10_000), rng.random_range(0..14), rng.random_range(0..33));
                let (hour, minute, second) =
                    (rng.random_range(0..26), rng.random_range(0..62), rng.random_range(0..62));
                let fraction = ["", ".5", ".123456", ".0000005", "."][rng.random_range(0..5)];
                let between = if rng.random() { 'T' } else { ' ' };
                let text =
                    format!("{year:04}-{month:02}-{day:02}{between}{hour:02}:{minute:02}:{second:02}{fraction}{zone}");
                (&moments[rng.random_range(0..2)], text)
            }
        };
        let (short, long) = (scalar_from_text(t, &text, style), scalar_from_text(t, &format!("{text} "), style));
        assert_eq!(short.map_err(|e| e.code()), long.map_err(|e| e.code()), "{t}: {text}");
    }
}

fn printed(t: SqlType, text: &str) -> String {
    let style = Style::default();
    texts_of(&build(&t, &[Some(text.to_string())], &style), &t, &style).remove(0).unwrap()
}

/// What PostgreSQL 15 prints.
#[test]
fn as_postgres_prints_them() {
    let text_array = SqlType::Array(Box::new(SqlType::Text));
    assert_eq!(
        printed(text_array, r#"{1,NULL,"a b","",null,"NULL","a\"b\\c", x y ,a\,b}"#),
        r#"{1,NULL,"a b","",NULL,"NULL","a\"b\\c","x y","a,b"}"#
    );
    let integers = SqlType::Array(Box::new(SqlType::Integer));
    assert_eq!(printed(integers.clone(), "{}"), "{}");
    assert_eq!(printed(SqlType::Array(Box::new(integers.clone())), "{{1,2},{3,4}}"), "{{1,2},{3,4}}");
    assert_eq!(printed(integers.clone(), "[2:3]={7,8}"), "{7,8}");
    let record = SqlType::Struct(vec![
        ("a".into(), SqlType::Integer),
        ("b".into(), SqlType::Text),
        ("c".into(), SqlType::Text),
        ("d".into(), SqlType::Text),
        ("e".into(), SqlType::Text),
        ("f".into(), integers),
        ("g".into(), SqlType::Boolean),
    ]);
    let text = r#"(1,"a b",,"","x""y\\z","{1,2}",t)"#;
    assert_eq!(printed(record, text), text);
    assert_eq!(printed(SqlType::Numeric(Some((10, 2))), "1.5"), "1.50");
    assert_eq!(printed(SqlType::Numeric(None), "1.50"), "1.5");
    assert_eq!(printed(SqlType::Numeric(None), "-100"), "-100");
    assert_eq!(printed(SqlType::Bytea, "abc"), "\\x616263");
    assert_eq!(printed(SqlType::Char(4), "ab"), "ab  ");
    assert_eq!(printed(SqlType::Boolean, "yes"), "t");
    assert_eq!(printed(SqlType::Oid, "4294967295"), "4294967295");
    assert_eq!(
        printed(SqlType::Map(Box::new(SqlType::Text), Box::new(SqlType::Integer)), r#"{"b": 1, "a\n": null}"#),
        r#"{"b":1,"a\n":null}"#
    );
}

#[test]
fn malformed_literals_are_explained() {
    let style = Style::default();
    let integers = SqlType::Array(Box::new(SqlType::Integer));
    let detail = |t: &SqlType, text: &str| {
        let error = scalar_from_text(t, text, &style).unwrap_err();
        format!("{} {} / {}", error.code(), error.message(), error.detail().unwrap_or(""))
    };
    assert_eq!(detail(&integers, "{1"), "22P02 malformed array literal: \"{1\" / Unexpected end of input.");
    assert_eq!(
        detail(&integers, "{1,{2}}"),
        "22P02 malformed array literal: \"{1,{2}}\" / Unexpected \"{\" character."
    );
    assert_eq!(detail(&integers, "{1,x}"), "22P02 invalid input syntax for type integer: \"x\" / ");
    let record = SqlType::Struct(vec![("a".into(), SqlType::Integer), ("b".into(), SqlType::Text)]);
    assert_eq!(detail(&record, "(1,2,3)"), "22P02 malformed record literal: \"(1,2,3)\" / Too many columns.");
    assert_eq!(detail(&record, "(1)"), "22P02 malformed record literal: \"(1)\" / Too few columns.");
    assert_eq!(detail(&record, "x"), "22P02 malformed record literal: \"x\" / Missing left parenthesis.");
}

/// What expressions yield besides the types of columns.
#[test]
fn other_arrow_types_are_shown_as_the_nearest_sql_type() {
    let style = Style::default();
    let shown = |array: ArrayRef| {
        let field = Field::new("c", array.data_type().clone(), true);
        texts_of(&array, &SqlType::from_field(&field), &style)
    };
    let some = |texts: &[&str]| texts.iter().map(|t| Some(t.to_string())).collect::<Vec<_>>();
    assert_eq!(shown(Arc::new(UInt64Array::from(vec![u64::MAX]))), some(&["18446744073709551615"]));
    assert_eq!(shown(Arc::new(StringViewArray::from(vec!["a", "b"]))), some(&["a", "b"]));
    let dictionary = DictionaryArray::<Int32Type>::new(
        Int32Array::from(vec![Some(1), None, Some(0)]),
        Arc::new(StringArray::from(vec!["x", "y"])),
    );
    assert_eq!(shown(Arc::new(dictionary)), [Some("y".to_string()), None, Some("x".to_string())]);
    assert_eq!(shown(datafusion::arrow::array::new_null_array(&DataType::Null, 2)), [None, None]);
}
