//! `compare` and `split_parts`.

use arrowquant::{compare as core, parts, pool};
use pyo3::prelude::*;
use pyo3_arrow::{PyRecordBatch, PySchema};

use crate::errors;
use crate::run::run;

/// Whether the bytes are the same, mean squared error, largest absolute error, and SNR.
type Row = (bool, Option<f64>, Option<f64>, Option<f64>);

/// How decoded rows compare with their sources.
#[pyfunction]
pub(crate) fn compare(
    py: Python<'_>,
    source: PyRecordBatch,
    decoded: PyRecordBatch,
    threads: Option<i64>,
) -> PyResult<Vec<Row>> {
    let pool = pool::thread_count(threads).and_then(pool::with_threads).map_err(errors::call)?;
    let (source, decoded) = (source.into_inner(), decoded.into_inner());
    let rows = run(py, None, move |monitor, _| core::compare(&source, &decoded, &pool, monitor))?;
    let row = |row: core::Comparison| (row.identical, row.mse, row.max_abs_error, row.snr_db);
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

/// A schema with the part columns.
#[pyfunction]
pub(crate) fn parts_schema(schema: PySchema) -> PySchema {
    PySchema::new(parts::schema(schema.as_ref()))
}
