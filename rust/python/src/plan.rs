//! `plan`.

use arrowquant::Error;
use arrowquant::plan::Planner;
use pyo3::prelude::*;
use pyo3_arrow::{PyRecordBatch, PySchema};

use crate::errors;
use crate::input::Relation;
use crate::options::{self, CallOptions};
use crate::run::run;

/// The plan's batches, its schema, and what of `keep`, `include` and `rules` matched nothing.
type Planned = (Vec<PyRecordBatch>, PySchema, [Vec<String>; 3]);

/// Refuse a schema that no plan can have.
#[pyfunction]
pub(crate) fn check_plan(schema: PySchema) -> PyResult<()> {
    arrowquant::plan::check_plan(schema.as_ref()).map_err(errors::call)
}

/// What is to be done with each layer.
#[pyfunction]
pub(crate) fn plan(
    py: Python<'_>,
    weights: Relation,
    keep: Vec<String>,
    include: Vec<String>,
    rules: Option<Relation>,
    options: CallOptions,
) -> PyResult<Planned> {
    let core = options.core().map_err(errors::call)?;
    let weights = weights.into_weights().map_err(errors::call)?;
    let schema = weights.schema();
    let mut planner = Planner::try_new(&schema, core, &keep, &include, options::rules(py, rules)?)
        .map_err(errors::call)?;
    let schema = PySchema::new(planner.schema().clone());
    let reader = weights.into_reader();
    let (batches, unmatched) = run(py, None, move |monitor, _| {
        let plan = |batch: Result<_, _>| match monitor.is_cancelled() {
            true => Err(Error::Cancelled),
            false => planner.plan(&batch?),
        };
        let batches = reader.map(plan).collect::<Result<Vec<_>, _>>()?;
        Ok((batches, planner.unmatched()))
    })?;
    Ok((batches.into_iter().map(PyRecordBatch::new).collect(), schema, unmatched))
}
