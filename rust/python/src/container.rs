//! Files of named tensors, read and written.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use arrowquant::container::gguf::Pair;
use arrowquant::container::meaning::{Codes, Meaning, Stack};
use arrowquant::container::reader::TensorRows as Rows;
use arrowquant::container::tensors::TensorFile as File;
use arrowquant::container::{self, Value};
use arrowquant::sink::tensor_writer::TensorWriter as Writer;
use arrowquant::sink::{TensorSpec, data_writer, gguf_writer, safetensors_writer};
use arrowquant::{Error, content, pool};
use bytes::Bytes;
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use pyo3_arrow::{PyRecordBatch, PyRecordBatchReader};

use crate::errors;
use crate::numpy::Memory;

/// A tensor's name, dtype, shape, and bytes.
type Entry = (String, String, Vec<i64>, u64);
/// A tensor's name, and where its bytes begin and end.
type Placed = (String, u64, u64);
/// An entry with where its bytes begin and end, in place of their number.
type Told = (String, String, Vec<i64>, u64, u64);
/// What a tensor means; see [`Meaning`].
#[derive(FromPyObject)]
struct Said<'py> {
    role: Option<String>,
    keep_reason: Option<String>,
    companion_of: Option<String>,
    /// The count and contracted axis of the matrices that it is a stack of.
    stack: Option<(usize, Option<i8>)>,
    packed: Option<SaidCodes<'py>>,
    is_consumed: bool,
}

/// See [`Codes`].
#[derive(FromPyObject)]
struct SaidCodes<'py> {
    format: String,
    layer: String,
    dtype: String,
    numbers: HashMap<String, i64>,
    /// What each is, its file and its name.
    sides: Vec<(String, Bound<'py, TensorFile>, String)>,
    companions: Vec<String>,
}

impl From<SaidCodes<'_>> for Codes {
    fn from(said: SaidCodes<'_>) -> Self {
        let side =
            |(role, file, name): (_, Bound<'_, TensorFile>, _)| (role, file.get().0.clone(), name);
        Self {
            format: said.format,
            layer: said.layer,
            dtype: said.dtype,
            numbers: said.numbers.into_iter().collect(),
            sides: said.sides.into_iter().map(side).collect(),
            companions: said.companions,
        }
    }
}

/// An opened file of named tensors whose header was checked.
#[pyclass(module = "arrowquant._core", frozen)]
pub(crate) struct TensorFile(File);

#[pymethods]
impl TensorFile {
    #[new]
    fn open(py: Python<'_>, path: PathBuf, mmap: bool) -> PyResult<Self> {
        py.detach(|| File::open(&path, mmap)).map(Self).map_err(errors::call)
    }

    /// The same of the bytes of a file, which messages call `name`.
    #[staticmethod]
    fn given(py: Python<'_>, name: PathBuf, data: PyBuffer<u8>) -> PyResult<Self> {
        let bytes = Bytes::from_owner(Memory(data)).into();
        py.detach(|| File::given(&name, bytes)).map(Self).map_err(errors::call)
    }

    /// A file that says nothing of its tensors: their names, dtypes, shapes, starts and ends.
    #[staticmethod]
    fn told(py: Python<'_>, path: PathBuf, mmap: bool, tensors: Vec<Told>) -> PyResult<Self> {
        let entry =
            |(name, dtype, shape, start, end)| container::Entry { name, dtype, shape, start, end };
        let entries = tensors.into_iter().map(entry).collect();
        py.detach(|| File::told(&path, mmap, entries)).map(Self).map_err(errors::call)
    }

    /// The tensors, in the order of their bytes.
    fn entries(&self) -> Vec<Entry> {
        let entries = self.0.entries().iter();
        entries
            .map(|entry| {
                let size = entry.end - entry.start;
                (entry.name.clone(), entry.dtype.clone(), entry.shape.clone(), size)
            })
            .collect()
    }

    /// What the file says beside its tensors.
    fn metadata<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let said = PyDict::new(py);
        for (key, value) in self.0.metadata() {
            said.set_item(key, object(py, value)?)?;
        }
        Ok(said)
    }

    /// Why the file is read although it was to be mapped.
    #[getter]
    fn not_mapped(&self) -> Option<&str> {
        self.0.source().not_mapped()
    }

    /// Whether the file at the path is still the one that was opened.
    fn is_unchanged(&self) -> bool {
        self.0.source().is_unchanged()
    }

    /// Why a tensor is no weights that these codes say; nothing where it is.
    fn why_not(&self, name: &str, codes: SaidCodes<'_>) -> Option<String> {
        Rows::why_not(&self.0, name, &codes.into())
    }

    /// The file's tensors as rows, with what each means, in any order of them.
    fn rows(
        &self,
        meanings: Vec<Said<'_>>,
        part_bytes: u64,
        order: Option<Vec<usize>>,
    ) -> PyResult<TensorRows> {
        let meanings: Vec<_> = meanings.into_iter().map(meaning).collect();
        let rows = Rows::try_new(&self.0, &meanings, part_bytes, order.as_deref());
        rows.map(TensorRows).map_err(errors::call)
    }
}

fn meaning(said: Said<'_>) -> Meaning {
    let Said { role, keep_reason, companion_of, stack, packed, is_consumed } = said;
    let stack = stack.map(|(count, axis)| Stack { count, axis });
    let packed = packed.map(Codes::from);
    Meaning { role, keep_reason, companion_of, stack, packed, is_consumed }
}

fn object<'py>(py: Python<'py>, value: &Value) -> PyResult<Bound<'py, PyAny>> {
    Ok(match value {
        Value::Text(text) => text.into_pyobject(py)?.into_any(),
        Value::Signed(number) => number.into_pyobject(py)?.into_any(),
        Value::Unsigned(number) => number.into_pyobject(py)?.into_any(),
        Value::Float(number) => number.into_pyobject(py)?.into_any(),
        Value::Bool(yes) => yes.into_pyobject(py)?.to_owned().into_any(),
        Value::List(values) => {
            let list = PyList::empty(py);
            for value in values {
                list.append(object(py, value)?)?;
            }
            list.into_any()
        }
    })
}

/// The rows of a file of tensors.
#[pyclass(module = "arrowquant._core", frozen)]
pub(crate) struct TensorRows(Rows);

#[pymethods]
impl TensorRows {
    /// A stream of the weights relation, from row `first` on and so many rows; without `data` for a
    /// plan.
    fn reader(&self, with_data: bool, first: usize, count: usize) -> PyRecordBatchReader {
        let rows = first..first.saturating_add(count);
        PyRecordBatchReader::new(Box::new(self.0.range(rows, with_data)))
    }

    /// Part index and bytes of each row.
    fn pieces(&self) -> Vec<(i32, u64)> {
        self.0.pieces().collect()
    }

    /// How many layers there are.
    #[getter]
    fn layers(&self) -> usize {
        self.0.layers()
    }

    fn __len__(&self) -> usize {
        self.0.len()
    }
}

/// The XXH3 hash, of 128 bits, of each row's data.
#[pyfunction]
pub(crate) fn content_hashes(
    py: Python<'_>,
    batch: PyRecordBatch,
    threads: Option<i64>,
) -> PyResult<Vec<Option<u128>>> {
    let pool = pool::thread_count(threads).and_then(pool::with_threads).map_err(errors::call)?;
    let batch = batch.into_inner();
    let hashes = py.detach(|| content::hashes(&batch, &pool));
    hashes.map_err(|error| errors::raise(py, error))
}

/// A file that is written tensor by tensor and gets its name at the end.
#[pyclass(module = "arrowquant._core", frozen)]
pub(crate) struct TensorWriter {
    writer: Mutex<Option<Writer>>,
    path: PathBuf,
    overwrite: bool,
}

/// A tensor's name, dtype and shape.
type Spec = (String, String, Vec<i64>);

fn specs(tensors: Vec<Spec>) -> Vec<TensorSpec> {
    let spec = |(name, dtype, shape)| TensorSpec { name, dtype, shape };
    tensors.into_iter().map(spec).collect()
}

/// A GGUF file's key that gets another value.
#[derive(FromPyObject)]
enum Change {
    Number(u32),
    Text(String),
}

impl TensorWriter {
    fn new(writer: Writer, path: PathBuf, overwrite: bool) -> Self {
        Self { writer: Mutex::new(Some(writer)), path, overwrite }
    }
}

#[pymethods]
impl TensorWriter {
    /// A safetensors file.
    #[staticmethod]
    fn safetensors(
        path: PathBuf,
        tensors: Vec<Spec>,
        metadata: BTreeMap<String, String>,
        overwrite: bool,
    ) -> PyResult<Self> {
        let writer = safetensors_writer::create(&path, specs(tensors), metadata);
        Ok(Self::new(writer.map_err(errors::call)?, path, overwrite))
    }

    /// A GGUF file with the keys of `source`, but those in `dropped`, and those in `changed`.
    #[staticmethod]
    fn gguf(
        path: PathBuf,
        tensors: Vec<Spec>,
        source: &TensorFile,
        dropped: HashSet<String>,
        changed: Vec<(String, Change)>,
        overwrite: bool,
    ) -> PyResult<Self> {
        let mut pairs = source.0.pairs().map_err(errors::call)?;
        pairs.retain(|pair| {
            !dropped.contains(&pair.key) && changed.iter().all(|(key, _)| *key != pair.key)
        });
        pairs.extend(changed.into_iter().map(|(key, value)| match value {
            Change::Number(number) => Pair::number(&key, number),
            Change::Text(text) => Pair::text(&key, &text),
        }));
        let writer = gguf_writer::create(&path, specs(tensors), &pairs);
        Ok(Self::new(writer.map_err(errors::call)?, path, overwrite))
    }

    /// A file of numbers alone, and where in it each tensor begins and ends.
    #[staticmethod]
    fn data(path: PathBuf, tensors: Vec<Spec>, overwrite: bool) -> PyResult<(Self, Vec<Placed>)> {
        let (writer, places) = data_writer::create(&path, specs(tensors)).map_err(errors::call)?;
        let places = places.into_iter().map(|(name, range)| (name, range.start, range.end));
        Ok((Self::new(writer, path, overwrite), places.collect()))
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
