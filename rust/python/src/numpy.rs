//! NumPy arrays as weights, without a copy of their elements.

// Their memory is read as it lies.
#![allow(unsafe_code)]

use std::sync::Arc;

use arrow_array::builder::BinaryViewBuilder;
use arrow_array::types::Int64Type;
use arrow_array::{ArrayRef, LargeBinaryArray, LargeListArray, RecordBatch, StringArray};
use arrow_buffer::{Buffer, OffsetBuffer};
use arrow_schema::ArrowError;
use arrowquant::relation::errors::NEW_ERRORS_KEY;
use bytes::Bytes;
use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;
use pyo3_arrow::PyTable;
use pyo3_arrow::error::PyArrowResult;

/// A layer: its name, dtype, shape and bytes; or an error's code and message.
#[derive(FromPyObject)]
pub(crate) struct NamedArray {
    layer_name: String,
    dtype: Option<String>,
    shape: Option<Vec<i64>>,
    /// One dimension of uint8.
    bytes: Option<PyBuffer<u8>>,
    error_code: Option<String>,
    error_message: Option<String>,
}

/// The memory of an array, which is held by its buffer until nobody reads it any more.
pub(crate) struct Memory(pub(crate) PyBuffer<u8>);

impl AsRef<[u8]> for Memory {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the buffer is held, so its memory stays. Who writes to an array while it is read
        // gets some mixture of its contents, as with any library that takes it without a copy.
        self.0.as_slice_ptr().map_or(&[], |bytes| unsafe { bytes.as_ref() })
    }
}

/// The weights relation of these layers: one batch, or one for each layer where one has more bytes
/// than a view can, 2 GiB.
#[pyfunction]
pub(crate) fn named_weights(layers: Vec<NamedArray>) -> PyArrowResult<PyTable> {
    let has_errors = layers.iter().any(|layer| layer.error_code.is_some());
    let metadata = has_errors.then(|| (NEW_ERRORS_KEY.to_owned(), String::new()));
    let bytes = |layer: &NamedArray| layer.bytes.as_ref().map_or(0, |bytes| bytes.len_bytes());
    let batches = if layers.iter().all(|layer| i32::try_from(bytes(layer)).is_ok()) {
        vec![batch(layers, has_errors, views)?]
    } else {
        let batches = layers.into_iter().map(|layer| batch(vec![layer], has_errors, large));
        batches.collect::<Result<Vec<_>, _>>()?
    };
    let schema = batches[0].schema().as_ref().clone();
    let schema = Arc::new(schema.with_metadata(metadata.into_iter().collect()));
    let batches = batches.into_iter().map(|batch| batch.with_schema(Arc::clone(&schema)));
    Ok(PyTable::try_new(batches.collect::<Result<_, _>>()?, schema)?)
}

fn batch(
    mut layers: Vec<NamedArray>,
    has_errors: bool,
    data: fn(Vec<Option<Buffer>>) -> Result<ArrayRef, ArrowError>,
) -> Result<RecordBatch, ArrowError> {
    let bytes = layers.iter_mut().map(|layer| layer.bytes.take());
    let bytes = bytes.map(|bytes| bytes.map(|bytes| Bytes::from_owner(Memory(bytes)).into()));
    let data = data(bytes.collect())?;
    let shapes = layers.iter().map(|layer| layer.shape.as_ref());
    let shapes = shapes.map(|shape| shape.map(|shape| shape.iter().copied().map(Some)));
    let text = |of: fn(&NamedArray) -> Option<&str>| -> ArrayRef {
        Arc::new(layers.iter().map(of).collect::<StringArray>())
    };
    let mut columns: Vec<(&str, ArrayRef)> = vec![
        ("layer_name", text(|layer| Some(&layer.layer_name))),
        ("dtype", text(|layer| layer.dtype.as_deref())),
        ("shape", Arc::new(LargeListArray::from_iter_primitive::<Int64Type, _, _>(shapes))),
        ("data", data),
    ];
    if has_errors {
        columns.push(("error_code", text(|layer| layer.error_code.as_deref())));
        columns.push(("error_message", text(|layer| layer.error_message.as_deref())));
    }
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true)))
}

/// Views this short hold their bytes themselves.
const INLINE: usize = 12;

fn views(layers: Vec<Option<Buffer>>) -> Result<ArrayRef, ArrowError> {
    let mut views = BinaryViewBuilder::with_capacity(layers.len());
    for bytes in layers {
        match bytes {
            Some(bytes) if bytes.len() <= INLINE => views.append_value(&bytes),
            Some(bytes) => {
                let length = bytes.len() as u32;
                let block = views.append_block(bytes);
                views.try_append_view(block, 0, length)?;
            }
            None => views.append_null(),
        }
    }
    Ok(Arc::new(views.finish()))
}

fn large(layer: Vec<Option<Buffer>>) -> Result<ArrayRef, ArrowError> {
    let layer = layer.into_iter().next().flatten();
    let Some(bytes) = layer else { return Ok(Arc::new(LargeBinaryArray::new_null(1))) };
    let offsets = OffsetBuffer::from_lengths([bytes.len()]);
    LargeBinaryArray::try_new(offsets, bytes, None).map(|array| Arc::new(array) as ArrayRef)
}
