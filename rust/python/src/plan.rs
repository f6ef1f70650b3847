//! `plan`.

use arrowquant::Error;
use arrowquant::plan::Planner;
use pyo3::prelude::*;
use pyo3_arrow::input::AnyRecordBatch;
use pyo3_arrow::{PyRecordBatch, PySchema};

use crate::errors;
use crate::options::{self, CallOptions};
use crate::run::run;

/// The plan's batches, its schema, and the patterns of `keep` and of `rules` that matched nothing.
type Planned = (Vec<PyRecordBatch>, PySchema, (Vec<String>, Vec<String>));

/// What is to be done with each layer.
#[pyfunction]
pub(crate) fn plan(
    py: Python<'_>,
    weights: AnyRecordBatch,
    keep: Vec<String>,
    rules: Option<AnyRecordBatch>,
    options: CallOptions,
) -> PyResult<Planned> {
    let core = options.core().map_err(errors::call)?;
    let schema = weights.schema()?;
    let mut planner =
        Planner::try_new(&schema, core, &keep, options::rules(py, rules)?).map_err(errors::call)?;
    let schema = PySchema::new(planner.schema().clone());
    let reader = weights.into_reader()?;
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
