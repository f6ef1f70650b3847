//! The module `arrowquant._core`: Arrow objects and options from Python to the core and back.
//!
//! No arithmetic happens here. Work runs on a thread of its own with the GIL released ([`run`]),
//! while the caller's thread looks after signals and progress.

mod errors;
mod memory;
mod options;
mod run;

mod compare;
mod container;
mod dequantize;
mod dlpack;
mod export;
mod ffi;
mod input;
mod numpy;
mod onnx;
mod parquet;
mod plan;
mod quantize;
mod stream;
mod temporary;

use std::collections::HashMap;

use arrowquant::settings::Kind;
use arrowquant::{ErrorCode, relation, scheme};
use pyo3::prelude::*;
use pyo3_arrow::PyRecordBatch;

#[pymodule]
mod _core {
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::compare::{
        compare, outline, outline_schema, parts_schema, split_parts, split_stacks, stacks_schema,
    };
    #[pymodule_export]
    use crate::container::{TensorFile, TensorRows, TensorWriter, content_hashes};
    #[pymodule_export]
    use crate::dequantize::{dequantize, dequantize_stream};
    #[pymodule_export]
    use crate::dlpack::DlpackArray;
    #[pymodule_export]
    use crate::export::Exporter;
    #[pymodule_export]
    use crate::ffi::plain_errors;
    #[pymodule_export]
    use crate::input::{Gathering, PyBatches};
    #[pymodule_export]
    use crate::numpy::named_weights;
    #[pymodule_export]
    use crate::onnx::OnnxGraph;
    #[pymodule_export]
    use crate::options::{Importance, Plan};
    #[pymodule_export]
    use crate::parquet::{ParquetWriter, check_storable, mapped_parquet};
    #[pymodule_export]
    use crate::plan::{check_plan, plan};
    #[pymodule_export]
    use crate::quantize::{
        ColumnMoments, PyQuantizer, absmax, quantize, quantize_stream, whole_facts,
    };
    #[pymodule_export]
    use crate::stream::{Iterated, Stream};
    #[pymodule_export]
    use crate::temporary::{Temporary, remove_abandoned};

    #[pymodule_export]
    use super::{
        default_search, dtype_bytes, dtype_elements, dtype_name, error_codes, format_metadata,
        payload_columns, quantized_columns, rows_where, schemes, searches, select, settings,
        thread_count, weight_bytes,
    };

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}

/// Every error code, for the test that looks whether each is documented and reached.
#[pyfunction]
fn error_codes() -> Vec<&'static str> {
    ErrorCode::ALL.map(ErrorCode::as_str).to_vec()
}

/// The ways of choosing parameters that a scheme has.
#[pyfunction]
fn searches(scheme: &str) -> Vec<&'static str> {
    match scheme::find(scheme) {
        Ok(scheme::Choice::Encode(found)) => found.searches().to_vec(),
        _ => Vec::new(),
    }
}

/// How a scheme, or the default one, chooses parameters where nobody says it.
#[pyfunction]
fn default_search(scheme: Option<&str>) -> &'static str {
    match scheme::find(scheme.unwrap_or(options::DEFAULT)) {
        Ok(scheme::Choice::Encode(found)) => found.defaults().search(),
        _ => "none",
    }
}

/// The names of all schemes, 'none' last.
#[pyfunction]
fn schemes() -> Vec<&'static str> {
    scheme::names().collect()
}

/// A setting's name, column, type in Python, choices, default and meaning.
type Setting =
    (&'static str, &'static str, &'static str, Vec<&'static str>, &'static str, &'static str);

/// Every setting.
#[pyfunction]
fn settings() -> Vec<Setting> {
    let told = |setting: &arrowquant::settings::Setting| {
        let (kind, choices) = match setting.kind {
            Kind::Integer => ("int", vec![]),
            Kind::Flag => ("bool", vec![]),
            Kind::Choice(choices) => ("str", choices.to_vec()),
        };
        (setting.name, setting.column, kind, choices, setting.default, setting.help)
    };
    arrowquant::settings::ALL.iter().map(told).collect()
}

/// All columns of the quantized relation's own.
#[pyfunction]
fn quantized_columns() -> Vec<&'static str> {
    let errors = |name: &&&str| !name.starts_with("error_");
    relation::quantized::RESERVED.iter().filter(errors).copied().collect()
}

/// The columns of the quantized relation that hold codes and parameters.
#[pyfunction]
fn payload_columns() -> [&'static str; 4] {
    relation::quantized::PAYLOAD
}

/// The thread count that a call with `threads=asked` uses.
#[pyfunction]
#[pyo3(signature = (asked=None))]
fn thread_count(asked: Option<i64>) -> PyResult<usize> {
    arrowquant::pool::thread_count(asked).map_err(errors::call)
}

/// Bytes of so many elements of a dtype; none where they are no whole blocks of it.
#[pyfunction]
fn dtype_bytes(name: &str, elements: u64) -> PyResult<Option<u64>> {
    let unknown = || pyo3::exceptions::PyValueError::new_err(format!("unknown dtype '{name}'"));
    Ok(arrowquant::dtype::block(name).ok_or_else(unknown)?.bytes_of(elements))
}

/// Elements in so many bytes of a dtype; none where they are no whole blocks of it.
#[pyfunction]
fn dtype_elements(name: &str, bytes: u64) -> PyResult<Option<u64>> {
    let unknown = || pyo3::exceptions::PyValueError::new_err(format!("unknown dtype '{name}'"));
    Ok(arrowquant::dtype::block(name).ok_or_else(unknown)?.elements_of(bytes))
}

/// Our name of a dtype that is called so by safetensors, torch, NumPy or ggml.
#[pyfunction]
fn dtype_name(name: &str) -> Option<&'static str> {
    arrowquant::dtype::canonical(name)
}

/// The metadata of a relation of our format.
#[pyfunction]
fn format_metadata() -> HashMap<&'static str, &'static str> {
    [(relation::FORMAT_KEY, relation::FORMAT)].into()
}

/// Bytes of weights in a batch of the weights relation.
#[pyfunction]
fn weight_bytes(py: Python<'_>, batch: PyRecordBatch) -> PyResult<u64> {
    let bytes = arrowquant::quantize::weight_bytes(batch.as_ref());
    bytes.map_err(|error| errors::raise(py, error))
}

/// The rows of a batch that are wanted, whatever the types of its columns.
#[pyfunction]
fn rows_where(py: Python<'_>, batch: PyRecordBatch, wanted: Vec<bool>) -> PyResult<PyRecordBatch> {
    let filtered = relation::rows_where(batch.as_ref(), wanted);
    filtered.map(PyRecordBatch::new).map_err(|error| errors::raise(py, error))
}

/// The rows of a batch whose `error_code`, in the batch `errors` beside it, is null; or, with
/// `failed`, the others.
#[pyfunction]
fn select(
    py: Python<'_>,
    batch: PyRecordBatch,
    errors: PyRecordBatch,
    failed: bool,
) -> PyResult<PyRecordBatch> {
    let selected = relation::select(batch.as_ref(), errors.as_ref(), failed);
    selected.map(PyRecordBatch::new).map_err(|error| errors::raise(py, error))
}
