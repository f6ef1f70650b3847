//! Batches with their large layers cut into parts, without a copy of their data.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{
    Array, ArrayRef, BinaryViewArray, GenericListArray, LargeBinaryArray, OffsetSizeTrait,
    RecordBatch, UInt64Array, new_null_array,
};
use arrow_buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_schema::{ArrowError, DataType, Field};
use arrow_select::take::take;

use super::cut::{COLUMNS, Part, cut, has_any, part_columns, schema};
use crate::error::Error;
use crate::relation::bytes::Element;
use crate::relation::columns::shape_type;
use crate::relation::quantized::shapes;
use crate::relation::weights::WeightsSchema;

/// What becomes of one row.
pub(super) enum Fate {
    Whole,
    Cut(Vec<Part>),
}

impl Fate {
    fn count(&self) -> usize {
        match self {
            Self::Whole => 1,
            Self::Cut(parts) => parts.len(),
        }
    }
}

/// The batch with its large layers cut into parts, and with the part columns; data are not copied.
/// A batch that has such columns already stays as it is, and so do layers in a column that can't be
/// cut, which a relation without `data` tells by `cuttable`.
///
/// # Errors
/// The batch can't be read as weights.
pub fn split(batch: &RecordBatch, part_bytes: u64, cuttable: bool) -> Result<RecordBatch, Error> {
    let given = batch.schema();
    if has_any(&given) {
        return Ok(batch.clone());
    }
    let fates = fates(batch, part_bytes, cuttable)?;
    let rows: usize = fates.iter().map(Fate::count).sum();
    let mut columns = Vec::with_capacity(given.fields().len() + COLUMNS.len());
    let repeat = UInt64Array::from_iter_values(
        fates.iter().enumerate().flat_map(|(row, fate)| (0..fate.count()).map(move |_| row as u64)),
    );
    let layer_shapes = match batch.column_by_name("shape") {
        Some(shapes) => take(&arrow_cast::cast(shapes, &shape_type())?, &repeat, None)?,
        None => new_null_array(&shape_type(), rows),
    };
    for (field, column) in given.fields().iter().zip(batch.columns()) {
        let is_cut = rows > fates.len();
        columns.push(match field.name().as_str() {
            _ if !is_cut => Arc::clone(column),
            "data" => cut_data(column, &fates)?,
            "shape" => arrow_cast::cast(&part_shapes(&fates, &layer_shapes), column.data_type())?,
            _ => take(column, &repeat, None)?,
        });
    }
    let places: Vec<_> = fates
        .iter()
        .flat_map(|fate| {
            let (count, parts) = (fate.count() as i32, fate);
            (0..count).map(move |index| match parts {
                Fate::Whole => (0, 1, 0),
                Fate::Cut(parts) => (index, count, parts[index as usize].offset as i64),
            })
        })
        .collect();
    columns.extend(part_columns(&places, layer_shapes));
    Ok(RecordBatch::try_new(schema(&given), columns)?)
}

fn fates(batch: &RecordBatch, part_bytes: u64, cuttable: bool) -> Result<Vec<Fate>, Error> {
    let schema = batch.schema();
    let listed = match batch.column_by_name("data").map(|data| Element::of(data.data_type())) {
        Some(Some(Element::Float(float))) => Some(float.name()),
        _ => None,
    };
    let fixed = |field: &Field| matches!(field.data_type(), DataType::FixedSizeList(..));
    let cuttable = cuttable && !schema.field_with_name("data").is_ok_and(fixed);
    let weights = WeightsSchema::without_data(&schema)?.bind(batch)?;
    let fate = |row: usize| {
        // Codes of rows of a table stay as one with their scales.
        let is_packed = weights.packed_scheme(row).is_some();
        let parts = (cuttable && !is_packed).then_some(()).and_then(|()| {
            let shape = weights.shape(row)?.ok()?;
            cut(shape, weights.dtype(row).or(listed)?, part_bytes)
        });
        parts.map_or(Fate::Whole, Fate::Cut)
    };
    Ok((0..batch.num_rows()).map(fate).collect())
}

fn part_shapes(fates: &[Fate], layer_shapes: &ArrayRef) -> ArrayRef {
    use arrow_array::types::Int64Type;
    let given = layer_shapes.as_list::<i64>();
    let mut row = 0;
    let mut all: Vec<Option<Vec<i64>>> = Vec::with_capacity(layer_shapes.len());
    for fate in fates {
        match fate {
            Fate::Whole => all.push((!given.is_null(row)).then(|| {
                let values = given.value(row);
                values.as_primitive::<Int64Type>().iter().map(Option::unwrap_or_default).collect()
            })),
            Fate::Cut(parts) => all.extend(parts.iter().map(|part| Some(part.shape.clone()))),
        }
        row += fate.count();
    }
    Arc::new(shapes(all.iter().map(Option::as_deref)))
}

/// The data column with the same values and more offsets, or views.
pub(super) fn cut_data(column: &ArrayRef, fates: &[Fate]) -> Result<ArrayRef, ArrowError> {
    let nulls = column.logical_nulls().map(|nulls| {
        let valid = fates.iter().enumerate().flat_map(|(row, fate)| {
            let valid = nulls.is_valid(row);
            (0..fate.count()).map(move |_| valid)
        });
        valid.collect::<NullBuffer>()
    });
    Ok(match column.data_type() {
        DataType::Binary => {
            let array = column.as_binary::<i32>();
            let offsets = cut_offsets(array.offsets(), 1, fates);
            Arc::new(arrow_array::BinaryArray::try_new(offsets, array.values().clone(), nulls)?)
        }
        DataType::LargeBinary => {
            let array = column.as_binary::<i64>();
            let offsets = cut_offsets(array.offsets(), 1, fates);
            Arc::new(LargeBinaryArray::try_new(offsets, array.values().clone(), nulls)?)
        }
        DataType::List(item) => Arc::new(cut_list(column.as_list::<i32>(), item, fates, nulls)?),
        DataType::LargeList(item) => {
            Arc::new(cut_list(column.as_list::<i64>(), item, fates, nulls)?)
        }
        DataType::BinaryView => Arc::new(cut_views(column.as_binary_view(), fates)?),
        other => {
            return Err(ArrowError::InvalidArgumentError(format!("{other} can't be cut")));
        }
    })
}

fn cut_list<O: OffsetSizeTrait>(
    array: &GenericListArray<O>,
    item: &Arc<Field>,
    fates: &[Fate],
    nulls: Option<NullBuffer>,
) -> Result<GenericListArray<O>, ArrowError> {
    let width = match item.data_type() {
        DataType::Float64 => 8,
        DataType::Float16 => 2,
        _ => 4,
    };
    let offsets = cut_offsets(array.offsets(), width, fates);
    GenericListArray::try_new(Arc::clone(item), offsets, Arc::clone(array.values()), nulls)
}

/// Offsets in elements of `width` bytes. Whatever a row holds goes to its parts, the last one
/// taking what is beyond the shape: that the two disagree is found when the parts are checked.
fn cut_offsets<O: OffsetSizeTrait>(
    offsets: &OffsetBuffer<O>,
    width: u64,
    fates: &[Fate],
) -> OffsetBuffer<O> {
    let mut cut = vec![offsets[0]];
    for (row, fate) in fates.iter().enumerate() {
        let [start, end] = [offsets[row], offsets[row + 1]].map(O::as_usize);
        if let Fate::Cut(parts) = fate {
            let inner = &parts[..parts.len() - 1];
            let ends = inner.iter().map(|part| start.saturating_add((part.end / width) as usize));
            cut.extend(ends.map(|at| O::usize_as(at.min(end))));
        }
        cut.push(O::usize_as(end));
    }
    OffsetBuffer::new(ScalarBuffer::from(cut))
}

fn cut_views(array: &BinaryViewArray, fates: &[Fate]) -> Result<BinaryViewArray, ArrowError> {
    let mut builder = arrow_array::builder::BinaryViewBuilder::new();
    for buffer in array.data_buffers() {
        builder.append_block(buffer.clone());
    }
    for (row, fate) in fates.iter().enumerate() {
        if array.is_null(row) {
            (0..fate.count()).for_each(|_| builder.append_null());
            continue;
        }
        let bytes = array.value(row);
        let Fate::Cut(parts) = fate else {
            append_view(&mut builder, array, row, 0, bytes.len())?;
            continue;
        };
        for (index, part) in parts.iter().enumerate() {
            let start = (part.start as usize).min(bytes.len());
            let last = index + 1 == parts.len();
            let end = if last { bytes.len() } else { (part.end as usize).min(bytes.len()) };
            append_view(&mut builder, array, row, start, end)?;
        }
    }
    Ok(builder.finish())
}

fn append_view(
    builder: &mut arrow_array::builder::BinaryViewBuilder,
    array: &BinaryViewArray,
    row: usize,
    start: usize,
    end: usize,
) -> Result<(), ArrowError> {
    const INLINE: usize = 12;
    let bytes = array.value(row);
    if end - start <= INLINE || bytes.len() <= INLINE {
        builder.append_value(&bytes[start..end]);
        return Ok(());
    }
    let view = arrow_data::ByteView::from(array.views()[row]);
    let (offset, length) = (view.offset + start as u32, (end - start) as u32);
    builder.try_append_view(view.buffer_index, offset, length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_batch_holds_the_same_values() {
        let numbers: Vec<u8> = (0..240).collect();
        let names = ["a", "b", "c"];
        let bytes: [Option<&[u8]>; 3] = [Some(&numbers[..8]), Some(&numbers[8..200]), None];
        let kinds: [ArrayRef; 3] = [
            Arc::new(bytes.iter().copied().collect::<LargeBinaryArray>()),
            Arc::new(bytes.iter().copied().collect::<arrow_array::BinaryArray>()),
            Arc::new(bytes.iter().copied().collect::<BinaryViewArray>()),
        ];
        for data in kinds {
            let shape = shapes([&[1i64, 2][..], &[6, 8], &[6, 8]].into_iter().map(Some));
            let columns: [(&str, ArrayRef); 4] = [
                ("layer_name", Arc::new(arrow_array::StringArray::from_iter_values(names))),
                ("data", data),
                ("dtype", Arc::new(arrow_array::StringArray::from_iter_values(["F32"; 3]))),
                ("shape", Arc::new(shape)),
            ];
            let batch = RecordBatch::try_from_iter(columns).unwrap();
            let out = split(&batch, 64, true).unwrap();
            assert_eq!(out.schema(), schema(&batch.schema()));
            let values = arrow_cast::cast(&out["data"], &DataType::LargeBinary).unwrap();
            let values: Vec<_> = values.as_binary::<i64>().iter().collect();
            assert_eq!(
                values[..4],
                [
                    Some(&numbers[..8]),
                    Some(&numbers[8..72]),
                    Some(&numbers[72..136]),
                    Some(&numbers[136..200]),
                ]
            );
            assert_eq!(values[4..], [None; 3]);
            let index = out["part_index"].as_primitive::<arrow_array::types::Int32Type>();
            assert_eq!(index.values(), &[0, 0, 1, 2, 0, 1, 2]);
            let offset = out["part_offset"].as_primitive::<arrow_array::types::Int64Type>();
            assert_eq!(offset.values(), &[0, 0, 16, 32, 0, 16, 32]);
            assert_eq!(split(&out, 8, true).unwrap(), out, "parts are not cut again");
        }
    }
}
