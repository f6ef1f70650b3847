//! The driver: a batch of weights in; a quantized batch, an error table and the failed rows out.
//!
//! Rows are checked first, all of them. What passed is cut into tiles, the output is allocated once
//! at its final size, and the pool's threads write into it side by side.

mod importance;
mod input;
mod item;
mod job;
mod output;
mod piece;
mod rows;
mod run;
mod scratch;
mod stop;
pub mod whole;
mod wide;

use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use arrow_schema::{ArrowError, Schema, SchemaRef};
use rayon::ThreadPool;

use crate::error::{CallError, Error};
use crate::kernel::metrics::Sums;
use crate::monitor::Monitor;
use crate::plan::{Options, Plan};
use crate::pool::{SPREAD, join};
use crate::relation::errors;
use crate::relation::failed::{self, Failed};
use crate::relation::quantized::{self, Columns};
use crate::relation::side_by_side_schema;
use crate::relation::weights::{Weights, WeightsSchema};
use rows::Rows;

/// Quantizes the batches of one stream.
#[derive(Debug)]
pub struct Quantizer {
    weights: WeightsSchema,
    options: Options,
    plan: Plan,
    continue_on_error: bool,
    next_row_index: i64,
    schemas: Schemas,
}

/// The schemas of what comes out.
#[derive(Clone, Debug)]
pub struct Schemas {
    /// Of the quantized relation.
    pub quantized: SchemaRef,
    /// Of the error table beside it.
    pub errors: SchemaRef,
    /// Of both side by side.
    pub one: SchemaRef,
    /// Of the failed rows.
    pub failed: SchemaRef,
}

/// What comes out for one batch.
#[derive(Clone, Debug)]
pub struct Quantized {
    /// Row for row with the input.
    pub quantized: RecordBatch,
    /// Row for row beside it.
    pub errors: RecordBatch,
    /// The failed rows alone.
    pub failed: RecordBatch,
}

impl Quantizer {
    /// For a stream of that schema.
    ///
    /// # Errors
    /// The schema can't be that of weights.
    pub fn try_new(
        schema: &Schema,
        options: Options,
        plan: Plan,
        continue_on_error: bool,
    ) -> Result<Self, CallError> {
        let weights = WeightsSchema::try_new(schema)?;
        let quantized = quantized::schema(&weights.carried);
        let schemas = Schemas {
            one: side_by_side_schema(&quantized),
            quantized,
            errors: errors::schema(),
            failed: failed::schema(&weights.carried),
        };
        Ok(Self { weights, options, plan, continue_on_error, next_row_index: 0, schemas })
    }

    /// The same for a stream that is a piece of a longer one, in which its first row has that index.
    #[must_use]
    pub fn starting_at(self, row_index: i64) -> Self {
        Self { next_row_index: row_index, ..self }
    }

    /// The schemas of what comes out.
    pub fn schemas(&self) -> &Schemas {
        &self.schemas
    }

    /// Quantize the next batch of the stream. The input's buffers are let go on the calling thread.
    ///
    /// # Errors
    /// [`Error::Rows`] where a row failed and `continue_on_error` is off; [`Error::Cancelled`];
    /// [`Error::Arrow`] where the batch can't be read.
    pub fn quantize(
        &mut self,
        batch: &RecordBatch,
        pool: &ThreadPool,
        monitor: &Monitor,
    ) -> Result<Quantized, Error> {
        let spread_out = (batch.num_rows() >= SPREAD).then_some(pool);
        let weights = self.weights.bind_on(batch, spread_out)?;
        let mut rows = Rows::check(&weights, &self.plan, &self.options, pool);
        let failed = rows.failed();
        self.stop_if_failed(&weights, &failed)?;
        for failed in &failed {
            monitor.bytes(weights.bytes(failed.row).map_or(0, <[u8]>::len));
            monitor.layer(failed.name);
        }
        drop(failed);
        let mut sums = vec![Sums::default(); weights.len];
        let fail_fast = !self.continue_on_error;
        let (payload, scaled) = run::run(&mut rows, &mut sums, fail_fast, pool, monitor)?;
        let failed = rows.failed();
        self.stop_if_failed(&weights, &failed)?;
        let spread = output::scale_spread(&rows, &payload, pool);
        let (columns, (payload, errors)) = join(
            spread_out,
            || output::columns(&rows, &sums, &scaled, spread, pool),
            || (payload.columns(), failed::error_columns(weights.len, &failed)),
        );
        let quantized = self.batches(&weights, columns, &failed, payload, errors)?;
        self.next_row_index += weights.len as i64;
        Ok(quantized)
    }

    /// In fail-fast mode, all failed rows as one error. Rows that came in failed don't count, unless
    /// their source can't be read.
    fn stop_if_failed(&self, weights: &Weights, failed: &[Failed<'_>]) -> Result<(), Error> {
        let rows: Vec<Failed<'_>> =
            failed.iter().filter(|failed| failed.entry.error.raises()).copied().collect();
        if self.continue_on_error || rows.is_empty() {
            return Ok(());
        }
        Err(Error::Rows { message: failed::summary(&rows), failed: self.failed(weights, &rows)? })
    }

    fn failed(&self, weights: &Weights, rows: &[Failed<'_>]) -> Result<RecordBatch, ArrowError> {
        failed::batch(&self.schemas.failed, self.next_row_index, rows, &weights.carried)
    }

    fn batches(
        &self,
        weights: &Weights,
        columns: Columns,
        failed: &[Failed<'_>],
        payload: [ArrayRef; 4],
        [codes, messages, elements, counts]: [ArrayRef; 4],
    ) -> Result<Quantized, ArrowError> {
        let first = self.next_row_index;
        let row_index = Int64Array::from_iter_values(first..first + weights.len as i64);
        let names = weights.utf8_names()?;
        let errors = RecordBatch::try_new(
            Arc::clone(&self.schemas.errors),
            vec![
                Arc::new(row_index.clone()),
                Arc::clone(&names),
                codes,
                messages,
                elements,
                counts,
            ],
        )?;
        let carried = weights.carried.clone();
        let schema = &self.schemas.quantized;
        Ok(Quantized {
            quantized: quantized::batch(schema, row_index, names, columns, payload, carried)?,
            errors,
            failed: self.failed(weights, failed)?,
        })
    }
}

/// Bytes of weights in `batch`, as [`Monitor`] counts them.
///
/// # Errors
/// The batch can't be read as weights.
pub fn weight_bytes(batch: &RecordBatch) -> Result<u64, Error> {
    let weights = WeightsSchema::try_new(&batch.schema())?.bind(batch)?;
    Ok((0..weights.len).map(|row| weights.bytes(row).map_or(0, <[u8]>::len) as u64).sum())
}
