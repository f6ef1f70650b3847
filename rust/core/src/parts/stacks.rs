//! Batches whose stacks of matrices become one row a matrix.

use std::borrow::Cow;
use std::sync::Arc;

use arrow_array::{
    ArrayRef, Float16Array, Float32Array, Float64Array, Int8Array, Int64Array, LargeBinaryArray,
    LargeListArray, RecordBatch, StringArray, UInt64Array,
};
use arrow_buffer::{Buffer, MutableBuffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_cast::cast;
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use arrow_select::take::take;

use super::cut::{MOST, Part};
use super::split::{Fate, cut_data};
use crate::container::meaning::Stack;
use crate::container::transpose;
use crate::dtype::{self, Float};
use crate::error::Error;
use crate::relation::bytes::Element;
use crate::relation::columns::shape_type;
use crate::relation::quantized::shapes;
use crate::relation::weights::{Weights, WeightsSchema};

/// The fields of the columns that say which matrix of a stack a row is.
pub(crate) fn stack_fields() -> [Field; 4] {
    [
        Field::new("stack_name", DataType::Utf8, true),
        Field::new("stack_index", DataType::Int64, true),
        Field::new("stack_shape", shape_type(), true),
        Field::new("stack_axis", DataType::Int8, true),
    ]
}

/// `schema` with those columns. Data become large lists or large_binary: matrices that are turned
/// around are put together anew.
pub fn schema(schema: &Schema) -> SchemaRef {
    let field = |field: &Arc<Field>| match (field.name().as_str(), field.data_type()) {
        ("layer_name", _) => Arc::new(Field::new("layer_name", DataType::Utf8, true)),
        ("shape", _) => Arc::new(Field::new("shape", shape_type(), true)),
        ("data", kind) => Arc::new(Field::new("data", data_type(kind), true)),
        _ => Arc::clone(field),
    };
    let mut fields: Vec<_> = schema.fields().iter().map(field).collect();
    if schema.index_of("shape").is_err() {
        fields.push(Arc::new(Field::new("shape", shape_type(), true)));
    }
    fields.extend(stack_fields().map(Arc::new));
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

fn data_type(kind: &DataType) -> DataType {
    match Element::of(kind) {
        Some(Element::Float(float)) => {
            let item = match float {
                Float::F64 => DataType::Float64,
                Float::F16 => DataType::Float16,
                _ => DataType::Float32,
            };
            DataType::LargeList(Arc::new(Field::new_list_field(item, true)))
        }
        _ => DataType::LargeBinary,
    }
}

/// A row of what comes out: its row of what came in, and which matrix of it.
struct Out {
    row: usize,
    matrix: Option<(usize, Stack, [usize; 2])>,
}

/// The batch with a row for each matrix of its stacks, and with the columns that say so. Rows that
/// can't be the stack that they are said to be stay as they are.
///
/// # Errors
/// The batch can't be read as weights.
pub fn split(batch: &RecordBatch, stacks: &[Option<Stack>]) -> Result<RecordBatch, Error> {
    let given = batch.schema();
    let has_data = batch.column_by_name("data").is_some();
    let weights = match has_data {
        true => WeightsSchema::try_new(&given)?.bind(batch)?,
        false => WeightsSchema::without_data(&given)?.bind(batch)?,
    };
    let mut rows = Vec::with_capacity(weights.len);
    for row in 0..weights.len {
        let stack = stacks.get(row).copied().flatten();
        match stack.and_then(|stack| Some((stack, source_shape(&weights, row, stack)?))) {
            Some((stack, source)) => rows.extend(
                (0..stack.count).map(|index| Out { row, matrix: Some((index, stack, source)) }),
            ),
            None => rows.push(Out { row, matrix: None }),
        }
    }
    let repeat = UInt64Array::from_iter_values(rows.iter().map(|out| out.row as u64));
    let out_schema = schema(&given);
    let mut columns = Vec::with_capacity(out_schema.fields().len());
    for (field, column) in given.fields().iter().zip(batch.columns()) {
        columns.push(match field.name().as_str() {
            "layer_name" => names(&weights, &rows),
            "shape" => matrix_shapes(&weights, &rows),
            "data" => data(&weights, &rows, column)?,
            _ => take(column, &repeat, None)?,
        });
    }
    if given.index_of("shape").is_err() {
        columns.push(matrix_shapes(&weights, &rows));
    }
    columns.extend(stack_columns(&weights, &rows));
    Ok(RecordBatch::try_new(out_schema, columns)?)
}

/// Rows and columns of each matrix as it lies in the stack.
fn source_shape(weights: &Weights, row: usize, stack: Stack) -> Option<[usize; 2]> {
    let shape = weights.shape(row)?.ok()?;
    let (&columns, leading) = shape.split_last()?;
    let all: i64 = leading.iter().try_fold(1i64, |all, &next| all.checked_mul(next))?;
    let (all, columns) = (usize::try_from(all).ok()?, usize::try_from(columns).ok()?);
    // A shape that lies must not take memory.
    let fits = (1..=MOST as usize).contains(&stack.count) && all.is_multiple_of(stack.count);
    fits.then(|| [all / stack.count, columns])
}

fn width(weights: &Weights, row: usize) -> Option<usize> {
    match weights.element {
        Some(Element::Float(float)) => Some(float.width()),
        _ => {
            let block = dtype::block(weights.dtype(row)?)?;
            (block.elements == 1).then_some(block.bytes as usize)
        }
    }
}

fn names(weights: &Weights, rows: &[Out]) -> ArrayRef {
    let is_alone = |row: usize, stack: Stack| {
        weights.shape(row).and_then(Result::ok).is_some_and(|shape| stack.is_one_matrix(shape))
    };
    let names = rows.iter().map(|out| {
        let name = weights.name(out.row)?;
        Some(match out.matrix {
            Some((index, stack, _)) if !is_alone(out.row, stack) => {
                Cow::Owned(format!("{name}[{index}]"))
            }
            _ => Cow::Borrowed(name),
        })
    });
    Arc::new(names.collect::<StringArray>())
}

fn matrix_shapes(weights: &Weights, rows: &[Out]) -> ArrayRef {
    let shape = |out: &Out| match out.matrix {
        Some((_, stack, [rows, columns])) => Some(match stack.axis {
            Some(-2) => vec![columns as i64, rows as i64],
            _ => vec![rows as i64, columns as i64],
        }),
        None => weights.shape(out.row)?.ok().map(<[i64]>::to_vec),
    };
    let all: Vec<Option<Vec<i64>>> = rows.iter().map(shape).collect();
    Arc::new(shapes(all.iter().map(Option::as_deref)))
}

fn stack_columns(weights: &Weights, rows: &[Out]) -> [ArrayRef; 4] {
    let of = |out: &Out| out.matrix.map(|_| out.row);
    let names = rows.iter().map(|out| of(out).and_then(|row| weights.name(row)));
    let indices = rows.iter().map(|out| out.matrix.map(|(index, ..)| index as i64));
    let axes = rows.iter().map(|out| out.matrix.and_then(|(_, stack, _)| stack.axis));
    let shape = |out: &Out| weights.shape(of(out)?)?.ok();
    [
        Arc::new(names.collect::<StringArray>()),
        Arc::new(indices.collect::<Int64Array>()),
        Arc::new(shapes(rows.iter().map(shape))),
        Arc::new(axes.collect::<Int8Array>()),
    ]
}

/// The rows' data: the column's own values with more offsets, unless matrices are turned around.
fn data(weights: &Weights, rows: &[Out], column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let is_turned = |out: &Out| out.matrix.is_some_and(|(_, stack, _)| stack.axis == Some(-2));
    let is_fixed = matches!(column.data_type(), DataType::FixedSizeList(..));
    let data_type = data_type(column.data_type());
    if is_fixed || rows.iter().any(is_turned) {
        return turned(weights, rows, &data_type);
    }
    let mut fates: Vec<Fate> = Vec::with_capacity(weights.len);
    let mut at = 0;
    while let Some(out) = rows.get(at) {
        let Some((_, stack, [count, columns])) = out.matrix else {
            fates.push(Fate::Whole);
            at += 1;
            continue;
        };
        let size = (count * columns * width(weights, out.row).unwrap_or(0)) as u64;
        let part = |index: u64| Part {
            offset: 0,
            shape: Vec::new(),
            start: index * size,
            end: (index + 1) * size,
        };
        fates.push(Fate::Cut((0..stack.count as u64).map(part).collect()));
        at += stack.count;
    }
    cast(&cut_data(column, &fates)?, &data_type)
}

/// All rows' bytes in one buffer, matrices that are turned around among them. Of a row whose data are
/// not as its shape says, the first matrix gets all: that they disagree is found when it is checked.
/// One that has nulls among its elements is null as a whole.
fn turned(weights: &Weights, rows: &[Out], data_type: &DataType) -> Result<ArrayRef, ArrowError> {
    let mut bytes = MutableBuffer::new(0);
    let mut offsets = vec![0i64];
    let mut valid = Vec::with_capacity(rows.len());
    for out in rows {
        let has_nulls = weights.null_elements(out.row).is_some();
        let whole = weights.bytes(out.row).filter(|_| !has_nulls);
        valid.push(whole.is_some());
        let whole = whole.unwrap_or_default();
        match out.matrix {
            None => bytes.extend_from_slice(whole),
            Some((index, stack, [rows, columns])) => {
                let width = width(weights, out.row).unwrap_or(0);
                let size = rows.saturating_mul(columns).saturating_mul(width);
                if size == 0 || size.checked_mul(stack.count) != Some(whole.len()) {
                    bytes.extend_from_slice(if index == 0 { whole } else { &[] });
                } else if stack.axis != Some(-2) {
                    bytes.extend_from_slice(&whole[index * size..(index + 1) * size]);
                } else {
                    let matrix = &whole[index * size..(index + 1) * size];
                    bytes.extend_from_slice(&transpose(matrix, rows, columns, width));
                }
            }
        }
        offsets.push(bytes.len() as i64);
    }
    let (bytes, nulls) = (Buffer::from(bytes), Some(NullBuffer::from(valid)));
    let DataType::LargeList(item) = data_type else {
        let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
        return Ok(Arc::new(LargeBinaryArray::try_new(offsets, bytes, nulls)?));
    };
    let (width, values): (i64, ArrayRef) = match item.data_type() {
        DataType::Float64 => (8, Arc::new(Float64Array::new(bytes.into(), None))),
        DataType::Float16 => (2, Arc::new(Float16Array::new(bytes.into(), None))),
        _ => (4, Arc::new(Float32Array::new(bytes.into(), None))),
    };
    let offsets: Vec<i64> = offsets.into_iter().map(|offset| offset / width).collect();
    let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
    Ok(Arc::new(LargeListArray::try_new(Arc::clone(item), offsets, values, nulls)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::cast::AsArray;
    use arrow_array::types::Float32Type;

    #[test]
    fn each_matrix_is_a_row_of_its_own() {
        let numbers: Vec<f32> = (0..12).map(|at| at as f32).collect();
        let data = LargeListArray::from_iter_primitive::<Float32Type, _, _>([
            Some(numbers.iter().copied().map(Some).collect::<Vec<_>>()),
            Some(vec![Some(1.0); 2]),
        ]);
        let shape = shapes([&[2i64, 2, 3][..], &[1, 2]].into_iter().map(Some));
        let columns: [(&str, ArrayRef); 4] = [
            ("layer_name", Arc::new(StringArray::from_iter_values(["e", "w"]))),
            ("data", Arc::new(data)),
            ("shape", Arc::new(shape)),
            ("note", Arc::new(Int64Array::from_iter_values([7, 8]))),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        for (axis, second) in
            [(-1, [6.0, 7.0, 8.0, 9.0, 10.0, 11.0]), (-2, [6.0, 9.0, 7.0, 10.0, 8.0, 11.0])]
        {
            let out = split(&batch, &[Some(Stack { count: 2, axis: Some(axis) }), None]).unwrap();
            assert_eq!(out.schema(), schema(&batch.schema()));
            let names: Vec<_> = out["layer_name"].as_string::<i32>().iter().flatten().collect();
            assert_eq!(names, ["e[0]", "e[1]", "w"]);
            let value = out["data"].as_list::<i64>().value(1);
            assert_eq!(value.as_primitive::<Float32Type>().values().as_ref(), &second);
            let indices = out["stack_index"].as_primitive::<arrow_array::types::Int64Type>();
            assert_eq!(indices.iter().collect::<Vec<_>>(), [Some(0), Some(1), None]);
        }
        // What can't be such a stack stays as it is.
        let out = split(&batch, &[Some(Stack { count: 3, axis: Some(-1) }), None]).unwrap();
        assert_eq!(out.num_rows(), 2);
    }
}
