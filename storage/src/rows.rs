//! Rows as bytes whose order is the order of the rows, column after column: arrow's row format.
//!
//! ```text
//!   columns ──RowCodec::encode──▶ EncodedRows (one buffer, a slice a row) ──decode──▶ columns
//!
//!   ┌───────────┬──────────────┬─────────────┐   each column's bytes can be told apart without its neighbours, so the
//!   │ 01 │ i64  │ 02 │ "abc…"  │ 00 (null)   │   bytes of the first k columns are a prefix, and columns that nobody
//!   └───────────┴──────────────┴─────────────┘   asked for are stepped over, not decoded
//! ```
//!
//! NULL sorts before all values, text by its bytes, numbers by value.

use std::borrow::Cow;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayData, ArrayRef, make_array, new_null_array};
use datafusion::arrow::buffer::Buffer;
use datafusion::arrow::compute::{SortOptions, cast};
use datafusion::arrow::datatypes::{ArrowNativeType, DataType, FieldRef};
use datafusion::arrow::row::{RowConverter, RowParser, Rows, SortField};
use datafusion::scalar::ScalarValue;
use tidemark_common::{Error, Result};

/// Encodes and decodes rows of given columns.
#[derive(Debug)]
pub struct RowCodec {
    columns: Vec<ColumnCodec>,
    /// `None`: no columns, so every row is empty.
    whole: Option<(RowConverter, RowParser)>,
    /// Whether values that compare equal must have equal bytes.
    for_keys: bool,
    /// NULL in each of the last columns, which rows may be without.
    added: Vec<Vec<u8>>,
}

#[derive(Debug)]
struct ColumnCodec {
    data_type: DataType,
    sort_field: SortField,
    converter: RowConverter,
    parser: RowParser,
    width: Width,
}

/// Encoded rows, in one buffer.
#[derive(Debug)]
pub struct EncodedRows {
    rows: Option<Rows>,
    len: usize,
}

impl EncodedRows {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn row(&self, index: usize) -> &[u8] {
        assert!(index < self.len, "row {index} of {}", self.len);
        self.rows.as_ref().map_or(&[], |rows| rows.row(index).data())
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        (0..self.len).map(|i| self.row(i))
    }

    /// Bytes of memory.
    pub fn size(&self) -> usize {
        self.rows.as_ref().map_or(0, Rows::size)
    }
}

impl RowCodec {
    /// Keeps every value as it is, -0.0 apart from 0.0.
    pub fn new(fields: &[FieldRef]) -> Result<Self> {
        Self::build(fields, &[], false)
    }

    /// Orders rows as an ORDER BY of all columns does, with one of `options` for each. Keeps every value as it is.
    pub fn sorted(fields: &[FieldRef], options: &[SortOptions]) -> Result<Self> {
        Self::build(fields, options, false)
    }

    /// For keys: -0.0 becomes 0.0 and every NaN the same NaN, as SQL compares them.
    pub fn for_keys(fields: &[FieldRef]) -> Result<Self> {
        Self::build(fields, &[], fields.iter().any(|f| holds_floats(f.data_type())))
    }

    /// `options` may be missing: ascending, NULL first.
    fn build(fields: &[FieldRef], options: &[SortOptions], for_keys: bool) -> Result<Self> {
        let options = options.iter().copied().chain(std::iter::repeat(SortOptions::default()));
        let columns = fields.iter().zip(options).map(|(f, o)| ColumnCodec::new(f, o)).collect::<Result<Vec<_>>>()?;
        let whole = if fields.is_empty() {
            None
        } else {
            let converter = RowConverter::new(columns.iter().map(|c| c.sort_field.clone()).collect())?;
            let parser = converter.parser();
            Some((converter, parser))
        };
        Ok(Self { columns, whole, for_keys, added: Vec::new() })
    }

    /// Rows may be without some of the last `added` columns, which came later: these are NULL.
    pub fn with_added(mut self, added: usize) -> Result<Self> {
        let first = self.columns.len() - added;
        if added > 0 && self.columns.iter().any(|column| column.width.is_opaque()) {
            return Err(Error::unsupported("a column cannot be added beside values whose length is not known"));
        }
        let null = |column: &ColumnCodec| -> Result<Vec<u8>> {
            let rows = column.converter.convert_columns(&[new_null_array(&column.data_type, 1)])?;
            Ok(rows.row(0).data().to_vec())
        };
        self.added = self.columns[first..].iter().map(null).collect::<Result<_>>()?;
        Ok(self)
    }

    pub fn num_columns(&self) -> usize {
        self.columns.len()
    }

    /// `columns` must be at least one; see [`RowCodec::encode_rows`].
    pub fn encode(&self, columns: &[ArrayRef]) -> Result<EncodedRows> {
        let num_rows = columns.first().map_or(0, |c| c.len());
        self.encode_rows(columns, num_rows)
    }

    /// As [`RowCodec::encode`], for a codec that may have no columns, where only the caller knows how many rows there are.
    pub fn encode_rows(&self, columns: &[ArrayRef], num_rows: usize) -> Result<EncodedRows> {
        let mut encoded = self.empty();
        self.encode_into(columns, num_rows, &mut encoded)?;
        Ok(encoded)
    }

    /// A buffer of this codec for [`RowCodec::encode_into`].
    pub fn empty(&self) -> EncodedRows {
        EncodedRows { rows: self.whole.as_ref().map(|(converter, _)| converter.empty_rows(0, 0)), len: 0 }
    }

    /// Replaces what `encoded`, a buffer of this codec, holds.
    pub fn encode_into(&self, columns: &[ArrayRef], num_rows: usize, encoded: &mut EncodedRows) -> Result<()> {
        if columns.len() != self.columns.len() {
            let (got, expected) = (columns.len(), self.columns.len());
            return Err(Error::internal(format!("a row codec of {expected} columns got {got}")));
        }
        if let (Some((converter, _)), Some(rows)) = (&self.whole, &mut encoded.rows) {
            rows.clear();
            if self.for_keys {
                let normal = columns.iter().map(normalized).collect::<Result<Vec<_>>>()?;
                converter.append(rows, &normal)?;
            } else {
                converter.append(rows, columns)?;
            }
        }
        encoded.len = num_rows;
        Ok(())
    }

    /// The bytes with which all rows start whose first columns are `values`, arrays of one row each.
    pub fn encode_prefix(&self, values: &[ArrayRef]) -> Result<Vec<u8>> {
        let mut prefix = Vec::new();
        for (column, value) in self.columns.iter().zip(values) {
            let value = if self.for_keys { normalized(value)? } else { Arc::clone(value) };
            prefix.extend_from_slice(column.converter.convert_columns(&[value])?.row(0).data());
        }
        Ok(prefix)
    }

    /// The bytes with which all rows start whose first columns are those of `values`; one element a row of these.
    pub fn encode_prefixes(&self, values: &[ArrayRef]) -> Result<Vec<Vec<u8>>> {
        let mut prefixes = vec![Vec::new(); values.first().map_or(0, |column| column.len())];
        for (column, values) in self.columns.iter().zip(values) {
            let values = if self.for_keys { normalized(values)? } else { Arc::clone(values) };
            let encoded = column.converter.convert_columns(&[values])?;
            prefixes.iter_mut().zip(encoded.iter()).for_each(|(prefix, row)| prefix.extend_from_slice(row.data()));
        }
        Ok(prefixes)
    }

    /// Appends the bytes of the row of these values, one for each column and none of them NULL, without arrays. False: there is a
    /// value of a type that only arrow encodes, or not of its column's, and `out` holds rubbish.
    pub fn encode_values<'a>(&self, values: impl IntoIterator<Item = &'a ScalarValue>, out: &mut Vec<u8>) -> bool {
        self.columns.iter().zip(values).all(|(column, value)| {
            match (&column.data_type, value) {
                (DataType::Int16, ScalarValue::Int16(Some(v))) => put_value(out, (*v as u16 ^ 1 << 15).to_be_bytes()),
                (DataType::Int32, ScalarValue::Int32(Some(v))) => put_value(out, (*v as u32 ^ 1 << 31).to_be_bytes()),
                (DataType::Int64, ScalarValue::Int64(Some(v))) => put_value(out, (*v as u64 ^ 1 << 63).to_be_bytes()),
                (DataType::Utf8, ScalarValue::Utf8(Some(v))) => put_blocks(out, v.as_bytes()),
                _ => return false,
            }
            !column.width.is_opaque()
        })
    }

    /// All columns of rows that this codec encoded.
    pub fn decode<'a>(&self, rows: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<ArrayRef>> {
        let Some((converter, parser)) = &self.whole else { return Ok(Vec::new()) };
        let parsed: Vec<_> = rows.into_iter().map(|row| parser.parse(row)).collect();
        let decoded = converter.convert_rows(parsed)?;
        decoded.into_iter().zip(&self.columns).map(|(array, column)| column.typed(array)).collect()
    }

    /// The columns numbered `wanted`, in that order; the others are stepped over.
    pub fn decode_columns(&self, rows: &[&[u8]], wanted: &[usize]) -> Result<Vec<ArrayRef>> {
        if self.added.is_empty() {
            return self.decode_whole(rows, wanted);
        }
        let whole: Vec<Cow<'_, [u8]>> = rows.iter().map(|row| self.completed(row)).collect();
        self.decode_whole(&whole.iter().map(AsRef::as_ref).collect::<Vec<_>>(), wanted)
    }

    /// The row as it is stored: without the last of its columns that came later, as long as they are NULL.
    pub fn stored<'a>(&self, row: &'a [u8]) -> &'a [u8] {
        if self.added.is_empty() {
            return row;
        }
        let first = self.columns.len() - self.added.len();
        let (mut at, mut end) = (0, 0);
        for (index, column) in self.columns.iter().enumerate() {
            let len = column.width.measure(&row[at..]);
            if index < first || row[at..at + len] != *self.added[index - first] {
                end = at + len;
            }
            at += len;
        }
        &row[..end]
    }

    /// The row with NULL in the columns that it is without.
    fn completed<'a>(&self, row: &'a [u8]) -> Cow<'a, [u8]> {
        let first = self.columns.len() - self.added.len();
        let mut at = 0;
        for (index, column) in self.columns.iter().enumerate() {
            if index >= first && at == row.len() {
                return [row, &self.added[index - first..].concat()].concat().into();
            }
            at += column.width.measure(&row[at..]);
        }
        row.into()
    }

    fn decode_whole(&self, rows: &[&[u8]], wanted: &[usize]) -> Result<Vec<ArrayRef>> {
        let all = wanted.len() == self.columns.len() && wanted.iter().enumerate().all(|(i, &c)| i == c);
        let Some(&last) = wanted.iter().max() else { return Ok(Vec::new()) };
        if all || self.columns[..=last].iter().any(|c| c.width.is_opaque()) {
            let columns = self.decode(rows.iter().copied())?;
            return Ok(wanted.iter().map(|&c| Arc::clone(&columns[c])).collect());
        }
        let mut rest = rows.to_vec();
        let mut decoded: Vec<Option<ArrayRef>> = vec![None; last + 1];
        for (index, column) in self.columns[..=last].iter().enumerate() {
            if wanted.contains(&index) {
                decoded[index] = Some(column.decode_first(&mut rest)?);
            } else {
                column.width.skip_all(&mut rest);
            }
        }
        wanted
            .iter()
            .map(|&c| decoded[c].clone().ok_or_else(|| Error::internal(format!("column {c} was not decoded"))))
            .collect()
    }
}

impl ColumnCodec {
    fn new(field: &FieldRef, options: SortOptions) -> Result<Self> {
        let data_type = field.data_type().clone();
        let sort_field = SortField::new_with_options(data_type.clone(), options);
        if !RowConverter::supports_fields(std::slice::from_ref(&sort_field)) {
            return Err(Error::unsupported(format!(
                "column \"{}\": values of type {data_type} cannot be stored",
                field.name()
            ))
            .with_hint("Cast it to a type that SQL can name."));
        }
        let converter = RowConverter::new(vec![sort_field.clone()])?;
        let parser = converter.parser();
        // The markers that widths are read from are other ones in another order.
        let width = if options == SortOptions::default() { Width::of(&data_type) } else { Width::Opaque };
        Ok(Self { data_type, sort_field, converter, parser, width })
    }

    /// Decodes this column from the front of each row and takes it off.
    fn decode_first(&self, rest: &mut [&[u8]]) -> Result<ArrayRef> {
        let mut parsed = Vec::with_capacity(rest.len());
        for row in rest {
            let (mine, others) = row.split_at(self.width.measure(row));
            parsed.push(self.parser.parse(mine));
            *row = others;
        }
        let mut arrays = self.converter.convert_rows(parsed)?;
        let array = arrays.pop().ok_or_else(|| Error::internal("a column decoded to nothing"))?;
        self.typed(array)
    }

    /// The row format forgets dictionaries; the schema does not.
    fn typed(&self, array: ArrayRef) -> Result<ArrayRef> {
        if *array.data_type() == self.data_type { Ok(array) } else { Ok(cast(&array, &self.data_type)?) }
    }
}

/// How the bytes of one value tell their length.
#[derive(Debug, Clone, PartialEq)]
enum Width {
    Fixed(usize),
    /// Text or bytes in blocks.
    Blocks,
    /// Items in blocks, up to an empty one.
    Items,
    /// A marker, then the fields, also when null.
    Fields(Vec<Width>),
    /// A marker, then so many items unless null.
    Repeated(usize, Box<Width>),
    /// Only the decoder knows.
    Opaque,
}

impl Width {
    fn of(data_type: &DataType) -> Width {
        match data_type {
            DataType::Null | DataType::Boolean => Width::Fixed(2),
            DataType::Utf8
            | DataType::LargeUtf8
            | DataType::Utf8View
            | DataType::Binary
            | DataType::LargeBinary
            | DataType::BinaryView => Width::Blocks,
            DataType::FixedSizeBinary(n) => Width::Fixed(1 + *n as usize),
            DataType::List(_)
            | DataType::LargeList(_)
            | DataType::ListView(_)
            | DataType::LargeListView(_)
            | DataType::Map(..) => Width::Items,
            DataType::Struct(fields) => {
                let widths: Vec<Width> = fields.iter().map(|f| Width::of(f.data_type())).collect();
                if widths.contains(&Width::Opaque) { Width::Opaque } else { Width::Fields(widths) }
            }
            DataType::FixedSizeList(item, n) => match Width::of(item.data_type()) {
                Width::Opaque => Width::Opaque,
                width => Width::Repeated(*n as usize, Box::new(width)),
            },
            DataType::Dictionary(_, values) => Width::of(values),
            other => other.primitive_width().map_or(Width::Opaque, |bytes| Width::Fixed(1 + bytes)),
        }
    }

    fn is_opaque(&self) -> bool {
        *self == Width::Opaque
    }

    /// Takes this value off the front of each row.
    fn skip_all(&self, rows: &mut [&[u8]]) {
        match self {
            Width::Fixed(n) => rows.iter_mut().for_each(|row| *row = &row[*n..]),
            _ => rows.iter_mut().for_each(|row| *row = &row[self.measure(row)..]),
        }
    }

    /// The length of the value at the start of `row`.
    fn measure(&self, row: &[u8]) -> usize {
        match self {
            Width::Fixed(n) => *n,
            Width::Blocks => blocks_len(row),
            Width::Items => {
                let mut at = 0;
                loop {
                    let len = blocks_len(&row[at..]);
                    at += len;
                    if len <= 1 {
                        return at;
                    }
                }
            }
            Width::Fields(fields) => fields.iter().fold(1, |at, field| at + field.measure(&row[at..])),
            Width::Repeated(_, _) if row[0] == NULL => 1,
            Width::Repeated(n, item) => (0..*n).fold(1, |at, _| at + item.measure(&row[at..])),
            Width::Opaque => row.len(),
        }
    }
}

/// Markers and sizes of the row format's variable-length values: four blocks of 8 bytes, then blocks of 32, each followed
/// by its length or by a sign that there are more.
const NULL: u8 = 0;
const EMPTY: u8 = 1;
const NOT_EMPTY: u8 = 2;
const MORE: u8 = 0xff;
const FIRST_BLOCKS: usize = 4;
const FIRST_BLOCK: usize = 8;
const BLOCK: usize = 32;

/// A value of fixed width: the marker of what is not NULL, then its bytes.
fn put_value<const N: usize>(out: &mut Vec<u8>, bytes: [u8; N]) {
    out.push(1);
    out.extend_from_slice(&bytes);
}

/// Text or bytes, as [`blocks_len`] finds their end.
fn put_blocks(out: &mut Vec<u8>, bytes: &[u8]) {
    if bytes.is_empty() {
        return out.push(EMPTY);
    }
    out.push(NOT_EMPTY);
    let (first, others) = bytes.split_at(bytes.len().min(FIRST_BLOCKS * FIRST_BLOCK));
    let blocks = first.chunks(FIRST_BLOCK).map(|b| (b, FIRST_BLOCK)).chain(others.chunks(BLOCK).map(|b| (b, BLOCK)));
    let mut left = bytes.len();
    for (block, size) in blocks {
        left -= block.len();
        out.extend_from_slice(block);
        out.resize(out.len() + size - block.len(), 0);
        out.push(if left > 0 { MORE } else { block.len() as u8 });
    }
}

fn blocks_len(row: &[u8]) -> usize {
    if row[0] != NOT_EMPTY {
        return 1;
    }
    let mut at = 1;
    for _ in 0..FIRST_BLOCKS {
        at += FIRST_BLOCK + 1;
        if row[at - 1] != MORE {
            return at;
        }
    }
    loop {
        at += BLOCK + 1;
        if row[at - 1] != MORE {
            return at;
        }
    }
}

/// Whether [`RowCodec::for_keys`] gives every value of this type back as it was.
pub fn keys_keep_values(data_type: &DataType) -> bool {
    !holds_floats(data_type)
}

fn holds_floats(data_type: &DataType) -> bool {
    holds(data_type, &|t| matches!(t, DataType::Float16 | DataType::Float32 | DataType::Float64))
}

/// Whether SQL's order and equality of values are those of their bytes; `for_keys`: in a codec for keys.
pub(crate) fn orders_as_sql(data_type: &DataType, for_keys: bool) -> bool {
    // '1 month' = '30 days', but they are kept apart.
    !holds(data_type, &|t| matches!(t, DataType::Interval(_))) && (for_keys || !holds_floats(data_type))
}

/// Whether values of this type are, or contain, values of a type that `is` says.
fn holds(data_type: &DataType, is: &dyn Fn(&DataType) -> bool) -> bool {
    match data_type {
        DataType::List(f)
        | DataType::LargeList(f)
        | DataType::ListView(f)
        | DataType::LargeListView(f)
        | DataType::FixedSizeList(f, _)
        | DataType::Map(f, _) => holds(f.data_type(), is),
        DataType::Struct(fields) => fields.iter().any(|f| holds(f.data_type(), is)),
        DataType::Dictionary(_, values) => holds(values, is),
        other => is(other),
    }
}

fn normalized(array: &ArrayRef) -> Result<ArrayRef> {
    if !holds_floats(array.data_type()) {
        return Ok(Arc::clone(array));
    }
    Ok(make_array(normalized_data(array.to_data())?))
}

/// The same values, floats among them (however deep) with one zero and one NaN.
fn normalized_data(data: ArrayData) -> Result<ArrayData> {
    let rebuilt = match data.data_type() {
        DataType::Float64 => {
            let one = |v: f64| if v.is_nan() { f64::NAN } else { v + 0.0 };
            with_values(&data, one)
        }
        DataType::Float32 => {
            let one = |v: f32| if v.is_nan() { f32::NAN } else { v + 0.0 };
            with_values(&data, one)
        }
        DataType::Float16 => return Err(Error::unsupported("16-bit floats cannot be part of a key")),
        other if holds_floats(other) => {
            let children = data.child_data().iter().cloned().map(normalized_data).collect::<Result<Vec<_>>>()?;
            data.into_builder().child_data(children)
        }
        _ => return Ok(data),
    };
    Ok(rebuilt.build()?)
}

fn with_values<T: ArrowNativeType>(data: &ArrayData, f: impl Fn(T) -> T) -> datafusion::arrow::array::ArrayDataBuilder {
    let values: Vec<T> = data.buffer::<T>(0)[..data.len()].iter().map(|&v| f(v)).collect();
    ArrayData::builder(data.data_type().clone())
        .len(data.len())
        .nulls(data.nulls().cloned())
        .add_buffer(Buffer::from_vec(values))
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::arrow::array::*;
    use datafusion::arrow::datatypes::*;
    use expect_test::expect;
    use tidemark_common::types::SqlType;

    fn field(data_type: DataType) -> FieldRef {
        Arc::new(Field::new("c", data_type, true))
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// One column of every kind a table can have, three rows: values, other values, nulls.
    fn all_types() -> (Vec<FieldRef>, Vec<ArrayRef>) {
        let mut list = ListBuilder::new(StringBuilder::new());
        list.append_value([Some("x"), None]);
        list.append_value([] as [Option<&str>; 0]);
        list.append_null();
        let mut map = MapBuilder::new(None, StringBuilder::new(), Int32Builder::new());
        map.keys().append_value("k");
        map.values().append_value(1);
        map.append(true).unwrap();
        map.append(true).unwrap();
        map.append(false).unwrap();
        let pair = StructArray::new(
            Fields::from(vec![Field::new("a", DataType::Int32, true), Field::new("b", DataType::Utf8, true)]),
            vec![Arc::new(Int32Array::from(vec![1, 2, 3])), Arc::new(StringArray::from(vec!["p", "", "q"]))],
            Some(vec![true, true, false].into()),
        );
        let fixed_list = FixedSizeListArray::from_iter_primitive::<Int16Type, _, _>(
            vec![Some(vec![Some(1), Some(2)]), Some(vec![None, Some(3)]), None],
            2,
        );
        let dictionary: DictionaryArray<Int32Type> = vec![Some("d"), Some("e"), None].into_iter().collect();
        let long = "long text ".repeat(30);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(BooleanArray::from(vec![Some(true), Some(false), None])),
            Arc::new(Int16Array::from(vec![Some(-1), Some(300), None])),
            Arc::new(Int64Array::from(vec![Some(i64::MIN), Some(7), None])),
            Arc::new(Float64Array::from(vec![Some(-0.0), Some(f64::NAN), None])),
            Arc::new(
                Decimal128Array::from(vec![Some(-12345), Some(1), None]).with_precision_and_scale(38, 10).unwrap(),
            ),
            Arc::new(
                Decimal256Array::from(vec![Some(i256::from_i128(-5)), Some(i256::MAX), None])
                    .with_precision_and_scale(76, 2)
                    .unwrap(),
            ),
            Arc::new(StringArray::from(vec![Some(long.as_str()), Some(""), None])),
            Arc::new(BinaryArray::from(vec![Some(&[0u8, 255, 0][..]), Some(&[1u8; 32][..]), None])),
            Arc::new(Date32Array::from(vec![Some(-1), Some(20000), None])),
            Arc::new(Time64MicrosecondArray::from(vec![Some(1), Some(2), None])),
            Arc::new(TimestampMicrosecondArray::from(vec![Some(-5), Some(5), None]).with_timezone("UTC")),
            Arc::new(IntervalMonthDayNanoArray::from(vec![
                Some(IntervalMonthDayNano::new(1, -2, 3)),
                Some(IntervalMonthDayNano::new(-1, 2, -3)),
                None,
            ])),
            Arc::new(list.finish()),
            Arc::new(map.finish()),
            Arc::new(pair),
            Arc::new(fixed_list),
            Arc::new(dictionary),
            Arc::new(NullArray::new(3)),
            Arc::new(
                FixedSizeBinaryArray::try_from_sparse_iter_with_size(
                    vec![Some([1, 2]), Some([3, 4]), None].into_iter(),
                    2,
                )
                .unwrap(),
            ),
            Arc::new(StringViewArray::from(vec![Some("a view of some text"), Some("v"), None])),
            Arc::new(UInt64Array::from(vec![Some(u64::MAX), Some(0), None])),
        ];
        (columns.iter().map(|c| field(c.data_type().clone())).collect(), columns)
    }

    #[test]
    fn all_types_come_back() {
        let (fields, columns) = all_types();
        let codec = RowCodec::new(&fields).unwrap();
        let encoded = codec.encode(&columns).unwrap();
        let decoded = codec.decode(encoded.iter()).unwrap();
        for (before, after) in columns.iter().zip(&decoded) {
            assert_eq!(before.data_type(), after.data_type());
            assert_eq!(before, after);
        }
    }

    #[test]
    fn values_encode_as_arrays_do() {
        let texts = (0..100).map(|n| "äb\0c".repeat(n).chars().take(n).collect::<String>());
        let mut rows: Vec<[ScalarValue; 4]> = texts.map(|text| key(-1, 2, i64::MIN, &text)).collect();
        rows.extend([key(0, 0, 0, ""), key(i16::MIN, i32::MIN, 7, "x"), key(i16::MAX, i32::MAX, i64::MAX, "\u{ff}")]);
        let types = [DataType::Int16, DataType::Int32, DataType::Int64, DataType::Utf8];
        let codec = RowCodec::for_keys(&types.map(field)).unwrap();
        for row in &rows {
            let arrays: Vec<ArrayRef> = row.iter().map(|value| value.to_array().unwrap()).collect();
            let mut encoded = b"before".to_vec();
            assert!(codec.encode_values(row, &mut encoded));
            assert_eq!(encoded, [b"before", codec.encode(&arrays).unwrap().row(0)].concat(), "{row:?}");
        }
        for unknown in [ScalarValue::Int32(None), ScalarValue::Int64(Some(1)), ScalarValue::Null] {
            assert!(!RowCodec::new(&[field(DataType::Int32)]).unwrap().encode_values([&unknown], &mut Vec::new()));
        }
    }

    fn key(a: i16, b: i32, c: i64, d: &str) -> [ScalarValue; 4] {
        [ScalarValue::from(a), ScalarValue::from(b), ScalarValue::from(c), ScalarValue::from(d)]
    }

    #[test]
    fn columns_that_nobody_wants_are_stepped_over() {
        let (fields, columns) = all_types();
        let codec = RowCodec::new(&fields).unwrap();
        let encoded = codec.encode(&columns).unwrap();
        let rows: Vec<&[u8]> = encoded.iter().collect();
        for wanted in [vec![20], vec![0], vec![5, 2], vec![12, 13, 14, 15, 16, 17, 18], vec![], vec![19, 19, 3]] {
            let decoded = codec.decode_columns(&rows, &wanted).unwrap();
            assert_eq!(decoded.len(), wanted.len());
            for (column, index) in decoded.iter().zip(&wanted) {
                assert_eq!(column, &columns[*index]);
            }
        }
        // Every column alone, so that each width is measured right.
        for (last, column) in columns.iter().enumerate() {
            assert_eq!(&codec.decode_columns(&rows, &[last]).unwrap()[0], column, "column {last}");
        }
    }

    #[test]
    fn bytes_are_pinned() {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![Some(1), None])),
            Arc::new(StringArray::from(vec!["abc", ""])),
            Arc::new(Decimal128Array::from(vec![Some(-1), Some(1)]).with_precision_and_scale(10, 2).unwrap()),
            Arc::new(IntervalMonthDayNanoArray::from(vec![IntervalMonthDayNano::new(1, 2, 3); 2])),
            Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(vec![Some(vec![Some(5)]), None])),
        ];
        let fields: Vec<FieldRef> = columns.iter().map(|c| field(c.data_type().clone())).collect();
        let encoded = RowCodec::new(&fields).unwrap().encode(&columns).unwrap();
        let text: String = encoded.iter().map(|row| hex(row) + "\n").collect();
        expect![[r#"
            01800000000000000102616263000000000003017fffffffffffffffffffffffffffffff01800000018000000280000000000000030201800000050000000501
            000000000000000000010180000000000000000000000000000001018000000180000002800000000000000300
        "#]]
        .assert_eq(&text);
    }

    #[test]
    fn keys_have_one_zero_and_one_nan() {
        let odd_nan = f64::from_bits(0xfff8_0000_0000_0001);
        let a: ArrayRef = Arc::new(Float64Array::from(vec![Some(-0.0), Some(odd_nan), None]).slice(0, 3));
        let b: ArrayRef = Arc::new(Float64Array::from(vec![Some(0.0), Some(f64::NAN), None]));
        let fields = [field(DataType::Float64)];
        let keys = RowCodec::for_keys(&fields).unwrap();
        let (x, y) = (keys.encode(&[Arc::clone(&a)]).unwrap(), keys.encode(&[Arc::clone(&b)]).unwrap());
        assert!(x.iter().eq(y.iter()));
        let exact = RowCodec::new(&fields).unwrap();
        assert_ne!(exact.encode(&[a]).unwrap().row(0), exact.encode(&[b]).unwrap().row(0));

        let lists = |v: f32| -> ArrayRef {
            Arc::new(
                ListArray::from_iter_primitive::<Float32Type, _, _>(vec![None, Some(vec![Some(v)]), Some(vec![])])
                    .slice(1, 2),
            )
        };
        let keys = RowCodec::for_keys(&[field(lists(0.0).data_type().clone())]).unwrap();
        let (x, y) = (keys.encode(&[lists(-0.0)]).unwrap(), keys.encode(&[lists(0.0)]).unwrap());
        assert!(x.iter().eq(y.iter()));
    }

    #[test]
    fn bytes_order_as_values() {
        let numbers: ArrayRef = Arc::new(Float64Array::from(vec![
            None,
            Some(f64::NEG_INFINITY),
            Some(-1.5),
            Some(0.0),
            Some(1e300),
            Some(f64::NAN),
        ]));
        let codec = RowCodec::for_keys(&[field(DataType::Float64)]).unwrap();
        assert!(codec.encode(&[numbers]).unwrap().iter().is_sorted());
        let texts: ArrayRef =
            Arc::new(StringArray::from(vec![None, Some(""), Some("a"), Some("a\0"), Some("aa"), Some("b")]));
        let codec = RowCodec::new(&[field(DataType::Utf8)]).unwrap();
        assert!(codec.encode(&[texts]).unwrap().iter().is_sorted());
    }

    #[test]
    fn no_columns_and_metadata() {
        let codec = RowCodec::new(&[]).unwrap();
        let encoded = codec.encode_rows(&[], 3).unwrap();
        assert_eq!(encoded.iter().collect::<Vec<_>>(), [&[] as &[u8]; 3]);
        assert!(codec.decode(encoded.iter()).unwrap().is_empty());

        // Nested fields carry their SQL type in metadata: it must be there after decoding.
        let uuids = SqlType::Array(Box::new(SqlType::Uuid)).to_field_ref("u", true);
        let codec = RowCodec::new(&[Arc::clone(&uuids)]).unwrap();
        let decoded = codec.decode(codec.encode(&[new_null_array(uuids.data_type(), 1)]).unwrap().iter()).unwrap();
        assert_eq!(decoded[0].data_type(), uuids.data_type());
    }

    #[test]
    fn sorted_rows_order_as_order_by_says() {
        let options = [(true, true), (true, false), (false, false), (false, true)];
        for (descending, nulls_first) in options {
            let fields = [field(DataType::Utf8), field(DataType::Int64)];
            let first = SortOptions { descending, nulls_first };
            let codec = RowCodec::sorted(&fields, &[first, SortOptions::default()]).unwrap();
            let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("b"), None, Some(""), Some("ab"), Some("b")]));
            let numbers: ArrayRef = Arc::new(Int64Array::from(vec![Some(7), Some(1), None, Some(-1), Some(-7)]));
            let rows = codec.encode(&[Arc::clone(&texts), Arc::clone(&numbers)]).unwrap();
            let mut order: Vec<usize> = (0..5).collect();
            order.sort_by(|&a, &b| rows.row(a).cmp(rows.row(b)));
            let mut expected = if descending { vec![4, 0, 3, 2] } else { vec![2, 3, 4, 0] };
            expected.insert(if nulls_first { 0 } else { 4 }, 1);
            assert_eq!(order, expected, "{first:?}");
            let decoded = codec.decode(rows.iter()).unwrap();
            assert_eq!((&decoded[0], &decoded[1]), (&texts, &numbers));
            let picked = codec.decode_columns(&rows.iter().collect::<Vec<_>>(), &[1]).unwrap();
            assert_eq!(&picked[0], &numbers);
        }
    }

    #[test]
    fn columns_that_came_later_are_null() {
        let (fields, columns) = all_types();
        let all: Vec<usize> = (0..fields.len()).collect();
        for before in 0..fields.len() {
            let rows = RowCodec::new(&fields[..before]).unwrap().encode_rows(&columns[..before], 3).unwrap();
            let rows: Vec<&[u8]> = rows.iter().collect();
            let codec = RowCodec::new(&fields).unwrap().with_added(fields.len() - before).unwrap();
            let whole = RowCodec::new(&fields).unwrap().encode(&columns).unwrap();
            let decoded = codec.decode_columns(&[rows[0], whole.row(1), rows[2]], &all).unwrap();
            let without = codec.encode(&decoded).unwrap();
            for (at, stored) in [rows[0], whole.row(1), rows[2]].into_iter().enumerate() {
                assert_eq!(codec.stored(without.row(at)), stored, "{at} of {before}");
            }
            for (at, column) in decoded.iter().enumerate() {
                let is_null = column.logical_nulls().is_some_and(|nulls| nulls.is_null(0));
                assert!(is_null == (at >= before) || *column.data_type() == DataType::Null, "{at} of {before}");
                assert_eq!(&column.slice(1, 1), &columns[at].slice(1, 1), "{at} of {before}");
                if at < before {
                    assert_eq!(&column.slice(0, 1), &columns[at].slice(0, 1));
                }
            }
        }
    }
}
