//! From the core's errors to Python's exceptions.

use std::path::Path;

use arrow_schema::ArrowError;
use arrowquant::{CallError, Error};
use pyo3::exceptions::{
    PyKeyboardInterrupt, PyMemoryError, PyOSError, PyRuntimeError, PyTypeError, PyValueError,
};
use pyo3::prelude::*;
use pyo3_arrow::PyRecordBatch;

/// A wrong call: TypeError for a type that can't be, OSError for a file, else ValueError.
pub(crate) fn call(error: CallError) -> PyErr {
    let text = error.to_string();
    match error {
        CallError::WrongType { .. } => PyTypeError::new_err(text),
        CallError::File { .. } => PyOSError::new_err(text),
        _ => PyValueError::new_err(text),
    }
}

/// Any error of the core.
pub(crate) fn raise(py: Python<'_>, error: Error) -> PyErr {
    match error {
        Error::Rows { message, failed } => quantization_error(py, message, failed),
        other => without_rows(other),
    }
}

/// Any error of the core but that of rows, which needs the interpreter: this is also called where
/// no Python may run.
pub(crate) fn without_rows(error: Error) -> PyErr {
    match error {
        Error::Call(error) => call(error),
        Error::Rows { message, .. } => PyValueError::new_err(message),
        Error::Arrow(error) => arrow(error),
        Error::Cancelled => PyKeyboardInterrupt::new_err(()),
        Error::Io(error) => error.into(),
    }
}

/// An error of reading or writing `path`, as the exception that Python has for its kind.
pub(crate) fn io(path: &Path, error: &std::io::Error) -> PyErr {
    let text = format!("{}: {error}", path.display());
    std::io::Error::new(error.kind(), text).into()
}

/// `arrowquant.QuantizationError` with its `failed` table.
pub(crate) fn quantization_error(
    py: Python<'_>,
    message: String,
    failed: arrow_array::RecordBatch,
) -> PyErr {
    let made = py
        .import("arrowquant._errors")
        .and_then(|module| module.getattr("QuantizationError"))
        .and_then(|class| class.call1((message, PyRecordBatch::new(failed))));
    made.map_or_else(|error| error, PyErr::from_value)
}

/// An error of the source: the Python exception that it was, where it still is one.
fn arrow(error: ArrowError) -> PyErr {
    match error {
        ArrowError::ExternalError(source) => match source.downcast::<PyErr>() {
            Ok(error) => *error,
            Err(source) => PyOSError::new_err(source.to_string()),
        },
        ArrowError::IoError(text, _) => PyOSError::new_err(text),
        ArrowError::MemoryError(text) => PyMemoryError::new_err(text),
        ArrowError::CDataInterface(text) => PyRuntimeError::new_err(without_traceback(text)),
        other => PyValueError::new_err(other.to_string()),
    }
}

/// What an exception said that came through Arrow's C interface: pyarrow adds where in the source's
/// code it was raised.
fn without_traceback(mut text: String) -> String {
    if let Some(end) = text.find(". Detail: Python exception:") {
        text.truncate(end);
    }
    text
}

/// A fault of our own, outside any row.
pub(crate) fn panic(message: &str) -> PyErr {
    PyRuntimeError::new_err(format!("a fault of arrowquant's own: {message}. Please report it."))
}
