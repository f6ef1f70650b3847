//! The driver: a batch of weights in; a quantized batch, an error table and the failed rows out.
//!
//! Rows are checked first, all of them. What passed is cut into tiles, the output is allocated once
//! at its final size, and the pool's threads write into it side by side.

mod item;
mod piece;
mod run;
mod scratch;
mod wide;

use std::sync::Arc;

use arrow_array::{Int64Array, RecordBatch};
use arrow_schema::{ArrowError, Schema, SchemaRef};
use rayon::ThreadPool;
use rayon::prelude::*;

use crate::dtype;
use crate::error::{CallError, Error, RowError};
use crate::kernel::metrics::Sums;
use crate::layer::{self, Described, Layer};
use crate::monitor::Monitor;
use crate::options::{Asked, Options, Plan};
use crate::pool::SPREAD;
use crate::relation::errors::{self, Entry};
use crate::relation::failed::{self, Failed};
use crate::relation::quantized::{self, Payload, Row};
use crate::relation::side_by_side_schema;
use crate::relation::weights::{Weights, WeightsSchema};

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

/// A row on its way: what it says, what is asked of it, and how that went.
struct State<'a> {
    described: Described<'a>,
    asked: Asked,
    fate: Result<Layer, Box<Entry>>,
    sums: Sums,
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
        let weights = self.weights.bind(batch)?;
        let mut states = self.check_all(&weights, pool);
        let failed = failed_rows(&weights, &states);
        self.stop_if_failed(&weights, &failed)?;
        for failed in &failed {
            monitor.bytes(weights.bytes(failed.row).map_or(0, <[u8]>::len));
            monitor.layer(failed.name);
        }
        drop(failed);
        let payload = run::run(&weights, &mut states, !self.continue_on_error, pool, monitor)?;
        let failed = failed_rows(&weights, &states);
        self.stop_if_failed(&weights, &failed)?;
        let quantized = self.batches(&weights, &states, &failed, payload, pool)?;
        self.next_row_index += weights.len as i64;
        Ok(quantized)
    }

    /// Every row's metadata; many small rows are spread over the threads.
    fn check_all<'a>(&self, weights: &'a Weights, pool: &ThreadPool) -> Vec<State<'a>> {
        let check = |row| self.check(weights, row);
        if weights.len < SPREAD {
            return (0..weights.len).map(check).collect();
        }
        pool.install(|| {
            (0..weights.len).into_par_iter().with_min_len(SPREAD / 8).map(check).collect()
        })
    }

    fn check<'a>(&self, weights: &'a Weights, row: usize) -> State<'a> {
        let read = Described::read(weights, row);
        let asked = Asked::resolve(weights, row, &self.plan, &self.options);
        let fate = layer::check(weights, row, &read, &asked, &self.options)
            .map_err(|error| entry(weights, row, &read.0, error));
        State { described: read.0, asked, fate, sums: Sums::default() }
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
        states: &[State<'_>],
        failed: &[Failed<'_>],
        payload: Payload,
        pool: &ThreadPool,
    ) -> Result<Quantized, ArrowError> {
        let output = |(row, state)| output(weights, row, state);
        let rows: Vec<Row> = if states.len() < SPREAD {
            states.iter().enumerate().map(output).collect()
        } else {
            pool.install(|| {
                states.par_iter().enumerate().with_min_len(SPREAD / 8).map(output).collect()
            })
        };
        let first = self.next_row_index;
        let row_index = Int64Array::from_iter_values(first..first + weights.len as i64);
        let names = weights.utf8_names()?;
        let described = quantized::Described {
            names: Arc::clone(&names),
            dtypes: quantized::text(states.iter().map(|state| state.described.dtype)),
            shapes: quantized::shapes(states.iter().map(|state| state.described.shape.as_deref())),
        };
        let [codes, messages, elements, counts] = errors::error_columns(weights.len, failed);
        let errors = RecordBatch::try_new(
            Arc::clone(&self.schemas.errors),
            vec![Arc::new(row_index.clone()), names, codes, messages, elements, counts],
        )?;
        let carried = weights.carried.clone();
        let schema = &self.schemas.quantized;
        Ok(Quantized {
            quantized: quantized::batch(
                schema, row_index, described, &rows, payload, carried, pool,
            )?,
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

/// The error with its message in full.
fn entry(weights: &Weights, row: usize, described: &Described<'_>, error: RowError) -> Box<Entry> {
    let error = error.in_layer(weights.part(row).map_or(0, |part| part.offset));
    let message = layer::message(weights.name(row), described, weights.source_file(row), &error);
    Box::new(Entry { error, message })
}

fn failed_rows<'a>(weights: &'a Weights, states: &'a [State<'a>]) -> Vec<Failed<'a>> {
    let failed = |(row, state): (usize, &'a State<'a>)| {
        let entry = state.fate.as_ref().err()?;
        let (described, asked) = (&state.described, Some(&state.asked));
        Some(Failed { row, name: weights.name(row), described, asked, entry })
    };
    states.iter().enumerate().filter_map(failed).collect()
}

/// The fixed-width columns of one row.
fn output(weights: &Weights, row: usize, state: &State<'_>) -> Row {
    match &state.fate {
        Err(_) => Row::default(),
        Ok(Layer::Keep) => Row {
            scheme: Some(crate::scheme::NONE),
            bits_per_weight: kept_bits_per_weight(weights, row, &state.described),
            mse: Some(0.0),
            max_abs_error: Some(0.0),
            ..Row::default()
        },
        Ok(Layer::Encode { scheme, rows, grouping, .. }) => {
            let count = rows * grouping.columns;
            let bits = encoded_bits(*scheme, *rows, grouping);
            let bits_per_weight = bits.map(|bits| bits as f64 / count as f64);
            Row {
                scheme: Some(scheme.name()),
                group_size: Some(grouping.group_size as i64),
                is_symmetric: Some(grouping.symmetric),
                scale_dtype: (scheme.row_layout(grouping).scales > 0)
                    .then_some(grouping.scale_dtype.name()),
                bits_per_weight,
                mse: Some(state.sums.mse(count)),
                max_abs_error: Some(state.sums.max_abs_error),
                snr_db: state.sums.snr_db(),
            }
        }
    }
}

/// Bits of codes, scales at their dtype's width and zero points at the codes' width; `None` where a
/// shape, which may come from outside, makes that overflow.
pub(crate) fn encoded_bits(
    scheme: &dyn crate::scheme::Scheme,
    rows: usize,
    grouping: &crate::scheme::Grouping,
) -> Option<u64> {
    let layout = scheme.row_layout(grouping);
    let parts = [
        (layout.data, 8),
        (layout.scales, grouping.scale_dtype.bits()),
        (layout.zero_points, scheme.code_bits()),
    ];
    let row = parts
        .into_iter()
        .try_fold(0u64, |sum, (count, bits)| sum.checked_add((count as u64).checked_mul(bits)?));
    row?.checked_mul(rows as u64)
}

fn kept_bits_per_weight(weights: &Weights, row: usize, described: &Described<'_>) -> Option<f64> {
    let count = layer::element_product(described.shape.as_deref()?).ok()?;
    let known = described.dtype.and_then(dtype::bits).map(|bits| bits as f64);
    let stored = || 8.0 * weights.bytes(row).map_or(0, <[u8]>::len) as f64 / count as f64;
    (count > 0).then(|| known.unwrap_or_else(stored))
}
