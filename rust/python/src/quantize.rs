//! `quantize` and `quantize_stream`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::RecordBatch;
use arrow_schema::Schema;
use arrowquant::quantize::whole::{self, Moments, Need};
use arrowquant::relation::side_by_side;
use arrowquant::{Monitor, Quantizer, pool};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3_arrow::{PyRecordBatch, PySchema};

use crate::errors;
use crate::input::Relation;
use crate::options::{self, CallOptions, GivenPlan, Pool};
use crate::run::run;
use crate::stream::Stream;

/// Quantized, error and failed batches, and their schemas.
pub(crate) type Batches = (Vec<PyRecordBatch>, Vec<PyRecordBatch>, Vec<PyRecordBatch>);
/// The schemas of the three.
pub(crate) type Schemas = (PySchema, PySchema, PySchema);

pub(crate) fn schemas(schemas: &arrowquant::quantize::Schemas) -> Schemas {
    let schema = |schema: &arrow_schema::SchemaRef| PySchema::new(schema.clone());
    (schema(&schemas.quantized), schema(&schemas.errors), schema(&schemas.failed))
}

/// Put batches of three kinds into lists of each kind.
pub(crate) fn lists(batches: Vec<[RecordBatch; 3]>) -> Batches {
    let mut lists = Batches::default();
    for [first, second, third] in batches {
        lists.0.push(PyRecordBatch::new(first));
        lists.1.push(PyRecordBatch::new(second));
        lists.2.push(PyRecordBatch::new(third));
    }
    lists
}

/// All that can be wrong with the call, before any work.
fn prepare(
    py: Python<'_>,
    schema: &Schema,
    plan: Option<GivenPlan<'_>>,
    options: &CallOptions,
) -> PyResult<(Quantizer, Arc<Pool>)> {
    let core = options.core().map_err(errors::call)?;
    let pool = options.pool().map_err(errors::call)?;
    let plan = options::plan(py, plan)?;
    let quantizer = Quantizer::try_new(schema, core, plan, options.continue_on_error);
    Ok((quantizer.map_err(errors::call)?, pool))
}

/// The weights; of a quantized relation, if the call or a plan says what to do with it, its rows as
/// packed ones.
fn packed(weights: Relation, has_plan: bool, options: &CallOptions) -> PyResult<Relation> {
    if has_plan || options.says_scheme() {
        return weights.into_weights().map_err(errors::call);
    }
    Ok(weights)
}

/// Quantize all of `weights`. For progress, `total` tells its bytes and layers where they are known;
/// with `sized` all of it is at hand, and they are counted.
#[pyfunction]
#[pyo3(signature = (weights, plan, options, progress, sized, total))]
pub(crate) fn quantize(
    py: Python<'_>,
    weights: Relation,
    plan: Option<GivenPlan<'_>>,
    options: CallOptions,
    progress: Option<Py<PyAny>>,
    sized: bool,
    total: Option<(u64, u64)>,
) -> PyResult<(Batches, Schemas)> {
    let weights = packed(weights, plan.is_some(), &options)?;
    let (mut quantizer, pool) = prepare(py, &weights.schema(), plan, &options)?;
    let schemas = schemas(quantizer.schemas());
    let reader = weights.into_reader();
    let batches = run(py, progress, move |monitor, progress_total| {
        if let Some((bytes, layers)) = total {
            progress_total.set(bytes, layers);
        }
        let mut outputs = Vec::new();
        let mut quantize = |batch: &RecordBatch| {
            let out = quantizer.quantize(batch, &pool, monitor)?;
            outputs.push([out.quantized, out.errors, out.failed]);
            Ok::<(), arrowquant::Error>(())
        };
        if sized && monitor.is_watched() {
            let batches = reader.collect::<Result<Vec<_>, _>>()?;
            let rows = batches.iter().map(|batch| batch.num_rows() as u64).sum();
            let bytes = |batch| arrowquant::quantize::weight_bytes(batch);
            let bytes = batches.iter().map(bytes).sum::<Result<u64, _>>()?;
            progress_total.set(bytes, rows);
            batches.iter().try_for_each(&mut quantize)?;
        } else {
            for batch in reader {
                quantize(&batch?)?;
            }
        }
        Ok(outputs)
    })?;
    Ok((lists(batches), schemas))
}

/// Quantizes the batches of one stream, one call each.
#[pyclass(module = "arrowquant._core", frozen, name = "Quantizer")]
pub(crate) struct PyQuantizer {
    /// Away while a batch is quantized.
    quantizer: Mutex<Option<Quantizer>>,
    threads: usize,
    schemas: arrowquant::quantize::Schemas,
}

#[pymethods]
impl PyQuantizer {
    #[new]
    fn new(
        py: Python<'_>,
        schema: PySchema,
        plan: Option<GivenPlan<'_>>,
        options: CallOptions,
        first_row_index: i64,
    ) -> PyResult<Self> {
        let (quantizer, pool) = prepare(py, &schema.into_inner(), plan, &options)?;
        let quantizer = quantizer.starting_at(first_row_index);
        let schemas = quantizer.schemas().clone();
        let threads = pool.current_num_threads();
        Ok(Self { quantizer: Mutex::new(Some(quantizer)), threads, schemas })
    }

    /// The schemas of the quantized, error and failed relations.
    #[getter]
    fn schemas(&self) -> Schemas {
        schemas(&self.schemas)
    }

    /// The quantized, error and failed batches of the next batch.
    fn quantize(
        &self,
        py: Python<'_>,
        batch: PyRecordBatch,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<(PyRecordBatch, PyRecordBatch, PyRecordBatch)> {
        let lock = || self.quantizer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut quantizer = lock().take().ok_or_else(|| {
            PyRuntimeError::new_err(
                "the quantizer is at work in another thread, or was interrupted",
            )
        })?;
        let (batch, threads) = (batch.into_inner(), self.threads);
        let (out, quantizer) = run(py, progress, move |monitor, _| {
            let pool = pool::with_threads(threads)?;
            let out = quantizer.quantize(&batch, &pool, monitor)?;
            Ok((out, quantizer))
        })?;
        *lock() = Some(quantizer);
        let [one, two, three] = [out.quantized, out.errors, out.failed].map(PyRecordBatch::new);
        Ok((one, two, three))
    }
}

/// A stream that quantizes as it is read.
#[pyfunction]
pub(crate) fn quantize_stream(
    py: Python<'_>,
    weights: Relation,
    plan: Option<GivenPlan<'_>>,
    options: CallOptions,
) -> PyResult<Stream> {
    let weights = packed(weights, plan.is_some(), &options)?;
    let (mut quantizer, pool) = prepare(py, &weights.schema(), plan, &options)?;
    let (one, failed) = (quantizer.schemas().one.clone(), quantizer.schemas().failed.clone());
    let schema = one.clone();
    let threads = pool.current_num_threads();
    let step = move |batch: &RecordBatch, monitor: &Monitor| {
        // Asked for anew each time: after a fork it is another one.
        let pool = pool::with_threads(threads)?;
        let out = quantizer.quantize(batch, &pool, monitor)?;
        Ok((side_by_side(&schema, &out.quantized, &out.errors)?, out.failed))
    };
    Ok(Stream::new(weights.into_reader(), one, failed, Box::new(step)))
}

/// What each row needs to know of more than its own values. A largest magnitude: `layer`, that of all of its
/// layer; `siblings`, that of all layers that a runtime puts together; or none. And whether it needs to know
/// how much columns matter by the weights of all of its layer.
#[pyfunction]
pub(crate) fn whole_facts(
    py: Python<'_>,
    batch: PyRecordBatch,
    plan: Option<GivenPlan<'_>>,
    options: CallOptions,
) -> PyResult<Vec<(Option<&'static str>, bool)>> {
    let (core, plan) = (options.core().map_err(errors::call)?, options::plan(py, plan)?);
    let needs = py.detach(|| whole::needs(batch.as_ref(), &plan, &core));
    let needs = needs.map_err(|error| errors::raise(py, error))?;
    let named = |need: Need| match need {
        Need::Layer => "layer",
        Need::Siblings => "siblings",
    };
    Ok(needs.into_iter().map(|need| (need.absmax.map(named), need.columns)).collect())
}

/// The largest magnitude of each row's finite values; none where it has no floats.
#[pyfunction]
pub(crate) fn absmax(
    py: Python<'_>,
    batch: PyRecordBatch,
    threads: Option<i64>,
) -> PyResult<Vec<Option<f32>>> {
    let pool = pool::with_threads(pool::thread_count(threads).map_err(errors::call)?);
    let (batch, pool) = (batch.into_inner(), pool.map_err(errors::call)?);
    run(py, None, move |monitor, _| whole::absmax(&batch, &pool, monitor))
}

/// How much columns matter by the weights of layers that come in parts.
#[pyclass(module = "arrowquant._core", frozen)]
#[derive(Default)]
pub(crate) struct ColumnMoments(Arc<Mutex<BTreeMap<String, Moments>>>);

#[pymethods]
impl ColumnMoments {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// Add the rows of a batch; those that have no floats say nothing.
    fn add(&self, py: Python<'_>, batch: PyRecordBatch, threads: Option<i64>) -> PyResult<()> {
        let pool = pool::with_threads(pool::thread_count(threads).map_err(errors::call)?);
        let (batch, pool, known) =
            (batch.into_inner(), pool.map_err(errors::call)?, self.0.clone());
        run(py, None, move |monitor, _| {
            let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
            whole::add_moments(&mut known, &batch, &pool, monitor)
        })
    }

    /// A table of importance: a list for each layer, null where the weights say nothing.
    fn table(&self, py: Python<'_>) -> PyResult<PyRecordBatch> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let table = whole::suggest(&known).map_err(|error| errors::raise(py, error))?;
        Ok(PyRecordBatch::new(table))
    }
}
