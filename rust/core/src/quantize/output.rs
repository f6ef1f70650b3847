//! The columns of a quantized batch, from its rows and what encoding them took.

use std::sync::Arc;

use arrow_array::{ArrayRef, BooleanArray, Float64Array, Int64Array};
use rayon::ThreadPool;
use rayon::prelude::*;

use super::rows::Rows;
use crate::dtype;
use crate::kernel::metrics::Sums;
use crate::layer::{self, Described, Job, Layer};
use crate::pool::SPREAD;
use crate::relation::quantized::{Columns, shapes, text};

/// All columns that say something of a row; many rows' columns are spread over the threads.
pub(super) fn columns(rows: &Rows<'_>, sums: &[Sums], pool: &ThreadPool) -> Columns {
    let kinds = || (0..rows.len()).map(|row| rows.kind(row));
    let jobs = || kinds().map(|kind| kind?.layer.job());
    let numbers = |get: fn(&Rows<'_>, &[Sums], usize) -> Option<f64>| -> ArrayRef {
        Arc::new((0..rows.len()).map(|row| get(rows, sums, row)).collect::<Float64Array>())
    };
    let described = || (0..rows.len()).map(|row| Described::read(rows.weights, row).0);
    let columns: [&(dyn Fn() -> ArrayRef + Sync); 10] = [
        &|| text(described().map(|described| described.dtype)),
        &|| Arc::new(shapes(described().map(|described| described.shape))),
        &|| text(kinds().map(|kind| Some(kind?.layer.scheme()))),
        &|| Arc::new(jobs().map(|job| Some(job?.grouping.group_size as i64)).collect::<Int64Array>()),
        &|| Arc::new(jobs().map(|job| Some(job?.grouping.symmetric)).collect::<BooleanArray>()),
        &|| text(jobs().map(|job| job.and_then(Job::scale_dtype))),
        &|| numbers(bits_per_weight),
        &|| numbers(mse),
        &|| numbers(max_abs_error),
        &|| numbers(snr_db),
    ];
    let columns: Vec<ArrayRef> = if rows.len() < SPREAD {
        columns.iter().map(|column| column()).collect()
    } else {
        pool.install(|| columns.par_iter().with_max_len(1).map(|column| column()).collect())
    };
    let Ok([dtypes, shapes, schemes, group_sizes, symmetries, scale_dtypes, bits, mse, max, snr]) =
        <[ArrayRef; 10]>::try_from(columns)
    else {
        unreachable!("ten columns")
    };
    Columns {
        dtypes,
        shapes,
        schemes,
        group_sizes,
        symmetries,
        scale_dtypes,
        bits_per_weight: bits,
        mse,
        max_abs_error: max,
        snr_db: snr,
    }
}

fn bits_per_weight(rows: &Rows<'_>, _: &[Sums], row: usize) -> Option<f64> {
    match &rows.kind(row)?.layer {
        Layer::Keep => kept_bits_per_weight(rows, row),
        Layer::Encode(job) => Some(job.bits()? as f64 / job.elements() as f64),
    }
}

fn kept_bits_per_weight(rows: &Rows<'_>, row: usize) -> Option<f64> {
    let Described { dtype, shape } = Described::read(rows.weights, row).0;
    let count = layer::element_product(shape.as_deref()?).ok()?;
    let known = dtype.and_then(dtype::bits).map(|bits| bits as f64);
    let stored = || 8.0 * rows.weights.bytes(row).map_or(0, <[u8]>::len) as f64 / count as f64;
    (count > 0).then(|| known.unwrap_or_else(stored))
}

fn mse(rows: &Rows<'_>, sums: &[Sums], row: usize) -> Option<f64> {
    // A row that is kept has no sums, and no error.
    Some(rows.kind(row)?.layer.job().map_or(0.0, |job| sums[row].mse(job.elements())))
}

fn max_abs_error(rows: &Rows<'_>, sums: &[Sums], row: usize) -> Option<f64> {
    rows.kind(row).map(|_| sums[row].max_abs_error)
}

fn snr_db(rows: &Rows<'_>, sums: &[Sums], row: usize) -> Option<f64> {
    rows.kind(row)?;
    sums[row].snr_db()
}
