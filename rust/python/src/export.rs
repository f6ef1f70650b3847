//! What a runtime's format needs of layers.

use arrowquant::sink::compressed_tensors::{self as format, Layer};
use pyo3::prelude::*;
use pyo3_arrow::PyRecordBatch;

use crate::errors;

/// Name, dtype and shape of the tensors of a quantized layer; or why the format can't hold it.
type Specs = (Vec<(String, String, Vec<i64>)>, Option<String>);

/// compressed-tensors' tensors of a quantized layer.
#[pyfunction]
pub(crate) fn compressed_tensors_specs(
    name: String,
    shape: Vec<i64>,
    scheme: String,
    group_size: i64,
    symmetric: bool,
    scale_dtype: String,
) -> Specs {
    let layer = Layer { name, shape, scheme, group_size, symmetric, scale_dtype };
    match format::specs(&layer) {
        Ok(specs) => {
            let spec = specs.into_iter().map(|spec| (spec.name, spec.dtype, spec.shape));
            (spec.collect(), None)
        }
        Err(why) => (Vec::new(), Some(why)),
    }
}

/// The tensors of a batch of a quantized relation, as rows of a weights relation.
#[pyfunction]
pub(crate) fn compressed_tensors(py: Python<'_>, batch: PyRecordBatch) -> PyResult<PyRecordBatch> {
    let batch = batch.into_inner();
    let tensors = py.detach(|| format::tensors(&batch));
    tensors.map(PyRecordBatch::new).map_err(|error| errors::raise(py, error))
}
