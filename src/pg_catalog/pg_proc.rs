//! Functions as `\df` and drivers see them: those of the registry, and Postgres' input and output functions of types.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use datafusion::arrow::array::{AsArray, BooleanArray, RecordBatch};
use datafusion::arrow::compute::{concat_batches, filter_record_batch};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Int32Type};
use datafusion::execution::FunctionRegistry;
use datafusion::logical_expr::{ReturnFieldArgs, Signature, TypeSignature, Volatility};
use tidemark_catalog as catalog;
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Oid, Result};

use super::context::{SystemContext, find_type, format_type};
use super::facts::{FunctionFact, FunctionKind};
use super::information_schema::type_words;
use super::relation::{Relation, Rows, relation, row};
use super::static_tables::{proc_batch, static_batch};

/// Functions of the registry get the OIDs that Postgres leaves free below those of users' objects.
const FIRST_FUNCTION: Oid = 14000;
const LAST_FUNCTION: Oid = tidemark_common::FIRST_USER_OID - 1;
const ANY: Oid = 2276;
const INTERNAL_LANGUAGE: Oid = 12;
/// Further ways to call a function tell a reader of `\df` nothing new.
const MAX_OVERLOADS: usize = 8;

/// (OID, function) in the order of names.
pub fn numbered(functions: Vec<FunctionFact>) -> Vec<(Oid, FunctionFact)> {
    let functions: BTreeSet<FunctionFact> = functions.into_iter().collect();
    (FIRST_FUNCTION..=LAST_FUNCTION).zip(functions).collect()
}

fn find(ctx: &SystemContext, oid: Oid) -> Option<&FunctionFact> {
    let index = oid.checked_sub(FIRST_FUNCTION)?;
    ctx.functions().get(index as usize).map(|(_, f)| f)
}

pub fn function_oid(ctx: &SystemContext, name: &str) -> Option<Oid> {
    let postgres = || -> Option<Oid> {
        let batch = proc_batch().ok()?;
        let names = batch.column_by_name("proname")?.as_string::<i32>();
        let row = (0..batch.num_rows()).find(|i| names.value(*i) == name)?;
        Some(batch.column_by_name("oid")?.as_primitive::<Int32Type>().value(row) as Oid)
    };
    ctx.functions().iter().find(|(_, f)| f.name == name).map(|(oid, _)| *oid).or_else(postgres)
}

pub fn function_name(ctx: &SystemContext, oid: Oid) -> Option<String> {
    if let Some(function) = find(ctx, oid) {
        return Some(catalog::quote_ident(&function.name));
    }
    let batch = proc_batch().ok()?;
    let oids = batch.column_by_name("oid")?.as_primitive::<Int32Type>();
    let row = (0..batch.num_rows()).find(|i| oids.value(*i) as Oid == oid)?;
    Some(batch.column_by_name("proname")?.as_string::<i32>().value(row).to_string())
}

/// `pg_get_function_arguments`
pub fn arguments(ctx: &SystemContext, oid: Oid) -> Option<String> {
    find(ctx, oid).map(arguments_text)
}

fn arguments_text(function: &FunctionFact) -> String {
    let last = function.arguments.len().wrapping_sub(1);
    let shown = function
        .arguments
        .iter()
        .enumerate()
        .map(|(i, name)| if function.variadic && i == last { format!("VARIADIC {name}") } else { name.clone() });
    shown.collect::<Vec<_>>().join(", ")
}

/// `pg_get_function_result`
pub fn result(ctx: &SystemContext, oid: Oid) -> Option<String> {
    find(ctx, oid).map(|f| f.result.clone())
}

/// `pg_get_functiondef`
pub fn definition(ctx: &SystemContext, oid: Oid) -> Option<String> {
    let f = find(ctx, oid)?;
    let volatility = match f.volatility {
        'i' => "IMMUTABLE",
        's' => "STABLE",
        _ => "VOLATILE",
    };
    Some(format!(
        "CREATE OR REPLACE FUNCTION pg_catalog.{}({})\n RETURNS {}\n LANGUAGE internal\n {volatility}\nAS $function${}$function$\n",
        catalog::quote_ident(&f.name),
        arguments_text(f),
        f.result,
        f.name,
    ))
}

fn type_oid(name: &str) -> Oid {
    if name.contains("any") { ANY } else { find_type(name).unwrap_or(ANY) }
}

pub fn fill(name: &str, ctx: &SystemContext, rows: &mut Rows) -> Result<bool> {
    match name {
        "pg_proc" => {
            for (oid, f) in ctx.functions() {
                let types: Vec<i64> = f.arguments.iter().map(|a| type_oid(a).into()).collect();
                let kind = match f.kind {
                    FunctionKind::Scalar => 'f',
                    FunctionKind::Aggregate => 'a',
                    FunctionKind::Window => 'w',
                };
                row!(
                    rows, oid: *oid, proname: &f.name, pronamespace: catalog::PG_CATALOG, proowner: catalog::SUPERUSER,
                    prolang: INTERNAL_LANGUAGE, procost: 1.0, provariadic: if f.variadic { ANY } else { 0 },
                    prokind: kind, provolatile: f.volatility, proparallel: 's', pronargs: types.len() as i64,
                    prorettype: type_oid(&f.result), proargtypes: types, prosrc: &f.name,
                );
            }
        }
        "pg_aggregate" => {
            for (oid, _) in ctx.functions().iter().filter(|(_, f)| f.kind == FunctionKind::Aggregate) {
                row!(rows, aggfnoid: *oid, aggkind: 'n', aggfinalmodify: 'r', aggmfinalmodify: 'r');
            }
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// The rows of `pg_proc` that types name, which drivers look up (`typinput = 'array_in'::regproc`).
pub fn type_functions() -> Result<RecordBatch> {
    let missing = || Error::internal("pg_type and pg_proc lack their columns");
    let relation = |name| relation("pg_catalog", name).ok_or_else(missing);
    let types = static_batch(relation("pg_type")?)?.ok_or_else(missing)?;
    let mut named: HashSet<i32> = HashSet::new();
    for column in ["typinput", "typoutput", "typreceive", "typsend", "typmodin", "typmodout"] {
        named.extend(types.column_by_name(column).ok_or_else(missing)?.as_primitive::<Int32Type>().values());
    }
    let proc = proc_batch()?;
    let oids = proc.column_by_name("oid").ok_or_else(missing)?.as_primitive::<Int32Type>();
    let keep: BooleanArray = oids.values().iter().map(|oid| Some(named.contains(oid))).collect();
    Ok(filter_record_batch(&proc, &keep)?)
}

/// `pg_proc` whole.
pub fn with_type_functions(relation: &Relation, own: RecordBatch) -> Result<RecordBatch> {
    Ok(concat_batches(&relation.arrow, [&own, &type_functions()?])?)
}

pub fn routine_rows(view: &str, ctx: &SystemContext, rows: &mut Rows) {
    let db = &ctx.catalog.database;
    for (oid, f) in ctx.functions() {
        let specific = format!("{}_{oid}", f.name);
        let result = find_type(&f.result).map_or("USER-DEFINED".to_string(), |oid| format_type(oid, None));
        if view == "routines" {
            row!(
                rows, specific_catalog: db, specific_schema: "pg_catalog", specific_name: specific,
                routine_catalog: db, routine_schema: "pg_catalog", routine_name: &f.name,
                routine_type: (f.kind == FunctionKind::Scalar).then_some("FUNCTION"), type_udt_catalog: db,
                type_udt_schema: "pg_catalog", type_udt_name: &f.result, data_type: result, routine_body: "EXTERNAL",
                external_language: "INTERNAL", is_deterministic: if f.volatility == 'i' { "YES" } else { "NO" },
                security_type: "INVOKER",
            );
            continue;
        }
        for (i, argument) in f.arguments.iter().enumerate() {
            row!(
                rows, specific_catalog: db, specific_schema: "pg_catalog", specific_name: &specific,
                ordinal_position: i as i64 + 1, parameter_mode: "IN", is_result: "NO", as_locator: "NO",
                data_type: argument, udt_catalog: db, udt_schema: "pg_catalog", udt_name: argument,
                dtd_identifier: (i + 1).to_string(),
            );
        }
    }
}

/// What DataFusion's registry knows of its functions. Costs milliseconds: worth keeping.
pub fn registry_functions(registry: &dyn FunctionRegistry) -> Vec<FunctionFact> {
    let mut facts = BTreeSet::new();
    for name in registry.udfs() {
        if let Ok(udf) = registry.udf(&name) {
            let returns = |arguments: &[DataType]| {
                let fields = fields(arguments);
                let nothing = vec![None; fields.len()];
                let args = ReturnFieldArgs { arg_fields: &fields, scalar_arguments: &nothing };
                udf.return_field_from_args(args).ok()
            };
            add(&mut facts, &name, FunctionKind::Scalar, udf.signature(), returns);
        }
    }
    for name in registry.udafs() {
        if let Ok(udaf) = registry.udaf(&name) {
            let returns = |arguments: &[DataType]| udaf.return_field(&fields(arguments)).ok();
            add(&mut facts, &name, FunctionKind::Aggregate, udaf.signature(), returns);
        }
    }
    for name in registry.udwfs() {
        if let Ok(udwf) = registry.udwf(&name) {
            let returns = |arguments: &[DataType]| {
                udwf.field(datafusion::logical_expr::function::WindowUDFFieldArgs::new(&fields(arguments), &name)).ok()
            };
            add(&mut facts, &name, FunctionKind::Window, udwf.signature(), returns);
        }
    }
    facts.into_iter().collect()
}

fn fields(types: &[DataType]) -> Vec<FieldRef> {
    types.iter().map(|t| Arc::new(Field::new("a", t.clone(), true))).collect()
}

fn add(
    facts: &mut BTreeSet<FunctionFact>,
    name: &str,
    kind: FunctionKind,
    signature: &Signature,
    returns: impl Fn(&[DataType]) -> Option<FieldRef>,
) {
    let type_name = |data_type: &DataType| type_words(&SqlType::from_data_type(data_type)).data_type;
    let variadic = is_variadic(&signature.type_signature);
    let volatility = match signature.volatility {
        Volatility::Immutable => 'i',
        Volatility::Stable => 's',
        Volatility::Volatile => 'v',
    };
    let mut calls: Vec<(Vec<String>, String)> = vec![];
    for types in signature.type_signature.get_example_types() {
        let Some(field) = returns(&types) else { continue };
        let call = (types.iter().map(type_name).collect(), type_words(&SqlType::from_field(&field)).data_type);
        if !calls.contains(&call) && calls.len() < MAX_OVERLOADS {
            calls.push(call);
        }
    }
    if calls.is_empty() {
        calls.push((vec!["\"any\"".into()], "\"any\"".into()));
    }
    for (arguments, result) in calls {
        facts.insert(FunctionFact { name: name.into(), kind, arguments, variadic, result, volatility });
    }
}

fn is_variadic(signature: &TypeSignature) -> bool {
    match signature {
        TypeSignature::Variadic(_) | TypeSignature::VariadicAny | TypeSignature::UserDefined => true,
        TypeSignature::OneOf(all) => all.iter().any(is_variadic),
        _ => false,
    }
}
