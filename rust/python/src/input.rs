//! Relations that users hand in: any object with Arrow's PyCapsule interface, and batches that
//! Python code makes.

use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::cast::AsArray;
use arrow_array::{
    Array, ArrayRef, RecordBatch, RecordBatchIterator, RecordBatchOptions, RecordBatchReader,
    StructArray, make_array,
};
use arrow_buffer::NullBuffer;
use arrow_schema::{ArrowError, DataType, Schema, SchemaRef};
use arrowquant::CallError;
use arrowquant::relation::gather::Gathered;
use arrowquant::relation::requantize::Requantized;
use pyo3::exceptions::{PyRuntimeError, PyStopIteration, PyTypeError};
use pyo3::prelude::*;
use pyo3_arrow::ffi::ArrayReader;
use pyo3_arrow::{PyArrayReader, PyRecordBatch, PySchema};

use crate::errors;

/// One batch, or a stream of them.
pub(crate) enum Relation {
    Batch(RecordBatch),
    Stream(Box<dyn RecordBatchReader + Send>),
}

impl Relation {
    pub(crate) fn schema(&self) -> SchemaRef {
        match self {
            Self::Batch(batch) => batch.schema(),
            Self::Stream(reader) => reader.schema(),
        }
    }

    /// A quantized relation as weights whose rows are packed; any other as it is.
    ///
    /// # Errors
    /// It is of another format.
    pub(crate) fn into_weights(self) -> Result<Self, CallError> {
        if !Requantized::is_quantized(&self.schema()) {
            return Ok(self);
        }
        let made = Requantized::try_new(&self.schema())?;
        Ok(match self {
            Self::Batch(batch) => Self::Batch(made.batch(&batch).map_err(|error| {
                CallError::File { path: "the relation".to_owned(), why: error.to_string() }
            })?),
            Self::Stream(reader) => {
                let schema = Arc::clone(made.schema());
                let batches = reader.map(move |batch| made.batch(&batch?));
                Self::Stream(Box::new(RecordBatchIterator::new(batches, schema)))
            }
        })
    }

    /// Its batches, tiny ones put together.
    pub(crate) fn into_reader(self) -> Box<dyn RecordBatchReader + Send> {
        match self {
            Self::Batch(batch) => {
                let schema = batch.schema();
                Box::new(RecordBatchIterator::new(vec![Ok(batch)], schema))
            }
            Self::Stream(reader) => Box::new(Gathered::new(reader)),
        }
    }
}

impl<'py> FromPyObject<'_, 'py> for Relation {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> Result<Self, PyErr> {
        if let Ok(batches) = object.cast::<PyBatches>() {
            return batches.get().take().map(|reader| Self::Stream(Box::new(reader)));
        }
        if object.hasattr("__arrow_c_array__")? {
            return Ok(Self::Batch(object.extract::<PyRecordBatch>()?.into_inner()));
        }
        let reader = object.extract::<PyArrayReader>()?.into_reader()?;
        Ok(Self::Stream(Box::new(Structs::try_new(reader)?)))
    }
}

/// A relation's batches, tiny ones put together, for Python code to go through.
#[pyclass(module = "arrowquant._core", frozen)]
pub(crate) struct Gathering(Mutex<Box<dyn RecordBatchReader + Send>>);

#[pymethods]
impl Gathering {
    #[new]
    fn new(relation: Relation) -> Self {
        Self(Mutex::new(relation.into_reader()))
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<PyRecordBatch>> {
        let next = || self.0.lock().unwrap_or_else(PoisonError::into_inner).next();
        let batch = py.detach(next).transpose();
        let batch = batch.map_err(|error| errors::raise(py, error.into()))?;
        Ok(batch.map(PyRecordBatch::new))
    }
}

/// A stream of struct arrays as one of record batches. A null struct is a row all of whose columns
/// are null: a record batch has no other word for it.
struct Structs {
    arrays: Box<dyn ArrayReader + Send>,
    schema: SchemaRef,
}

impl Structs {
    fn try_new(arrays: Box<dyn ArrayReader + Send>) -> PyResult<Self> {
        let field = arrays.field();
        let DataType::Struct(fields) = field.data_type() else {
            let text = format!(
                "a stream of record batches is needed, with the relation's columns, got a stream \
                 of {}. Give it a column's name: pa.table({{'data': ...}}).",
                field.data_type()
            );
            return Err(PyTypeError::new_err(text));
        };
        let schema = Schema::new_with_metadata(fields.clone(), field.metadata().clone());
        Ok(Self { arrays, schema: Arc::new(schema) })
    }

    fn batch(&self, array: &StructArray) -> Result<RecordBatch, ArrowError> {
        let nulls = array.nulls().filter(|nulls| nulls.null_count() > 0);
        let columns = array.columns().iter().zip(self.schema.fields());
        let columns = columns.map(|(column, field)| {
            let Some(nulls) = nulls else { return Ok(Arc::clone(column)) };
            let masked = if field.is_nullable() { masked(column, nulls).ok() } else { None };
            masked.ok_or_else(|| {
                let (column, found) = (field.name().clone(), field.data_type().to_string());
                CallError::NullStructs { column, found }.into()
            })
        });
        let columns = columns.collect::<Result<Vec<_>, ArrowError>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(array.len()));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
    }
}

/// The column with further nulls.
fn masked(column: &ArrayRef, nulls: &NullBuffer) -> Result<ArrayRef, ArrowError> {
    if *column.data_type() == DataType::Null {
        return Ok(Arc::clone(column));
    }
    let all = NullBuffer::union(column.nulls(), Some(nulls));
    column.to_data().into_builder().nulls(all).build().map(make_array)
}

impl Iterator for Structs {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        let array = self.arrays.next()?;
        Some(array.and_then(|array| self.batch(array.as_struct())))
    }
}

impl RecordBatchReader for Structs {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

/// Batches that Python code makes one by one: its exceptions reach the caller as they are.
#[pyclass(module = "arrowquant._core", frozen, name = "Batches")]
pub(crate) struct PyBatches(Mutex<Option<PythonReader>>);

impl PyBatches {
    fn take(&self) -> PyResult<PythonReader> {
        let reader = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        reader.ok_or_else(|| PyRuntimeError::new_err("the batches were taken before"))
    }
}

#[pymethods]
impl PyBatches {
    /// Batches of `schema`, from an iterator.
    #[new]
    fn new(schema: PySchema, iterator: Py<PyAny>) -> Self {
        Self(Mutex::new(Some(PythonReader { schema: schema.into_inner(), iterator })))
    }
}

pub(crate) struct PythonReader {
    schema: SchemaRef,
    iterator: Py<PyAny>,
}

impl PythonReader {
    fn pull(&self, py: Python<'_>) -> PyResult<Option<RecordBatch>> {
        let batch = match self.iterator.bind(py).call_method0("__next__") {
            Ok(batch) => batch.extract::<PyRecordBatch>()?.into_inner(),
            Err(end) if end.is_instance_of::<PyStopIteration>(py) => return Ok(None),
            Err(error) => return Err(error),
        };
        let found = batch.schema();
        if found.fields() == self.schema.fields() {
            return Ok(Some(batch));
        }
        // Metadata and nullability may differ.
        let columns = |schema: &SchemaRef| -> Vec<(String, DataType)> {
            let fields = schema.fields().iter();
            fields.map(|field| (field.name().clone(), field.data_type().clone())).collect()
        };
        if columns(&found) == columns(&self.schema) {
            return Ok(Some(batch));
        }
        let text = |schema: &SchemaRef| {
            let columns = columns(schema).into_iter();
            let columns: Vec<_> = columns.map(|(name, kind)| format!("{name}: {kind}")).collect();
            columns.join(", ")
        };
        let (expected, found) = (text(&self.schema), text(&found));
        Err(errors::call(CallError::SchemaChanged { expected, found }))
    }
}

impl Iterator for PythonReader {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        let ended = || Err(PyRuntimeError::new_err("the interpreter is ending"));
        let pulled = Python::try_attach(|py| self.pull(py)).unwrap_or_else(ended);
        pulled.map_err(|error| ArrowError::ExternalError(Box::new(error))).transpose()
    }
}

impl RecordBatchReader for PythonReader {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}
