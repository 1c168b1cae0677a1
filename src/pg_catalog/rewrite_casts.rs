//! Casts to types that only Postgres has.
//!
//! A value of `regclass` and its kin is an OID that prints as a name. Arrow has no such type, so a cast becomes one of two
//! functions by where it stands: `regclass_name(x)` where it is shown or cast to text, `regclass_oid(x)` where it is compared.
//! Both take an OID as well as a name. `pg_catalog.int4` and `"char"` become the types they are held as.

use datafusion::sql::sqlparser::ast::{
    Array, ArrayElemTypeDef, DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident,
    ObjectName, Value,
};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;

use super::function_list::REG_TYPES;
use super::rewrite::{call, last_part};
use super::rewrite_access::ends_in_vector;

/// A cast anywhere but in the list of what is shown.
pub(super) fn cast(expr: &mut Expr) {
    let Expr::Cast { expr: operand, data_type, .. } = expr else { return };
    if let Some(reg) = reg_type(data_type) {
        *expr = call(&format!("{reg}_oid"), vec![typed(operand)]);
        return;
    }
    if matches!(bare_name(data_type).as_deref(), Some("text" | "varchar" | "name")) {
        match unnested(operand) {
            Expr::Cast { expr: inner, data_type: from, .. } => {
                if let Some(reg) = reg_type(from) {
                    *expr = call(&format!("{reg}_name"), vec![typed(inner)]);
                    return;
                }
            }
            Expr::Function(f) if to_reg(f).is_some() => {
                let mut named = unnested(operand).clone();
                rename_to_reg(&mut named, "name");
                *expr = named;
                return;
            }
            vector if ends_in_vector(vector) => {
                let blank = Expr::Value(Value::SingleQuotedString(" ".into()).into());
                *expr = call("array_to_string", vec![vector.clone(), blank]);
                return;
            }
            _ => {}
        }
    }
    // A single name is a type of its own, as columns of system tables are.
    if bare_name(data_type).as_deref() != Some("name")
        && let Some(held) = held_type(data_type)
    {
        *data_type = held;
    }
}

/// The `reg..` type that a call of `to_regclass` and its kin yields.
fn to_reg(function: &Function) -> Option<&'static str> {
    let name = last_part(&function.name)?.value.to_lowercase();
    let reg = name.strip_prefix("to_")?;
    REG_TYPES.into_iter().find(|r| *r == reg)
}

/// `to_regclass(x)` as one of its two functions: by name where it is shown, by OID where it is compared.
pub(super) fn rename_to_reg(expr: &mut Expr, suffix: &str) {
    if let Expr::Function(f) = expr
        && let Some(reg) = to_reg(f)
    {
        f.name = ObjectName::from(vec![Ident::new(format!("to_{reg}_{suffix}"))]);
    }
}

/// A cast whose value the client sees.
pub(super) fn shown(expr: &mut Expr) {
    rename_to_reg(expr, "name");
    if let Expr::Cast { expr: operand, data_type, .. } = expr
        && let Some(reg) = reg_type(data_type)
    {
        *expr = call(&format!("{reg}_name"), vec![typed(operand)]);
    }
}

/// `nextval('s'::regclass)`: the function takes the name.
pub(super) fn plain_sequence_name(function: &mut Function) {
    if let FunctionArguments::List(list) = &mut function.args
        && let Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(argument))) = list.args.first_mut()
        && let Expr::Cast { expr, data_type, .. } = argument
        && reg_type(data_type) == Some("regclass")
        && is_string(expr).is_some()
    {
        *argument = expr.as_ref().clone();
    }
}

fn unnested(expr: &Expr) -> &Expr {
    match expr {
        Expr::Nested(inner) => unnested(inner),
        other => other,
    }
}

/// A parameter whose type nothing else tells is a name.
fn typed(operand: &Expr) -> Expr {
    match operand {
        Expr::Value(v) if matches!(v.value, Value::Placeholder(_)) => Expr::Cast {
            kind: datafusion::sql::sqlparser::ast::CastKind::DoubleColon,
            expr: Box::new(operand.clone()),
            data_type: DataType::Text,
            array: false,
            format: None,
        },
        // '{t}'::text::regclass
        Expr::Cast { expr, data_type, .. } if bare_name(data_type).as_deref() == Some("text") => typed(expr),
        other => other.clone(),
    }
}

/// The `reg..` type, if it is one.
fn reg_type(data_type: &DataType) -> Option<&'static str> {
    let name = bare_name(data_type)?;
    REG_TYPES.into_iter().find(|reg| *reg == name)
}

/// Lower-case name without `pg_catalog.` and without arguments; the one-byte type is `"char"` with its quotes.
fn bare_name(data_type: &DataType) -> Option<String> {
    match data_type {
        DataType::Regclass => Some("regclass".into()),
        DataType::Text => Some("text".into()),
        DataType::Varchar(None) => Some("varchar".into()),
        DataType::Custom(name, arguments) if arguments.is_empty() && is_catalog_type(name) => {
            let ident = last_part(name)?;
            let quoted = ident.quote_style.is_some() && ident.value == "char";
            Some(if quoted { "\"char\"".into() } else { ident.value.to_lowercase() })
        }
        _ => None,
    }
}

fn is_catalog_type(name: &ObjectName) -> bool {
    match name.0.as_slice() {
        [_] => true,
        [schema, _] => schema.as_ident().is_some_and(|s| s.value.eq_ignore_ascii_case("pg_catalog")),
        _ => false,
    }
}

/// The type as DataFusion knows it; `None`: as it is.
fn held_type(data_type: &DataType) -> Option<DataType> {
    if let DataType::Array(element) = data_type {
        let (ArrayElemTypeDef::SquareBracket(item, _) | ArrayElemTypeDef::AngleBracket(item)) = element else {
            return None;
        };
        return held_type(item).map(|held| DataType::Array(ArrayElemTypeDef::SquareBracket(Box::new(held), None)));
    }
    let name = bare_name(data_type)?;
    Some(match name.as_str() {
        "oid" | "xid" | "cid" => DataType::Integer(None),
        "name" | "\"char\"" | "cstring" | "pg_node_tree" | "aclitem" => DataType::Text,
        reg if REG_TYPES.contains(&reg) => DataType::Integer(None),
        qualified if matches!(data_type, DataType::Custom(name, _) if name.0.len() == 2) => {
            let held = Parser::new(&PostgreSqlDialect {}).try_with_sql(qualified).and_then(|mut p| p.parse_data_type());
            held.ok()?
        }
        _ => return None,
    })
}

fn is_string(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Value(v) => match &v.value {
            Value::SingleQuotedString(text) => Some(text),
            _ => None,
        },
        _ => None,
    }
}

/// The elements of `ARRAY[..]` or of `'{..}'`, cast or not.
pub(super) fn array_items(expr: &Expr) -> Option<Vec<Expr>> {
    match expr {
        Expr::Nested(inner) => array_items(inner),
        Expr::Array(Array { elem, .. }) => Some(elem.clone()),
        Expr::Cast { expr, data_type: DataType::Array(_), .. } => array_items(expr),
        other => is_string(other).and_then(literal_items),
    }
}

/// Reads a one-dimensional array literal.
fn literal_items(text: &str) -> Option<Vec<Expr>> {
    let body = text.trim().strip_prefix('{')?.strip_suffix('}')?;
    let mut items: Vec<(String, bool)> = vec![];
    let mut item = (String::new(), false);
    let (mut inside, mut chars) = (false, body.chars());
    while let Some(c) = chars.next() {
        match c {
            '\\' => item.0.extend(chars.next()),
            '"' => {
                inside = !inside;
                item.1 = true;
            }
            ',' if !inside => items.push(std::mem::take(&mut item)),
            c if !inside && c.is_whitespace() => {}
            c => item.0.push(c),
        }
    }
    if !item.0.is_empty() || item.1 || !items.is_empty() {
        items.push(item);
    }
    let value = |(text, quoted): (String, bool)| match text.as_str() {
        "NULL" | "null" if !quoted => Value::Null,
        _ => Value::SingleQuotedString(text),
    };
    Some(items.into_iter().map(|item| Expr::Value(value(item).into())).collect())
}
