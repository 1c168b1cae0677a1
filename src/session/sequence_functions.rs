//! nextval, currval, lastval, setval: sequences from within a query, a number a row.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use datafusion::arrow::datatypes::{DataType, Int64Type};
use datafusion::common::TableReference;
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use tidemark_catalog::{Object, ObjectKind, Sequence};
use tidemark_common::{Error, Oid, Result, SqlState};

use super::SessionInfo;
use crate::database::Database;

/// The functions of one session.
pub fn functions(db: &Arc<Database>, info: &Arc<SessionInfo>) -> Vec<ScalarUDF> {
    let session = Arc::new(Numbers { db: db.clone(), info: info.clone() });
    [Call::Next, Call::Current, Call::Last, Call::Set]
        .into_iter()
        .map(|call| {
            let signature = Signature::user_defined(Volatility::Volatile);
            ScalarUDF::new_from_impl(SequenceFunction { call, session: session.clone(), signature })
        })
        .collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Call {
    Next,
    Current,
    Last,
    Set,
}

/// Sequences as one session uses them.
struct Numbers {
    db: Arc<Database>,
    info: Arc<SessionInfo>,
}

impl Numbers {
    /// `name` as in a query, or an OID in digits.
    fn find(&self, name: &str) -> Result<Arc<Object>> {
        let catalog = self.info.catalog().unwrap_or_else(|| self.db.moment().catalog);
        if let Ok(oid) = name.parse::<Oid>() {
            return catalog.expect(oid).cloned();
        }
        let reference = TableReference::parse_str(name);
        catalog.resolve(reference.schema(), reference.table(), &self.info.search_path()).cloned()
    }

    fn next(&self, name: &str) -> Result<i64> {
        let object = self.find(name)?;
        let number = self.db.sequences.next(object.oid, &object.name, sequence(&object)?, &self.db.engine)?;
        self.info.note_number(object.oid, number, true);
        Ok(number)
    }

    fn current(&self, name: &str) -> Result<i64> {
        let object = self.find(name)?;
        sequence(&object)?;
        self.info.number(object.oid).ok_or_else(|| {
            undefined(format!("currval of sequence \"{}\" is not yet defined in this session", object.name))
        })
    }

    fn last(&self) -> Result<i64> {
        self.info.last_number().ok_or_else(|| undefined("lastval is not yet defined in this session".into()))
    }

    fn set(&self, name: &str, number: i64, is_called: bool) -> Result<i64> {
        let object = self.find(name)?;
        self.db.sequences.set(object.oid, number, is_called, sequence(&object)?, &self.db.engine)?;
        if is_called {
            self.info.note_number(object.oid, number, false);
        }
        Ok(number)
    }
}

fn sequence(object: &Object) -> Result<&Sequence> {
    match &object.kind {
        ObjectKind::Sequence(sequence) => Ok(sequence),
        _ => Err(Error::new(SqlState::WrongObjectType, format!("\"{}\" is not a sequence", object.name))),
    }
}

fn undefined(message: String) -> Error {
    Error::new(SqlState::ObjectNotInPrerequisiteState, message).with_hint("nextval defines it.")
}

struct SequenceFunction {
    call: Call,
    session: Arc<Numbers>,
    signature: Signature,
}

impl fmt::Debug for SequenceFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.call.name())
    }
}

impl PartialEq for SequenceFunction {
    fn eq(&self, other: &Self) -> bool {
        self.call == other.call && Arc::ptr_eq(&self.session, &other.session)
    }
}

impl Eq for SequenceFunction {}

impl Hash for SequenceFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.call.hash(state);
    }
}

impl Call {
    fn name(self) -> &'static str {
        match self {
            Call::Next => "nextval",
            Call::Current => "currval",
            Call::Last => "lastval",
            Call::Set => "setval",
        }
    }
}

impl ScalarUDFImpl for SequenceFunction {
    fn name(&self) -> &str {
        self.call.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> DfResult<Vec<DataType>> {
        // A sequence is named by text, or by the OID that a cast to regclass gives.
        let name = |t: &DataType| if t.is_integer() { DataType::Int64 } else { DataType::Utf8 };
        let named = |t: &DataType| t.is_integer() || t.is_string() || t.is_null();
        let number = |t: &DataType| t.is_integer() || t.is_null() || t.is_string();
        match (self.call, types) {
            (Call::Last, []) => Ok(vec![]),
            (Call::Next | Call::Current, [of]) if named(of) => Ok(vec![name(of)]),
            (Call::Set, [of, n]) if named(of) && number(n) => Ok(vec![name(of), DataType::Int64]),
            (Call::Set, [of, n, _]) if named(of) && number(n) => Ok(vec![name(of), DataType::Int64, DataType::Boolean]),
            _ => {
                let types: Vec<String> =
                    types.iter().map(|t| tidemark_common::types::SqlType::from_data_type(t).to_string()).collect();
                let message = format!("function {}({}) does not exist", self.call.name(), types.join(", "));
                Err(Error::new(SqlState::UndefinedFunction, message)
                    .with_hint("No function matches the given name and argument types. You might need to add explicit type casts.")
                    .into())
            }
        }
    }

    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        Ok(DataType::Int64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let rows = args.number_rows;
        let arrays = args.args.iter().map(|a| a.to_array(rows)).collect::<DfResult<Vec<ArrayRef>>>()?;
        let one = |row: usize| -> Result<Option<i64>> {
            if arrays.iter().any(|a| a.is_null(row)) {
                return Ok(None);
            }
            let name = || match arrays[0].as_string_opt::<i32>() {
                Some(names) => names.value(row).to_string(),
                None => arrays[0].as_primitive::<Int64Type>().value(row).to_string(),
            };
            Ok(Some(match self.call {
                Call::Next => self.session.next(&name())?,
                Call::Current => self.session.current(&name())?,
                Call::Last => self.session.last()?,
                Call::Set => {
                    let number = arrays[1].as_primitive::<Int64Type>().value(row);
                    let is_called = arrays.get(2).is_none_or(|a| a.as_boolean().value(row));
                    self.session.set(&name(), number, is_called)?
                }
            }))
        };
        let numbers: Int64Array = (0..rows).map(one).collect::<Result<_>>()?;
        Ok(ColumnarValue::Array(Arc::new(numbers)))
    }
}
