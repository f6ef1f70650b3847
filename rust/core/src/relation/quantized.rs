//! The quantized relation: what goes out, row for row with the input.

use std::sync::Arc;

use arrow_array::{
    ArrayRef, BooleanArray, Float32Array, Float64Array, Int64Array, LargeBinaryArray,
    LargeListArray, RecordBatch, StringArray, UInt8Array,
};
use arrow_buffer::{NullBuffer, NullBufferBuilder, OffsetBuffer, ScalarBuffer};
use arrow_schema::{ArrowError, DataType, Field, SchemaRef};
use bytemuck::Pod;
use rayon::ThreadPool;
use rayon::prelude::*;

use super::columns::{Carried, shape_type};
use super::output_schema;
use crate::memory::Output;
use crate::pool::SPREAD;

/// Names of the output's own columns, which no carried column may have: the quantized relation's,
/// then the error columns of the one relation.
pub const RESERVED: [&str; 19] = [
    "row_index",
    "layer_name",
    "dtype",
    "shape",
    "scheme",
    "group_size",
    "is_symmetric",
    "data",
    "scales",
    "scale_dtype",
    "zero_points",
    "bits_per_weight",
    "mse",
    "max_abs_error",
    "snr_db",
    "error_code",
    "error_message",
    "error_element",
    "error_count",
];

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
        DataType::Boolean,
        DataType::LargeBinary,
        large_list(DataType::Float32),
        DataType::Utf8,
        large_list(DataType::UInt8),
        DataType::Float64,
        DataType::Float64,
        DataType::Float64,
        DataType::Float64,
    ];
    let fields = RESERVED.iter().zip(types).map(|(name, kind)| Field::new(*name, kind, true));
    output_schema(fields.collect(), carried)
}

/// What is known of one output row beside its name, dtype and shape.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Row {
    pub(crate) scheme: Option<&'static str>,
    pub(crate) group_size: Option<i64>,
    pub(crate) is_symmetric: Option<bool>,
    pub(crate) scale_dtype: Option<&'static str>,
    pub(crate) bits_per_weight: Option<f64>,
    pub(crate) mse: Option<f64>,
    pub(crate) max_abs_error: Option<f64>,
    pub(crate) snr_db: Option<f64>,
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
}

/// Names, dtypes and shapes, as given.
pub(crate) struct Described {
    pub(crate) names: ArrayRef,
    pub(crate) dtypes: ArrayRef,
    pub(crate) shapes: LargeListArray,
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
pub(crate) fn shapes<'a>(rows: impl Iterator<Item = Option<&'a [i64]>>) -> LargeListArray {
    let mut spans = Spans::with_capacity(rows.size_hint().0);
    let mut values = Vec::new();
    for shape in rows {
        spans.push(shape.map(<[i64]>::len));
        values.extend_from_slice(shape.unwrap_or(&[]));
    }
    list(spans, Arc::new(Int64Array::from(values)))
}

fn floats(rows: &[Row], get: fn(&Row) -> Option<f64>) -> ArrayRef {
    Arc::new(rows.iter().map(get).collect::<Float64Array>())
}

/// A text column; most have one value all the way down, which is then laid out at once.
pub(crate) fn text<'a>(values: impl ExactSizeIterator<Item = Option<&'a str>> + Clone) -> ArrayRef {
    let rows = values.len();
    let first = values.clone().next().flatten();
    let same = |first: &&str| values.clone().all(|value| value == Some(first));
    let Some(first) = first.filter(same) else {
        return Arc::new(values.collect::<StringArray>());
    };
    let offsets = OffsetBuffer::<i32>::from_repeated_length(first.len(), rows);
    Arc::new(StringArray::new(offsets, first.repeat(rows).into_bytes().into(), None))
}

/// The batch of `schema` from its columns' contents.
pub(crate) fn batch(
    schema: &SchemaRef,
    row_index: Int64Array,
    described: Described,
    rows: &[Row],
    payload: Payload,
    carried: Vec<ArrayRef>,
    pool: &ThreadPool,
) -> Result<RecordBatch, ArrowError> {
    // Independent of each other, so that threads can share them where rows are many.
    let computed: [&(dyn Fn() -> ArrayRef + Sync); 8] = [
        &|| text(rows.iter().map(|row| row.scheme)),
        &|| Arc::new(rows.iter().map(|row| row.group_size).collect::<Int64Array>()),
        &|| Arc::new(rows.iter().map(|row| row.is_symmetric).collect::<BooleanArray>()),
        &|| text(rows.iter().map(|row| row.scale_dtype)),
        &|| floats(rows, |row| row.bits_per_weight),
        &|| floats(rows, |row| row.mse),
        &|| floats(rows, |row| row.max_abs_error),
        &|| floats(rows, |row| row.snr_db),
    ];
    let computed: Vec<ArrayRef> = if rows.len() < SPREAD {
        computed.iter().map(|column| column()).collect()
    } else {
        pool.install(|| computed.par_iter().with_max_len(1).map(|column| column()).collect())
    };
    let mut computed = computed.into_iter();
    let mut next = || computed.next().unwrap_or_else(|| unreachable!("eight columns"));
    let scales = Float32Array::new(payload.scales.values.into_buffer().into(), None);
    let zero_points = UInt8Array::new(payload.zero_points.values.into_buffer().into(), None);
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(row_index),
        described.names,
        described.dtypes,
        Arc::new(described.shapes),
        next(),
        next(),
        next(),
        Arc::new(binary(payload.data)),
        Arc::new(list(payload.scales.spans, Arc::new(scales))),
        next(),
        Arc::new(list(payload.zero_points.spans, Arc::new(zero_points))),
    ];
    columns.extend(computed);
    columns.extend(carried);
    RecordBatch::try_new(Arc::clone(schema), columns)
}
