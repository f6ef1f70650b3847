//! The quantized relation: what goes out, row for row with the input.

use std::ops::Deref;
use std::sync::Arc;

use arrow_array::builder::StringBuilder;
use arrow_array::{
    Array, ArrayRef, Float32Array, Int64Array, LargeBinaryArray, LargeListArray, RecordBatch,
    StringArray, UInt8Array,
};
use arrow_buffer::{NullBuffer, NullBufferBuilder, OffsetBuffer, ScalarBuffer};
use arrow_schema::{ArrowError, DataType, Field, SchemaRef};
use bytemuck::Pod;

pub(crate) mod read;

use super::columns::{Carried, shape_type};
use super::output_schema;
use crate::memory::Output;

/// Names of the output's own columns, which no carried column may have: the quantized relation's,
/// then the error columns of the one relation.
pub const RESERVED: [&str; 25] = [
    "row_index",
    "layer_name",
    "dtype",
    "shape",
    "scheme",
    "group_size",
    "group_rows",
    "is_symmetric",
    "data",
    "scales",
    "scale_dtype",
    "signed_scales",
    "zero_points",
    "biases",
    "tensor_scale",
    "search",
    "bits_per_weight",
    "mse",
    "max_abs_error",
    "snr_db",
    "scale_spread",
    "error_code",
    "error_message",
    "error_element",
    "error_count",
];

/// The columns that hold codes and parameters; all others say something of them.
pub const PAYLOAD: [&str; 4] = ["data", "scales", "zero_points", "biases"];

/// A large_list of that item, nullable as Arrow's libraries make lists.
fn large_list(item: DataType) -> DataType {
    DataType::LargeList(Arc::new(Field::new_list_field(item, true)))
}

/// The schema: the relation's own columns, then the carried ones.
pub fn schema(carried: &Carried) -> SchemaRef {
    let types = [
        DataType::Int64,
        DataType::Utf8,
        DataType::Utf8,
        shape_type(),
        DataType::Utf8,
        DataType::Int64,
        DataType::Int64,
        DataType::Boolean,
        DataType::LargeBinary,
        large_list(DataType::Float32),
        DataType::Utf8,
        DataType::Boolean,
        large_list(DataType::UInt8),
        large_list(DataType::Float32),
        DataType::Float32,
        DataType::Utf8,
        DataType::Float64,
        DataType::Float64,
        DataType::Float64,
        DataType::Float64,
        DataType::Float64,
    ];
    let fields = RESERVED.iter().zip(types).map(|(name, kind)| Field::new(*name, kind, true));
    output_schema(fields.collect(), carried)
}

/// Where each row's values lie in a buffer; rows that have none are null.
pub(crate) struct Spans {
    offsets: Vec<i64>,
    valid: NullBufferBuilder,
}

impl Spans {
    pub(crate) fn with_capacity(rows: usize) -> Self {
        let mut offsets = Vec::with_capacity(rows + 1);
        offsets.push(0);
        Self { offsets, valid: NullBufferBuilder::new(rows) }
    }

    /// The end of the last row.
    pub(crate) fn end(&self) -> usize {
        self.offsets.last().map_or(0, |&end| end as usize)
    }

    pub(crate) fn range(&self, row: usize) -> std::ops::Range<usize> {
        self.offsets[row] as usize..self.offsets[row + 1] as usize
    }

    /// The values of rows that follow each other.
    pub(crate) fn of_rows(&self, rows: &std::ops::Range<usize>) -> std::ops::Range<usize> {
        self.offsets[rows.start] as usize..self.offsets[rows.end] as usize
    }

    /// Add a row of `len` values; a null one where `None`.
    pub(crate) fn push(&mut self, len: Option<usize>) {
        self.offsets.push((self.end() + len.unwrap_or(0)) as i64);
        self.valid.append(len.is_some());
    }

    /// Add rows of `len` values each; null ones where `None`.
    pub(crate) fn push_alike(&mut self, len: Option<usize>, rows: usize) {
        let (start, step) = (self.end() as i64, len.unwrap_or(0) as i64);
        self.offsets.extend((1..=rows as i64).map(|row| start + row * step));
        match len {
            Some(_) => self.valid.append_n_non_nulls(rows),
            None => self.valid.append_n_nulls(rows),
        }
    }

    /// Make the rows for which `keep` is false null, and move the others' values together.
    pub(crate) fn retain<T: Pod + Send>(
        &mut self,
        values: &mut Output<T>,
        keep: impl Fn(usize) -> bool,
    ) {
        let rows = self.offsets.len() - 1;
        let mut kept = Self::with_capacity(rows);
        for row in 0..rows {
            let range = self.range(row);
            let len = (self.valid.is_valid(row) && keep(row)).then_some(range.len());
            if len.is_some() {
                values.copy_within(range, kept.end());
            }
            kept.push(len);
        }
        values.truncate(kept.end());
        *self = kept;
    }

    fn parts(mut self) -> (OffsetBuffer<i64>, Option<NullBuffer>) {
        (OffsetBuffer::new(ScalarBuffer::from(self.offsets)), self.valid.finish())
    }
}

/// A buffer of values with the rows' spans in it.
pub(crate) struct Values<T: Pod> {
    pub(crate) spans: Spans,
    pub(crate) values: Output<T>,
}

/// The variable-length output of a batch.
pub(crate) struct Payload {
    pub(crate) data: Values<u8>,
    pub(crate) scales: Values<f32>,
    pub(crate) zero_points: Values<u8>,
    pub(crate) biases: Values<f32>,
}

impl Payload {
    /// The columns `data`, `scales`, `zero_points` and `biases`.
    pub(crate) fn columns(self) -> [ArrayRef; 4] {
        let floats = |values: Output<f32>| Float32Array::new(values.into_buffer().into(), None);
        let zero_points = UInt8Array::new(self.zero_points.values.into_buffer().into(), None);
        [
            Arc::new(binary(self.data)),
            Arc::new(list(self.scales.spans, Arc::new(floats(self.scales.values)))),
            Arc::new(list(self.zero_points.spans, Arc::new(zero_points))),
            Arc::new(list(self.biases.spans, Arc::new(floats(self.biases.values)))),
        ]
    }
}

/// The columns that say something of each row.
pub(crate) struct Columns {
    pub(crate) dtypes: ArrayRef,
    pub(crate) shapes: ArrayRef,
    pub(crate) schemes: ArrayRef,
    pub(crate) group_sizes: ArrayRef,
    pub(crate) group_rows: ArrayRef,
    pub(crate) symmetries: ArrayRef,
    pub(crate) scale_dtypes: ArrayRef,
    pub(crate) signed_scales: ArrayRef,
    pub(crate) tensor_scales: ArrayRef,
    pub(crate) searches: ArrayRef,
    pub(crate) bits_per_weight: ArrayRef,
    pub(crate) mse: ArrayRef,
    pub(crate) max_abs_error: ArrayRef,
    pub(crate) snr_db: ArrayRef,
    pub(crate) scale_spread: ArrayRef,
}

/// A large_binary column of the rows' bytes.
pub(crate) fn binary(data: Values<u8>) -> LargeBinaryArray {
    let (offsets, nulls) = data.spans.parts();
    LargeBinaryArray::new(offsets, data.values.into_buffer(), nulls)
}

fn list(spans: Spans, values: ArrayRef) -> LargeListArray {
    let (offsets, nulls) = spans.parts();
    let item = Arc::new(Field::new_list_field(values.data_type().clone(), true));
    LargeListArray::new(item, offsets, values, nulls)
}

/// A `shape` column.
pub(crate) fn shapes<S: Deref<Target = [i64]>>(
    rows: impl Iterator<Item = Option<S>>,
) -> LargeListArray {
    let count = rows.size_hint().0;
    shapes_of_runs(rows.map(|shape| (shape, 1)), count)
}

/// A `shape` column of about `rows` rows, given by runs of rows that have the same shape.
pub(crate) fn shapes_of_runs<S: Deref<Target = [i64]>>(
    runs: impl Iterator<Item = (Option<S>, usize)>,
    rows: usize,
) -> LargeListArray {
    let (mut spans, mut values) = (Spans::with_capacity(rows), Vec::with_capacity(rows));
    for (shape, count) in runs {
        let shape = shape.as_deref();
        spans.push_alike(shape.map(<[i64]>::len), count);
        match (shape, count) {
            (Some(shape), 1) => values.extend_from_slice(shape),
            (Some(shape), _) => values.extend_from_slice(&shape.repeat(count)),
            (None, _) => {}
        }
    }
    list(spans, Arc::new(Int64Array::from(values)))
}

/// A text column of `rows` rows, given by runs of rows that have the same value; most columns have
/// one value all the way down, which is then laid out at once.
pub(crate) fn text_of_runs<'a>(
    runs: impl Iterator<Item = (Option<&'a str>, usize)> + Clone,
    rows: usize,
) -> ArrayRef {
    if let Some((Some(first), _)) = runs.clone().next()
        && runs.clone().all(|(value, _)| value == Some(first))
    {
        return Arc::new(StringArray::new_repeated(first, rows));
    }
    let mut column = StringBuilder::with_capacity(rows, 0);
    runs.for_each(|(value, count)| (0..count).for_each(|_| column.append_option(value)));
    Arc::new(column.finish())
}

/// The batch of `schema` from its columns.
pub(crate) fn batch(
    schema: &SchemaRef,
    row_index: Int64Array,
    names: ArrayRef,
    columns: Columns,
    [data, scales, zero_points, biases]: [ArrayRef; 4],
    carried: Vec<ArrayRef>,
) -> Result<RecordBatch, ArrowError> {
    let mut all: Vec<ArrayRef> = vec![
        Arc::new(row_index),
        names,
        columns.dtypes,
        columns.shapes,
        columns.schemes,
        columns.group_sizes,
        columns.group_rows,
        columns.symmetries,
        data,
        scales,
        columns.scale_dtypes,
        columns.signed_scales,
        zero_points,
        biases,
        columns.tensor_scales,
        columns.searches,
        columns.bits_per_weight,
        columns.mse,
        columns.max_abs_error,
        columns.snr_db,
        columns.scale_spread,
    ];
    all.extend(carried);
    RecordBatch::try_new(Arc::clone(schema), all)
}
