//! `compare` and `split_parts`.

use arrowquant::container::meaning::Stack;
use arrowquant::{compare as core, parts, pool};
use pyo3::prelude::*;
use pyo3_arrow::{PyRecordBatch, PySchema};

use crate::errors;
use crate::run::run;

/// Whether the bytes are the same, mean squared error, largest absolute error, SNR; and why the row
/// can't be decoded.
type Row = (bool, Option<f64>, Option<f64>, Option<f64>, Option<String>);

/// How quantized rows compare with their sources.
#[pyfunction]
pub(crate) fn compare(
    py: Python<'_>,
    source: PyRecordBatch,
    quantized: PyRecordBatch,
    threads: Option<i64>,
) -> PyResult<Vec<Row>> {
    let pool = pool::thread_count(threads).and_then(pool::with_threads).map_err(errors::call)?;
    let (source, quantized) = (source.into_inner(), quantized.into_inner());
    let rows = run(py, None, move |monitor, _| core::compare(&source, &quantized, &pool, monitor))?;
    let row = |core::Compared { comparison: row, error }| {
        (row.identical, row.mse, row.max_abs_error, row.snr_db, error)
    };
    Ok(rows.into_iter().map(row).collect())
}

/// A batch of weights with its large layers cut into parts, and with the part columns.
#[pyfunction]
pub(crate) fn split_parts(
    py: Python<'_>,
    batch: PyRecordBatch,
    part_bytes: u64,
    cuttable: bool,
) -> PyResult<PyRecordBatch> {
    let split = parts::split(batch.as_ref(), part_bytes, cuttable);
    split.map(PyRecordBatch::new).map_err(|error| errors::raise(py, error))
}

/// A batch of weights with a row for each matrix of its stacks, whose count and contracted axis are
/// given row by row.
#[pyfunction]
pub(crate) fn split_stacks(
    py: Python<'_>,
    batch: PyRecordBatch,
    stacks: Vec<Option<(usize, Option<i8>)>>,
) -> PyResult<PyRecordBatch> {
    let stack =
        |stack: Option<(usize, Option<i8>)>| stack.map(|(count, axis)| Stack { count, axis });
    let stacks: Vec<_> = stacks.into_iter().map(stack).collect();
    let split = py.detach(|| parts::stacks::split(batch.as_ref(), &stacks));
    split.map(PyRecordBatch::new).map_err(|error| errors::raise(py, error))
}

/// A batch without its data, and with the dtype and shape of each row.
#[pyfunction]
pub(crate) fn outline(py: Python<'_>, batch: PyRecordBatch) -> PyResult<PyRecordBatch> {
    let outline = arrowquant::outline::of(batch.as_ref());
    outline.map(PyRecordBatch::new).map_err(|error| errors::raise(py, error))
}

/// The schema of such a batch.
#[pyfunction]
pub(crate) fn outline_schema(schema: PySchema) -> PySchema {
    PySchema::new(arrowquant::outline::schema(schema.as_ref()))
}

/// A schema with the columns that say which matrix of a stack a row is.
#[pyfunction]
pub(crate) fn stacks_schema(schema: PySchema) -> PySchema {
    PySchema::new(parts::stacks::schema(schema.as_ref()))
}

/// A schema with the part columns.
#[pyfunction]
pub(crate) fn parts_schema(schema: PySchema) -> PySchema {
    PySchema::new(parts::schema(schema.as_ref()))
}
