use datafusion::arrow::array::{Array, AsArray};
use datafusion::arrow::datatypes::{Decimal128Type, i256};
use tidemark_common::types::SqlType;

use super::*;
use crate::formats::random_rows::every_type;

fn column(sql_type: &SqlType) -> Column {
    Column::new(&sql_type.to_field_ref("c", true)).unwrap()
}

fn decimal(digits: i128, scale: i8, sql_type: &SqlType) -> Result<i128> {
    let mut column = column(sql_type);
    column.append(Scalar::Decimal(i256::from_i128(digits), scale))?;
    Ok(column.finish()?.as_primitive::<Decimal128Type>().value(0))
}

#[test]
fn numbers_are_brought_to_the_scale_of_the_column() {
    let numeric = SqlType::Numeric(Some((5, 2)));
    assert_eq!(decimal(12345, 2, &numeric).unwrap(), 12345);
    assert_eq!(decimal(12, 0, &numeric).unwrap(), 1200);
    assert_eq!(decimal(12_3449, 4, &numeric).unwrap(), 1234);
    assert_eq!(decimal(-12_3450, 4, &numeric).unwrap(), -1235);
    assert_eq!(decimal(1, 70, &numeric).unwrap(), 0);
    assert_eq!(decimal(100_000, 2, &numeric).unwrap_err().code(), "22003");
    assert_eq!(decimal(1, -9, &numeric).unwrap_err().code(), "22003");
    assert_eq!(decimal(0, -70, &numeric).unwrap(), 0);
}

#[test]
fn what_does_not_fit_is_refused_and_leaves_nothing() {
    for (sql_type, value, code) in [
        (SqlType::SmallInt, Scalar::Int(40_000), "22003"),
        (SqlType::Integer, Scalar::Unsigned(u64::MAX), "22003"),
        (SqlType::Real, Scalar::Double(1e300), "22003"),
        (SqlType::Uuid, Scalar::Text("x"), "22P02"),
        (SqlType::Json, Scalar::Text("{"), "22P02"),
        (SqlType::Varchar(Some(2)), Scalar::Text("abc"), "22001"),
        (SqlType::Text, Scalar::Bytes(&[0xff]), "22P02"),
        (SqlType::Time, Scalar::Time(-1), "22008"),
        (SqlType::Boolean, Scalar::Int(1), "42804"),
    ] {
        let mut column = column(&sql_type);
        assert_eq!(column.append(value).unwrap_err().code(), code, "{sql_type}");
        column.truncate(0);
        column.null();
        assert_eq!(column.finish().unwrap().null_count(), 1, "{sql_type}");
    }
}

/// What a column is said to take, it does take.
#[test]
fn kinds_and_columns_agree() {
    let samples = [
        (Kind::Bool, Scalar::Bool(true)),
        (Kind::Int, Scalar::Int(1)),
        (Kind::Unsigned, Scalar::Unsigned(1)),
        (Kind::Float, Scalar::Float(1.0)),
        (Kind::Double, Scalar::Double(1.0)),
        (Kind::Text, Scalar::Text("1 day")),
        (Kind::Bytes, Scalar::Bytes(b"1")),
        (Kind::Decimal, Scalar::Decimal(i256::ONE, 0)),
        (Kind::Days, Scalar::Days(1)),
        (Kind::Time, Scalar::Time(1)),
        (Kind::Timestamp, Scalar::Timestamp(1)),
        (Kind::Interval, Scalar::Interval(Default::default())),
        (Kind::Uuid, Scalar::Uuid([1; 16])),
    ];
    for sql_type in every_type().into_iter().filter(|sql_type| !sql_type.data_type().is_nested()) {
        for (kind, value) in samples {
            let appended = column(&sql_type).append(value);
            let mismatch = appended.is_err_and(|error| error.code() == "42804");
            if takes(&sql_type, kind) {
                assert!(!mismatch, "{sql_type} takes {kind:?}");
            }
        }
    }
}

#[test]
fn a_record_that_fails_half_way_leaves_nothing_behind() {
    let types = [
        SqlType::Integer,
        SqlType::Array(Box::new(SqlType::Text)),
        SqlType::Map(Box::new(SqlType::Text), Box::new(SqlType::Integer)),
        SqlType::Struct(vec![("a".into(), SqlType::Text), ("b".into(), SqlType::Array(Box::new(SqlType::Integer)))]),
    ];
    let schema = crate::formats::random_rows::columns(&types);
    let write = |columns: &mut [Column], n: i64, fails_at: usize| -> Result<()> {
        let fail = |at: usize| if at == fails_at { Err(Error::internal("here")) } else { Ok(()) };
        fail(0)?;
        columns[0].append(Scalar::Int(n))?;
        fail(1)?;
        columns[1].items()?.append(Scalar::Text("x"))?;
        fail(2)?;
        columns[1].close()?;
        let [keys, values] = columns[2].entries()?;
        keys.append(Scalar::Text("k"))?;
        fail(3)?;
        values.append(Scalar::Int(n))?;
        columns[2].close()?;
        let fields = columns[3].fields()?;
        fields[0].append(Scalar::Text("y"))?;
        fields[1].items()?.append(Scalar::Int(n))?;
        fail(4)?;
        fields[1].close()?;
        fail(5)?;
        columns[3].close()
    };
    let mut rows = Rows::new(&schema).unwrap();
    for n in 0..12 {
        rows.record(|columns| write(columns, n, if n % 2 == 0 { 99 } else { (n / 2) as usize }));
    }
    let (columns, failures) = rows.finish().unwrap();
    assert_eq!(failures.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [1, 3, 5, 7, 9, 11]);
    for column in &columns {
        assert_eq!((column.len(), column.null_count()), (12, 6));
    }
    let shown = |at: usize| datafusion::arrow::util::display::array_value_to_string(&columns[at], 10).unwrap();
    assert_eq!([shown(0), shown(1), shown(2), shown(3)], ["10", "[x]", "{k: 10}", "{a: y, b: [10]}"]);
}
