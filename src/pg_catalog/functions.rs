//! Postgres' functions over its catalog, computed from ours.
//!
//! ```text
//!   f(args) ──one batch──▶ Row (an argument by position) ──eval──▶ Value ──▶ result array
//! ```
//!
//! They run a few hundred times a statement at most, so they work row by row. An OID argument may also come as its text or as
//! the object's name, which is what Postgres' implicit casts allow.

use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, LazyLock};

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, StringArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};
use tidemark_common::types::SqlType;
use tidemark_common::{Oid, Result};

use super::array_functions;
use super::context::SystemContext;
use super::relation::{Value, to_array};

pub(super) type Eval = fn(&SystemContext, &Row<'_>) -> Result<Value>;

/// A function's declaration.
pub(super) struct Declared {
    pub name: String,
    /// Fewest and most arguments.
    pub arguments: (usize, usize),
    pub result: SqlType,
    /// Arguments that make the result NULL when they are: the first so many.
    pub strict: usize,
    pub eval: Eval,
}

static DECLARED: LazyLock<HashMap<&'static str, &'static Declared>> = LazyLock::new(|| {
    let declared: &'static [Declared] = super::function_list::declared().leak();
    declared.iter().map(|d| (d.name.as_str(), d)).collect()
});

/// Those that need no context.
static OF_ARRAYS: LazyLock<HashMap<String, Arc<ScalarUDF>>> =
    LazyLock::new(|| array_functions::functions().into_iter().map(|f| (f.name().to_string(), Arc::new(f))).collect());

/// The function of this name, over `ctx` if it needs that.
pub fn function(name: &str, ctx: Option<&Arc<SystemContext>>) -> Option<Arc<ScalarUDF>> {
    let of_context = || {
        let function = SystemFunction::new(DECLARED.get(name)?, Arc::clone(ctx?));
        Some(Arc::new(ScalarUDF::new_from_impl(function)))
    };
    OF_ARRAYS.get(name).cloned().or_else(of_context)
}

/// The names that [`function`] knows.
pub fn function_names() -> impl Iterator<Item = &'static str> {
    DECLARED.keys().copied().chain(OF_ARRAYS.keys().map(String::as_str))
}

struct SystemFunction {
    declared: &'static Declared,
    signature: Signature,
    ctx: Arc<SystemContext>,
}

impl SystemFunction {
    fn new(declared: &'static Declared, ctx: Arc<SystemContext>) -> Self {
        let (fewest, most) = declared.arguments;
        let counts = (fewest..=most).map(|n| if n == 0 { TypeSignature::Nullary } else { TypeSignature::Any(n) });
        let signature = Signature::one_of(counts.collect(), Volatility::Stable);
        Self { declared, signature, ctx }
    }
}

impl fmt::Debug for SystemFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.declared.name)
    }
}

impl PartialEq for SystemFunction {
    fn eq(&self, other: &Self) -> bool {
        self.declared.name == other.declared.name && Arc::ptr_eq(&self.ctx, &other.ctx)
    }
}

impl Eq for SystemFunction {}

impl Hash for SystemFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.declared.name.hash(state);
    }
}

impl ScalarUDFImpl for SystemFunction {
    fn name(&self) -> &str {
        &self.declared.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> DfResult<DataType> {
        Ok(self.declared.result.data_type())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let constant = args.args.iter().all(|a| matches!(a, ColumnarValue::Scalar(_)));
        let rows = if constant { 1 } else { args.number_rows };
        let columns =
            args.args.into_iter().map(|arg| Argument::new(&arg.into_array(rows)?)).collect::<DfResult<Vec<_>>>()?;
        let strict = self.declared.strict.min(columns.len());
        let values = (0..rows)
            .map(|row| {
                let row = Row { columns: &columns, row };
                if (0..strict).any(|i| row.is_null(i)) {
                    Ok(Value::Null)
                } else {
                    (self.declared.eval)(&self.ctx, &row)
                }
            })
            .collect::<Result<Vec<_>>>()
            .map_err(DataFusionError::from)?;
        let array = to_array(&values, &self.declared.result)?;
        Ok(if constant {
            ColumnarValue::Scalar(ScalarValue::try_from_array(&array, 0)?)
        } else {
            ColumnarValue::Array(array)
        })
    }
}

enum Argument {
    Int(Int64Array),
    Text(StringArray),
    Bool(BooleanArray),
    Null,
}

impl Argument {
    fn new(array: &ArrayRef) -> DfResult<Argument> {
        Ok(match array.data_type() {
            DataType::Null => Argument::Null,
            DataType::Boolean => Argument::Bool(array.as_boolean().clone()),
            t if t.is_integer() => Argument::Int(cast(array, &DataType::Int64)?.as_primitive().clone()),
            _ => Argument::Text(cast(array, &DataType::Utf8)?.as_string().clone()),
        })
    }
}

/// The arguments of one call.
pub(super) struct Row<'a> {
    columns: &'a [Argument],
    row: usize,
}

impl Row<'_> {
    pub fn is_null(&self, i: usize) -> bool {
        match self.columns.get(i) {
            Some(Argument::Int(a)) => a.is_null(self.row),
            Some(Argument::Text(a)) => a.is_null(self.row),
            Some(Argument::Bool(a)) => a.is_null(self.row),
            Some(Argument::Null) | None => true,
        }
    }

    pub fn int(&self, i: usize) -> Option<i64> {
        match self.columns.get(i)? {
            Argument::Int(a) if a.is_valid(self.row) => Some(a.value(self.row)),
            Argument::Text(a) if a.is_valid(self.row) => a.value(self.row).trim().parse().ok(),
            _ => None,
        }
    }

    pub fn text(&self, i: usize) -> Option<&str> {
        match self.columns.get(i)? {
            Argument::Text(a) if a.is_valid(self.row) => Some(a.value(self.row)),
            _ => None,
        }
    }

    /// An OID, given as number, as text, or as the name that type `reg` reads.
    pub fn oid(&self, i: usize, ctx: &SystemContext, reg: &str) -> Result<Oid> {
        match (self.int(i), self.text(i)) {
            // Columns of OIDs are held as int4: the upper half of the range is negative there.
            (Some(number), _) => Ok(number as Oid),
            (None, Some(name)) => ctx.resolve(reg, name),
            (None, None) => Ok(0),
        }
    }
}
