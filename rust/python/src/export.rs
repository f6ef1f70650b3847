//! Quantized rows as the tensors of a runtime's format.

use std::collections::HashMap;

use arrowquant::export::{self, Exporter as Core, Layer, Selection, Target};
use arrowquant::sink::TensorSpec;
use pyo3::prelude::*;
use pyo3_arrow::PyRecordBatch;

use crate::errors;
use crate::options::{Said, settings_of};

/// Name, dtype and shape.
type Spec = (String, String, Vec<i64>);

/// A layer as its rows say; `scheme` is nothing where it is written as it is, or decoded.
#[derive(FromPyObject)]
struct SaidLayer {
    name: String,
    dtype: String,
    shape: Vec<i64>,
    scheme: Option<String>,
    settings: HashMap<String, Said>,
    tensor_scale: Option<f32>,
}

/// Where rows of a layer go.
#[derive(FromPyObject)]
struct SaidTarget {
    name: String,
    first: usize,
    step: usize,
    count: usize,
    stack: Option<(usize, usize)>,
}

/// Turns layers into a format's tensors.
#[pyclass(module = "arrowquant._core")]
pub(crate) struct Exporter(Core);

#[pymethods]
impl Exporter {
    #[new]
    fn new(layout: &str) -> PyResult<Self> {
        export::find(layout).map(|format| Self(Core::new(format))).map_err(errors::call)
    }

    /// The tensors of a layer whose rows go there; or why the format can't hold it.
    fn add(
        &mut self,
        layer: SaidLayer,
        targets: Vec<SaidTarget>,
    ) -> PyResult<(Vec<Vec<Spec>>, Option<String>)> {
        let SaidLayer { name, dtype, shape, scheme, settings, tensor_scale } = layer;
        let of = match shape.as_slice() {
            &[rows, _] => usize::try_from(rows).unwrap_or(0),
            _ => 0,
        };
        let settings = settings_of(&settings).map_err(errors::call)?;
        let layer = Layer { name, dtype, shape, scheme, settings, tensor_scale };
        let target = |SaidTarget { name, first, step, count, stack }| {
            let selection = Selection { first, step, count, of };
            Target { name, selection, stack }
        };
        let told = self.0.add(&layer, targets.into_iter().map(target).collect());
        Ok(match told {
            Ok(targets) => {
                let spec = |spec: TensorSpec| (spec.name, spec.dtype, spec.shape);
                let specs = |specs: Vec<TensorSpec>| specs.into_iter().map(spec).collect();
                (targets.into_iter().map(specs).collect(), None)
            }
            Err(why) => (Vec::new(), Some(why)),
        })
    }

    /// The layers of a batch, which may lack `data`, whose parameters the format can't say, and why.
    fn check(&self, py: Python<'_>, batch: PyRecordBatch) -> PyResult<Vec<(String, String)>> {
        let batch = batch.into_inner();
        let refused = py.detach(|| self.0.check(&batch));
        refused.map_err(|error| errors::raise(py, error))
    }

    /// The tensors of a batch of a quantized relation, as rows for a writer.
    fn tensors(&self, py: Python<'_>, batch: PyRecordBatch) -> PyResult<PyRecordBatch> {
        let batch = batch.into_inner();
        let tensors = py.detach(|| self.0.tensors(&batch));
        tensors.map(PyRecordBatch::new).map_err(|error| errors::raise(py, error))
    }

    /// The same of a batch of weights, whose elements are written as they are.
    fn plain(&self, py: Python<'_>, batch: PyRecordBatch) -> PyResult<PyRecordBatch> {
        let batch = batch.into_inner();
        let tensors = py.detach(|| self.0.plain(&batch));
        tensors.map(PyRecordBatch::new).map_err(|error| errors::raise(py, error))
    }
}
