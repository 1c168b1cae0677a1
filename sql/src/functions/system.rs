//! What tools ask a server about itself and about values: `version()`, `pg_typeof`, `pg_size_pretty`.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, StringArray};
use datafusion::arrow::datatypes::DataType;
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::async_udf::{AsyncScalarUDF, AsyncScalarUDFImpl};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use tidemark_common::types::SqlType;
use tidemark_common::{Error, SqlState};

use super::declare::{Kind, function};

use Kind::{Any, Bool, Int8, Text};

/// The version of PostgreSQL that Tidemark speaks like.
pub const POSTGRES_VERSION: &str = "15.0";

pub(super) fn functions() -> Vec<ScalarUDF> {
    vec![
        function("version")
            .stable()
            .on(&[], Text, |_| {
                Ok(format!("PostgreSQL {POSTGRES_VERSION} (Tidemark {})", env!("CARGO_PKG_VERSION")).into())
            })
            .udf(),
        function("pg_is_in_recovery").stable().on(&[], Bool, |_| Ok(false.into())).udf(),
        function("pg_typeof")
            .stable()
            .on_nulls(&[Any], None, Text, |r| {
                let (array, _, sql_type) = r.any(0);
                Ok(if array.data_type().is_null() { "unknown".into() } else { without_length(sql_type).into() })
            })
            .udf(),
        function("pg_size_pretty").on(&[Int8], Text, |r| Ok(size_pretty(r.int(0)).into())).udf(),
        AsyncScalarUDF::new(Arc::new(Sleep {
            signature: Signature::exact(vec![DataType::Float64], Volatility::Volatile),
        }))
        .into_scalar_udf(),
    ]
}

/// A type's name as `pg_typeof` says it.
fn without_length(sql_type: &SqlType) -> String {
    match sql_type {
        SqlType::Numeric(_) => "numeric".into(),
        SqlType::Varchar(_) => "character varying".into(),
        SqlType::Char(_) => "character".into(),
        SqlType::Array(item) => format!("{}[]", without_length(item)),
        other => other.to_string(),
    }
}

fn size_pretty(bytes: i64) -> String {
    const UNITS: [&str; 6] = ["bytes", "kB", "MB", "GB", "TB", "PB"];
    let mut size = bytes;
    let mut unit = 0;
    // Half a unit rounds up, and a unit is left when its count has five digits.
    while size.unsigned_abs() >= if unit == 0 { 10_240 } else { 10_240 * 2 - 1 } && unit + 1 < UNITS.len() {
        // One binary digit stays for the rounding at the end.
        size /= if unit == 0 { 512 } else { 1024 };
        unit += 1;
    }
    let rounded = if unit == 0 { size } else { (size + size.signum()) / 2 };
    format!("{rounded} {}", UNITS[unit])
}

/// `pg_sleep(seconds)`: waits as a future, so cancelling the query ends it.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Sleep {
    signature: Signature,
}

/// The longest sleep, as a bound: a year.
const LONGEST_SLEEP: f64 = 366.0 * 86_400.0;

impl ScalarUDFImpl for Sleep {
    fn name(&self) -> &str {
        "pg_sleep"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        Err(Error::internal("pg_sleep is asynchronous").into())
    }
}

#[async_trait::async_trait]
impl AsyncScalarUDFImpl for Sleep {
    async fn invoke_async_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let seconds = args.args[0].to_array(args.number_rows)?;
        let seconds =
            datafusion::arrow::array::AsArray::as_primitive::<datafusion::arrow::datatypes::Float64Type>(&seconds);
        for pause in seconds.iter().flatten().filter(|s| *s > 0.0) {
            if pause > LONGEST_SLEEP {
                return Err(Error::new(SqlState::InvalidParameterValue, "pg_sleep() of more than a year").into());
            }
            tokio::time::sleep(std::time::Duration::from_secs_f64(pause)).await;
        }
        // Postgres' void prints as nothing.
        let void: ArrayRef = Arc::new(StringArray::from(vec![""; args.number_rows]));
        Ok(ColumnarValue::Array(void))
    }
}

#[cfg(test)]
mod tests {
    use super::size_pretty;

    #[test]
    fn sizes_at_the_borders_of_their_units() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (10_239, "10239 bytes"),
            (10_240, "10 kB"),
            (10_751, "10 kB"),
            (10_752, "11 kB"),
            (10 * 1024 * 1024 - 513, "10239 kB"),
            (10 * 1024 * 1024 - 512, "10 MB"),
            (-20_480, "-20 kB"),
            (123_456_789_012_345, "112 TB"),
            (i64::MAX, "8192 PB"),
        ] {
            assert_eq!(size_pretty(bytes), text);
        }
    }
}
