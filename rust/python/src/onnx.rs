//! ONNX models without their numbers.

use std::path::PathBuf;

use arrowquant::container::onnx::{self, Graph};
use arrowquant::source::Source;
use bytes::Bytes;
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;

use crate::numpy::Memory;

/// Name, operator, domain, inputs, outputs, attributes that are numbers.
type Node = (String, String, String, Vec<String>, Vec<String>, Vec<(String, Vec<f64>)>);
/// File, name, dtype, shape, and where its bytes begin and end.
type External = (String, String, String, Vec<i64>, u64, u64);

/// An ONNX model without its numbers.
#[pyclass(module = "arrowquant._core", frozen)]
pub(crate) struct OnnxGraph(Graph);

#[pymethods]
impl OnnxGraph {
    /// The model of a file, or of its bytes.
    #[new]
    fn read(
        py: Python<'_>,
        path: PathBuf,
        mmap: bool,
        data: Option<PyBuffer<u8>>,
    ) -> PyResult<Self> {
        let given = data.map(|data| Bytes::from_owner(Memory(data)).into());
        let read = || {
            let source = match given {
                Some(bytes) => Source::given(&path, bytes),
                None => Source::open(&path, mmap).map_err(|error| error.to_string())?,
            };
            onnx::read(&source)
        };
        let found = py.detach(read);
        found.map(Self).map_err(|why| PyOSError::new_err(format!("{}: {why}", path.display())))
    }

    /// All nodes.
    fn nodes(&self) -> Vec<Node> {
        let node = |node: &onnx::Node| {
            let onnx::Node { name, operator, domain, inputs, outputs, attributes } = node.clone();
            (name, operator, domain, inputs, outputs, attributes)
        };
        self.0.nodes.iter().map(node).collect()
    }

    /// The values that come out of the model.
    #[getter]
    fn outputs(&self) -> Vec<String> {
        self.0.outputs.clone()
    }

    /// Domains of operators and their versions.
    #[getter]
    fn opsets(&self) -> Vec<(String, i64)> {
        self.0.opsets.clone()
    }

    /// The tensors whose numbers lie in other files.
    fn external(&self) -> Vec<External> {
        let tensor = |tensor: &onnx::External| {
            let entry = tensor.entry.clone();
            let file = tensor.file.clone();
            (file, entry.name, entry.dtype, entry.shape, entry.start, entry.end)
        };
        self.0.external.iter().map(tensor).collect()
    }

    /// The values that graphs in the graph name themselves, and those that come out of them.
    #[getter]
    fn nested(&self) -> (Vec<String>, Vec<String>) {
        self.0.nested.clone()
    }

    /// Tensors that are no rows and stay in the graph.
    #[getter]
    fn others(&self) -> Vec<String> {
        self.0.others.clone()
    }
}
