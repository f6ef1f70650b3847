//! Writing Parquet files.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use arrowquant::container::parquet::ParquetRows;
use arrowquant::sink::parquet_writer::ParquetWriter as Writer;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3_arrow::{PyRecordBatch, PyRecordBatchReader, PySchema};

use crate::errors;
use crate::memory;
use crate::run::here;

/// A file that is written batch by batch. After an error it takes no more.
#[pyclass(module = "arrowquant._core", frozen)]
pub(crate) struct ParquetWriter(Mutex<Option<Writer>>);

impl ParquetWriter {
    fn lock(&self) -> MutexGuard<'_, Option<Writer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> PyResult<Writer> {
        self.lock().take().ok_or_else(|| PyValueError::new_err("the writer is finished"))
    }
}

/// Refuse a schema that Parquet can't hold.
#[pyfunction]
pub(crate) fn check_storable(py: Python<'_>, schema: PySchema) -> PyResult<()> {
    let schema = schema.into_inner();
    here(py, || Ok(arrowquant::sink::parquet_writer::check_storable(&schema).map(drop)?))
}

/// The batches of a file that a [`ParquetWriter`] wrote, one for each row group; codes are views
/// into the mapped file.
#[pyfunction]
pub(crate) fn mapped_parquet(py: Python<'_>, path: PathBuf) -> PyResult<PyRecordBatchReader> {
    let rows = py.detach(|| ParquetRows::open(&path, true));
    let rows = rows.map_err(|error| errors::raise(py, error))?;
    Ok(PyRecordBatchReader::new(Box::new(rows)))
}

#[pymethods]
impl ParquetWriter {
    /// Begin to write into the existing file at `path`.
    #[new]
    fn create(py: Python<'_>, path: PathBuf, schema: PySchema) -> PyResult<Self> {
        let schema = schema.into_inner();
        let writer = here(py, || Writer::create(&path, &schema))?;
        Ok(Self(Mutex::new(Some(writer.when_freed(memory::give_back)))))
    }

    /// Write a batch.
    fn write(&self, py: Python<'_>, batch: PyRecordBatch) -> PyResult<()> {
        let (batch, mut writer) = (batch.into_inner(), self.take()?);
        let writer = here(py, move || {
            writer.write(&batch)?;
            Ok(writer)
        })?;
        *self.lock() = Some(writer);
        Ok(())
    }

    /// Write the rest, and the footer.
    fn finish(&self, py: Python<'_>) -> PyResult<()> {
        let writer = self.take()?;
        here(py, || writer.finish())
    }
}
