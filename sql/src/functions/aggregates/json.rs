//! `json_agg`, `json_object_agg` and their jsonb forms.
//!
//! ```text
//!   json_agg(x)           x ─────────────▶ array_agg's accumulator ─▶ list ─▶ [x1, x2]
//!   json_object_agg(k, v) "k" : v, a text ─▶ array_agg's accumulator ─▶ list ─▶ { "k1" : v1, "k2" : v2 }
//! ```
//!
//! ORDER BY, DISTINCT, FILTER, merging and the state are array_agg's.

use std::mem::size_of_val;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray, StringArray};
use datafusion::arrow::compute::SortOptions;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::ScalarValue;
use datafusion::error::Result as DfResult;
use datafusion::functions_aggregate::array_agg::array_agg_udaf;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, ReversedUDAF, Signature, Volatility,
};
use datafusion::physical_expr::PhysicalSortExpr;
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, SqlState};

use crate::functions::clock::Clock;
use crate::functions::json::to_jsonb;
use crate::functions::json_edit::{write_json, write_key};

pub fn functions() -> Vec<AggregateUDF> {
    all(None)
}

/// The function of that name, for a session whose clocks show the time of `zone`: aggregates are not given its configuration.
pub fn in_zone(name: &str, zone: &str) -> Option<AggregateUDF> {
    all(Some(zone)).into_iter().find(|f| f.name() == name)
}

fn all(zone: Option<&str>) -> Vec<AggregateUDF> {
    let make = |name, shape, binary, arguments| {
        let signature = Signature::any(arguments, Volatility::Immutable);
        let zone = zone.map(str::to_string);
        AggregateUDF::new_from_impl(JsonAggregate { name, shape, binary, zone, signature, array_agg: array_agg_udaf() })
    };
    vec![
        make("json_agg", Shape::Array, false, 1),
        make("jsonb_agg", Shape::Array, true, 1),
        make("json_object_agg", Shape::Object, false, 2),
        make("jsonb_object_agg", Shape::Object, true, 2),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Shape {
    Array,
    Object,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct JsonAggregate {
    name: &'static str,
    shape: Shape,
    /// Gives jsonb.
    binary: bool,
    /// None: UTC.
    zone: Option<String>,
    signature: Signature,
    array_agg: Arc<AggregateUDF>,
}

/// How arguments become elements of a list, and the list JSON.
#[derive(Debug, Clone)]
struct Writer {
    shape: Shape,
    binary: bool,
    /// Of the arguments.
    types: Vec<SqlType>,
    clock: Clock,
}

impl Writer {
    /// What array_agg is given: one column of elements, then the columns of an ORDER BY.
    fn elements(&self, values: &[ArrayRef]) -> Result<Vec<ArrayRef>> {
        if self.shape == Shape::Array {
            return Ok(values.to_vec());
        }
        let (arguments, order) = values.split_at(self.types.len());
        let members: StringArray =
            (0..arguments[0].len()).map(|row| self.member(arguments, row).map(Some)).collect::<Result<_>>()?;
        let mut elements: Vec<ArrayRef> = vec![Arc::new(members)];
        elements.extend(order.iter().map(Arc::clone));
        Ok(elements)
    }

    fn member(&self, arguments: &[ArrayRef], row: usize) -> Result<String> {
        if arguments[0].is_null(row) {
            return Err(Error::new(SqlState::InvalidParameterValue, "field name must not be null"));
        }
        let mut member = String::new();
        write_key(&arguments[0], row, &self.types[0], &self.clock, &mut member)?;
        member.push_str(" : ");
        write_json(&arguments[1], row, &self.types[1], &self.clock, &mut member)?;
        Ok(member)
    }

    fn json(&self, elements: &ArrayRef) -> Result<String> {
        let mut out = String::from(if self.shape == Shape::Array { "[" } else { "{ " });
        let structured = matches!(self.types[0], SqlType::Struct(_) | SqlType::Array(_));
        for row in 0..elements.len() {
            if row > 0 {
                out.push_str(", ");
            }
            match self.shape {
                Shape::Array => {
                    // As PostgreSQL lays out rows and arrays.
                    if row > 0 && structured && elements.is_valid(row) {
                        out.push_str("\n ");
                    }
                    write_json(elements, row, &self.types[0], &self.clock, &mut out)?;
                }
                Shape::Object => out.push_str(elements.as_string::<i32>().value(row)),
            }
        }
        out.push_str(if self.shape == Shape::Array { "]" } else { " }" });
        if self.binary { to_jsonb(&out) } else { Ok(out) }
    }

    /// Each list as JSON; NULL where nothing was aggregated.
    fn finish(&self, lists: &ArrayRef) -> Result<StringArray> {
        let lists = lists.as_list::<i32>();
        lists.iter().map(|elements| elements.map(|e| self.json(&e)).transpose()).collect()
    }
}

impl JsonAggregate {
    fn writer(&self, args: &AccumulatorArgs) -> Result<Writer> {
        let types = args.expr_fields.iter().map(|f| SqlType::from_field(f)).collect();
        let clock = self.zone.as_deref().map_or(Ok(Clock::UTC), Clock::named)?;
        Ok(Writer { shape: self.shape, binary: self.binary, types, clock })
    }

    fn element_field(&self, arguments: &[FieldRef]) -> FieldRef {
        match (self.shape, arguments.first()) {
            (Shape::Array, Some(argument)) => Arc::clone(argument),
            _ => Arc::new(Field::new("member", DataType::Utf8, true)),
        }
    }

    /// Calls `make` with what array_agg is to know of this call.
    fn as_array_agg<T>(
        &self,
        args: AccumulatorArgs,
        make: impl FnOnce(&AggregateUDF, AccumulatorArgs) -> DfResult<T>,
    ) -> DfResult<T> {
        let element = self.element_field(args.expr_fields);
        let list = Field::new_list("elements", Field::new_list_field(element.data_type().clone(), true), true);
        // DISTINCT sorts in PostgreSQL, and what it gives is in that order.
        let sorted: Vec<PhysicalSortExpr> = if args.is_distinct && args.order_bys.is_empty() {
            let options = SortOptions { descending: false, nulls_first: false };
            args.exprs.iter().map(|expr| PhysicalSortExpr::new(Arc::clone(expr), options)).collect()
        } else {
            args.order_bys.to_vec()
        };
        let fields = [element];
        make(
            &self.array_agg,
            AccumulatorArgs { return_field: Arc::new(list), expr_fields: &fields, order_bys: &sorted, ..args },
        )
    }

    fn check(&self, args: &AccumulatorArgs) -> Result<()> {
        if !args.is_distinct {
            return Ok(());
        }
        if self.shape == Shape::Object {
            return Err(Error::unsupported(format!("{}(DISTINCT ..) is not supported", self.name))
                .with_hint("Take distinct rows in a subquery."));
        }
        if args.expr_fields.first().is_some_and(|f| SqlType::from_field(f) == SqlType::Json) {
            let message = "could not identify an equality operator for type json";
            return Err(Error::new(SqlState::UndefinedFunction, message).with_hint("Cast to jsonb."));
        }
        Ok(())
    }
}

impl AggregateUDFImpl for JsonAggregate {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        Ok(DataType::Utf8)
    }

    fn return_field(&self, _: &[FieldRef]) -> DfResult<FieldRef> {
        let sql_type = if self.binary { SqlType::Jsonb } else { SqlType::Json };
        Ok(sql_type.to_field_ref(self.name, true))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> DfResult<Vec<FieldRef>> {
        let element = [self.element_field(args.input_fields)];
        self.array_agg.state_fields(StateFieldsArgs { input_fields: &element, ..args })
    }

    fn accumulator(&self, args: AccumulatorArgs) -> DfResult<Box<dyn Accumulator>> {
        self.check(&args)?;
        let writer = self.writer(&args)?;
        let list = self.as_array_agg(args, |array_agg, args| array_agg.accumulator(args))?;
        Ok(Box::new(JsonOne { writer, list }))
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        self.array_agg.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> DfResult<Box<dyn GroupsAccumulator>> {
        let writer = self.writer(&args)?;
        let lists = self.as_array_agg(args, |array_agg, args| array_agg.create_groups_accumulator(args))?;
        Ok(Box::new(JsonGroups { writer, lists }))
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.array_agg.order_sensitivity()
    }

    fn with_beneficial_ordering(self: Arc<Self>, beneficial: bool) -> DfResult<Option<Arc<dyn AggregateUDFImpl>>> {
        let array_agg = self.array_agg.as_ref().clone().with_beneficial_ordering(beneficial)?;
        Ok(array_agg.map(|array_agg| {
            let ordered = Self { array_agg: Arc::new(array_agg), ..self.as_ref().clone() };
            Arc::new(ordered) as Arc<dyn AggregateUDFImpl>
        }))
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::NotSupported
    }
}

#[derive(Debug)]
struct JsonOne {
    writer: Writer,
    list: Box<dyn Accumulator>,
}

impl Accumulator for JsonOne {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        self.list.update_batch(&self.writer.elements(values)?)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        self.list.retract_batch(&self.writer.elements(values)?)
    }

    fn supports_retract_batch(&self) -> bool {
        self.list.supports_retract_batch()
    }

    fn evaluate(&mut self) -> DfResult<ScalarValue> {
        ScalarValue::try_from_array(&self.writer.finish(&self.list.evaluate()?.to_array()?)?, 0)
    }

    fn state(&mut self) -> DfResult<Vec<ScalarValue>> {
        self.list.state()
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> DfResult<()> {
        self.list.merge_batch(states)
    }

    fn size(&self) -> usize {
        size_of_val(&self.writer) + self.list.size()
    }
}

struct JsonGroups {
    writer: Writer,
    lists: Box<dyn GroupsAccumulator>,
}

impl GroupsAccumulator for JsonGroups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> DfResult<()> {
        self.lists.update_batch(&self.writer.elements(values)?, groups, filter, total)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> DfResult<ArrayRef> {
        Ok(Arc::new(self.writer.finish(&self.lists.evaluate(emit_to)?)?))
    }

    fn state(&mut self, emit_to: EmitTo) -> DfResult<Vec<ArrayRef>> {
        self.lists.state(emit_to)
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], total: usize) -> DfResult<()> {
        self.lists.merge_batch(states, groups, total)
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> DfResult<Vec<ArrayRef>> {
        self.lists.convert_to_state(&self.writer.elements(values)?, filter)
    }

    fn size(&self) -> usize {
        size_of_val(&self.writer) + self.lists.size()
    }
}
