//! Reading and writing safetensors files.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use arrowquant::Error;
use arrowquant::format::safetensors::SafetensorsFile as File;
use arrowquant::format::safetensors_writer::{SafetensorsWriter as Writer, TensorSpec};
use bytes::Bytes;
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3_arrow::{PyRecordBatch, PyRecordBatchReader};

use crate::errors;
use crate::numpy::Memory;

/// An opened file whose header was checked.
#[pyclass(module = "arrowquant._core", frozen)]
pub(crate) struct SafetensorsFile(File);

#[pymethods]
impl SafetensorsFile {
    #[new]
    fn open(py: Python<'_>, path: PathBuf, mmap: bool, part_bytes: u64) -> PyResult<Self> {
        py.detach(|| File::open(&path, mmap, part_bytes)).map(Self).map_err(errors::call)
    }

    /// The same of the bytes of a file, which messages call `name`.
    #[staticmethod]
    fn given(py: Python<'_>, name: PathBuf, data: PyBuffer<u8>, part_bytes: u64) -> PyResult<Self> {
        let bytes = Bytes::from_owner(Memory(data)).into();
        py.detach(|| File::given(&name, bytes, part_bytes)).map(Self).map_err(errors::call)
    }

    /// A stream of the weights relation, from row `first` on and so many rows; without `data` for a
    /// plan.
    fn reader(&self, with_data: bool, first: usize, count: usize) -> PyRecordBatchReader {
        let rows = first..first.saturating_add(count);
        PyRecordBatchReader::new(Box::new(self.0.range(rows, with_data)))
    }

    /// Name, part index and bytes of each row.
    fn rows(&self) -> Vec<(String, i32, u64)> {
        let rows = self.0.rows().iter();
        rows.map(|tensor| (tensor.name.clone(), tensor.part.0, tensor.bytes())).collect()
    }

    /// Bytes of all tensors.
    #[getter]
    fn data_bytes(&self) -> u64 {
        self.0.data_bytes()
    }

    /// How many rows the relation has: a tensor may come in parts.
    #[getter]
    fn row_count(&self) -> usize {
        self.0.rows().len()
    }

    fn __len__(&self) -> usize {
        self.0.len()
    }
}

/// A file that is written tensor by tensor and gets its name at the end.
#[pyclass(module = "arrowquant._core", frozen)]
pub(crate) struct SafetensorsWriter {
    writer: Mutex<Option<Writer>>,
    path: PathBuf,
    overwrite: bool,
}

#[pymethods]
impl SafetensorsWriter {
    #[new]
    fn create(
        path: PathBuf,
        tensors: Vec<(String, String, Vec<i64>)>,
        overwrite: bool,
    ) -> PyResult<Self> {
        let spec = |(name, dtype, shape)| TensorSpec { name, dtype, shape };
        let tensors = tensors.into_iter().map(spec).collect();
        let writer = Writer::create(&path, tensors).map_err(errors::call)?;
        Ok(Self { writer: Mutex::new(Some(writer)), path, overwrite })
    }

    /// Write the tensors of a weights batch.
    fn write(&self, py: Python<'_>, batch: PyRecordBatch) -> PyResult<()> {
        let batch = batch.into_inner();
        let written = py.detach(|| {
            let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
            writer.as_mut().map(|writer| writer.write(&batch))
        });
        written.ok_or_else(closed)?.map_err(|error| errors::raise(py, error))
    }

    /// Sync the file and give it its name.
    fn finish(&self, py: Python<'_>) -> PyResult<()> {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        let writer = writer.ok_or_else(closed)?;
        py.detach(|| writer.finish(self.overwrite)).map_err(|error| match error {
            Error::Io(error) => errors::io(&self.path, &error),
            other => errors::raise(py, other),
        })
    }

    /// Give up: the temporary file is removed.
    fn abort(&self) {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

fn closed() -> PyErr {
    PyValueError::new_err("the writer is finished")
}
