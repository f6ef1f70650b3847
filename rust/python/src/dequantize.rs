//! `dequantize` and `dequantize_stream`.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrowquant::dequantize::Target;
use arrowquant::relation::side_by_side;
use arrowquant::{Dequantizer, Monitor, pool};
use pyo3::prelude::*;

use crate::errors;
use crate::input::Relation;
use crate::quantize::{Batches, Schemas, lists, schemas};
use crate::run::run;
use crate::stream::Stream;

fn prepare(
    quantized: &Relation,
    dtype: &str,
    threads: Option<i64>,
    continue_on_error: bool,
) -> PyResult<(Dequantizer, Arc<pool::Pool>)> {
    let target = Target::find(dtype).map_err(errors::call)?;
    let pool = pool::thread_count(threads).and_then(pool::with_threads).map_err(errors::call)?;
    let schema = quantized.schema();
    let dequantizer =
        Dequantizer::try_new(&schema, target, continue_on_error).map_err(errors::call)?;
    Ok((dequantizer, pool))
}

/// Dequantize all of `quantized`.
#[pyfunction]
pub(crate) fn dequantize(
    py: Python<'_>,
    quantized: Relation,
    dtype: &str,
    threads: Option<i64>,
    continue_on_error: bool,
) -> PyResult<(Batches, Schemas)> {
    let (mut dequantizer, pool) = prepare(&quantized, dtype, threads, continue_on_error)?;
    let schemas = schemas(dequantizer.schemas());
    let reader = quantized.into_reader();
    let batches = run(py, None, move |monitor, _| {
        let mut outputs = Vec::new();
        for batch in reader {
            let out = dequantizer.dequantize(&batch?, &pool, monitor)?;
            outputs.push([out.weights, out.errors, out.failed]);
        }
        Ok(outputs)
    })?;
    Ok((lists(batches), schemas))
}

/// A stream that dequantizes as it is read.
#[pyfunction]
pub(crate) fn dequantize_stream(
    quantized: Relation,
    dtype: &str,
    threads: Option<i64>,
    continue_on_error: bool,
) -> PyResult<Stream> {
    let (mut dequantizer, pool) = prepare(&quantized, dtype, threads, continue_on_error)?;
    let (one, failed) = (dequantizer.schemas().one.clone(), dequantizer.schemas().failed.clone());
    let schema = one.clone();
    let threads = pool.current_num_threads();
    let step = move |batch: &RecordBatch, monitor: &Monitor| {
        let pool = pool::with_threads(threads)?;
        let out = dequantizer.dequantize(batch, &pool, monitor)?;
        Ok((side_by_side(&schema, &out.weights, &out.errors)?, out.failed))
    };
    Ok(Stream::new(quantized.into_reader(), one, failed, Box::new(step)))
}
