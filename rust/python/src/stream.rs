//! Lazy streams: one batch in, one batch of the one relation out, in the order in which the
//! consumer asks.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow_array::{RecordBatch, RecordBatchReader};
use arrow_schema::{ArrowError, SchemaRef};
use arrowquant::{Error, Monitor, panics};
use pyo3::prelude::*;
use pyo3_arrow::{PyRecordBatch, PyRecordBatchReader, PySchema};

use crate::errors;
use crate::run::run;

/// What a stream has come to, for whoever holds its Python object.
#[derive(Default)]
pub(crate) struct State {
    failed: Vec<RecordBatch>,
    error: Option<Failure>,
    drained: bool,
}

enum Failure {
    Rows { message: String, failed: RecordBatch },
    Other(PyErr),
}

/// A step of a stream: the next input batch to a batch of the one relation and its failed rows.
pub(crate) type Step =
    Box<dyn FnMut(&RecordBatch, &Monitor) -> Result<(RecordBatch, RecordBatch), Error> + Send>;

/// The stream's Python object: its reader, to be taken once, and what came of it.
#[pyclass(module = "arrowquant._core", frozen)]
pub(crate) struct Stream {
    reader: Mutex<Option<Reader>>,
    schema: SchemaRef,
    failed_schema: SchemaRef,
    state: Arc<Mutex<State>>,
}

/// A lock that a panic elsewhere can't poison: the state is whole after every statement.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stream {
    pub(crate) fn new(
        source: Box<dyn RecordBatchReader + Send>,
        schema: SchemaRef,
        failed_schema: SchemaRef,
        step: Step,
    ) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let reader =
            Reader { source, step, schema: Arc::clone(&schema), state: Arc::clone(&state) };
        Self { reader: Mutex::new(Some(reader)), schema, failed_schema, state }
    }
}

#[pymethods]
impl Stream {
    /// The schema of the one relation.
    #[getter]
    fn schema(&self) -> PySchema {
        PySchema::new(Arc::clone(&self.schema))
    }

    /// The schema of the failed relation.
    #[getter]
    fn failed_schema(&self) -> PySchema {
        PySchema::new(Arc::clone(&self.failed_schema))
    }

    /// The reader, the first time; None after that.
    fn take(&self) -> Option<PyRecordBatchReader> {
        lock(&self.reader).take().map(|reader| PyRecordBatchReader::new(Box::new(reader)))
    }

    /// Hand the stream out to be iterated, the first time; None after that.
    fn iterate(&self) -> Option<Iterated> {
        lock(&self.reader).take().map(|reader| Iterated(Mutex::new(Some(reader))))
    }

    /// Whether the consumer has read to the end.
    #[getter]
    fn drained(&self) -> bool {
        lock(&self.state).drained
    }

    /// The failed rows of the batches read so far.
    #[getter]
    fn failed(&self) -> Vec<PyRecordBatch> {
        lock(&self.state).failed.iter().cloned().map(PyRecordBatch::new).collect()
    }

    /// The exception that ended the stream, if one did.
    #[getter]
    fn error(&self, py: Python<'_>) -> Option<PyErr> {
        let state = lock(&self.state);
        Some(match state.error.as_ref()? {
            Failure::Rows { message, failed } => {
                let (message, failed) = (message.clone(), failed.clone());
                drop(state);
                errors::quantization_error(py, message, failed)
            }
            Failure::Other(error) => error.clone_ref(py),
        })
    }
}

struct Reader {
    source: Box<dyn RecordBatchReader + Send>,
    step: Step,
    schema: SchemaRef,
    state: Arc<Mutex<State>>,
}

impl Reader {
    /// Pull on the calling thread, which may hold the GIL, and let the input go on it too: another
    /// thread that had to wait for the GIL to do either would wait for ever.
    fn pull(&mut self, monitor: &Monitor) -> Option<Result<RecordBatch, Error>> {
        let batch = match self.source.next()? {
            Ok(batch) => batch,
            Err(error) => return Some(Err(error.into())),
        };
        Some((self.step)(&batch, monitor).map(|(one, failed)| {
            if failed.num_rows() > 0 {
                lock(&self.state).failed.push(failed);
            }
            one
        }))
    }

    /// Keep the error for `Stream.error`, and word it for the engine. A zero byte would end a C
    /// string early.
    fn end(&mut self, error: Error) -> ArrowError {
        let text = error.to_string().replace('\0', "\\0");
        let failure = match error {
            Error::Rows { message, failed } => Failure::Rows { message, failed },
            other => Failure::Other(errors::without_rows(other)),
        };
        let mut state = lock(&self.state);
        state.error = Some(failure);
        state.drained = true;
        ArrowError::ExternalError(text.into())
    }
}

/// A stream read by Python code: each batch is made on a thread of its own, so that Ctrl-C gets
/// through.
#[pyclass(module = "arrowquant._core", frozen)]
pub(crate) struct Iterated(Mutex<Option<Reader>>);

#[pymethods]
impl Iterated {
    /// The next batch; None at the end, and after an interruption.
    fn next(&self, py: Python<'_>) -> PyResult<Option<PyRecordBatch>> {
        let Some(mut reader) = lock(&self.0).take() else { return Ok(None) };
        let (batch, reader) = run(py, None, move |monitor, _| {
            let batch = reader.next_batch(monitor);
            Ok((batch, reader))
        })?;
        let ended = batch.is_none();
        let batch = batch.transpose().map_err(|error| errors::raise(py, error.into()))?;
        if !ended {
            *lock(&self.0) = Some(reader);
        }
        Ok(batch.map(PyRecordBatch::new))
    }
}

impl Reader {
    fn next_batch(&mut self, monitor: &Monitor) -> Option<Result<RecordBatch, ArrowError>> {
        if lock(&self.state).drained {
            return None;
        }
        // Nothing may unwind into the C code that called us.
        match panics::catch(|| self.pull(monitor)) {
            Ok(Some(Ok(batch))) => Some(Ok(batch)),
            Ok(Some(Err(error))) => Some(Err(self.end(error))),
            Ok(None) => {
                lock(&self.state).drained = true;
                None
            }
            Err(panic) => {
                let error = ArrowError::ComputeError(format!("internal: {panic}"));
                Some(Err(self.end(error.into())))
            }
        }
    }
}

impl Iterator for Reader {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        // An engine that wants no more stops asking.
        self.next_batch(&Monitor::default())
    }
}

impl RecordBatchReader for Reader {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}
