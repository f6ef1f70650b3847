//! The module `arrowquant._core`: Arrow objects and options from Python to the core and back.
//!
//! No arithmetic happens here. Work runs on a thread of its own with the GIL released ([`run`]),
//! while the caller's thread looks after signals and progress.

mod errors;
mod options;
mod run;

mod dequantize;
mod plan;
mod quantize;
mod safetensors;
mod stream;

use arrowquant::{ErrorCode, scheme};
use pyo3::prelude::*;

#[pymodule]
mod _core {
    #[pymodule_export]
    use crate::dequantize::{dequantize, dequantize_stream};
    #[pymodule_export]
    use crate::plan::plan;
    #[pymodule_export]
    use crate::quantize::{PyQuantizer, quantize, quantize_stream};
    #[pymodule_export]
    use crate::safetensors::{SafetensorsFile, SafetensorsWriter};
    #[pymodule_export]
    use crate::stream::Stream;

    #[pymodule_export]
    use super::{error_codes, schemes, thread_count};
}

/// Every error code, for the test that looks whether each is documented and reached.
#[pyfunction]
fn error_codes() -> Vec<&'static str> {
    ErrorCode::ALL.map(ErrorCode::as_str).to_vec()
}

/// The names of all schemes, 'none' last.
#[pyfunction]
fn schemes() -> Vec<&'static str> {
    scheme::ALL.iter().map(|scheme| scheme.name()).chain([scheme::NONE]).collect()
}

/// The thread count that a call with `threads=asked` uses.
#[pyfunction]
#[pyo3(signature = (asked=None))]
fn thread_count(asked: Option<i64>) -> PyResult<usize> {
    arrowquant::pool::thread_count(asked).map_err(errors::call)
}
