//! What decoding gives back against the source, measured anew: for who does not take a relation's
//! metrics at its word.

use arrow_array::RecordBatch;
use rayon::ThreadPool;
use rayon::prelude::*;

use crate::dtype::Float;
use crate::error::Error;
use crate::kernel::metrics::{Sums, sums};
use crate::monitor::Monitor;
use crate::relation::weights::{Weights, WeightsSchema};
use crate::simd::{self, Level};

/// Elements that one thread compares at a time.
const PIECE: usize = 1 << 18;

/// How a decoded row compares with its source.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Comparison {
    /// Both hold the same bytes of the same type.
    pub identical: bool,
    /// Mean squared error; `None` where the rows can't be compared as numbers.
    pub mse: Option<f64>,
    /// Largest absolute error, likewise.
    pub max_abs_error: Option<f64>,
    /// Signal to noise in decibels; `None` also where the rows are equal.
    pub snr_db: Option<f64>,
}

/// Compare two weights relations row by row: `source` of any float type, `decoded` of float32 (or,
/// where a layer was kept, as it was). Rows beyond the shorter one's are left out.
///
/// # Errors
/// A batch can't be read as weights; [`Error::Cancelled`].
pub fn compare(
    source: &RecordBatch,
    decoded: &RecordBatch,
    pool: &ThreadPool,
    monitor: &Monitor,
) -> Result<Vec<Comparison>, Error> {
    let bind =
        |batch: &RecordBatch| Ok::<_, Error>(WeightsSchema::try_new(&batch.schema())?.bind(batch)?);
    let (source, decoded) = (bind(source)?, bind(decoded)?);
    let rows = source.len.min(decoded.len);
    let compared = (0..rows).map(|row| compare_row(&source, &decoded, row, pool, monitor));
    let compared: Vec<_> = compared.collect();
    if monitor.is_cancelled() { Err(Error::Cancelled) } else { Ok(compared) }
}

fn dtype(weights: &Weights, row: usize) -> Option<&str> {
    use crate::relation::bytes::Element;
    match weights.element {
        Some(Element::Float(float)) => Some(float.name()),
        _ => weights.dtype(row),
    }
}

fn compare_row(
    source: &Weights,
    decoded: &Weights,
    row: usize,
    pool: &ThreadPool,
    monitor: &Monitor,
) -> Comparison {
    let (Some(before), Some(after)) = (source.bytes(row), decoded.bytes(row)) else {
        return Comparison::default();
    };
    let dtypes = [dtype(source, row), dtype(decoded, row)];
    let identical = dtypes[0] == dtypes[1] && before == after;
    let [Some(from), Some(Float::F32)] = dtypes.map(|name| Float::from_name(name?)) else {
        return Comparison { identical, ..Comparison::default() };
    };
    let count = after.len() / 4;
    if before.len() != count * from.width() || count == 0 {
        return Comparison { identical, ..Comparison::default() };
    }
    let piece = |(before, after): (&[u8], &[u8])| {
        if monitor.is_cancelled() { Sums::default() } else { sums_of(from, before, after) }
    };
    let sums: Vec<Sums> = pool.install(|| {
        let before = before.par_chunks(PIECE * from.width());
        before.zip(after.par_chunks(PIECE * 4)).map(piece).collect()
    });
    // In order, so that threads don't matter.
    let mut total = Sums::default();
    for sums in sums {
        total += sums;
    }
    Comparison {
        identical,
        mse: Some(total.mse(count)),
        max_abs_error: Some(total.max_abs_error),
        snr_db: total.snr_db(),
    }
}

fn sums_of(from: Float, before: &[u8], after: &[u8]) -> Sums {
    let level = Level::best();
    let decoded = floats(level, Float::F32, after);
    if from == Float::F64 {
        return simd::sums_f64(level, before, &decoded);
    }
    let values = floats(level, from, before);
    sums(&values, &decoded, |decoded| decoded)
}

fn floats(level: Level, from: Float, bytes: &[u8]) -> Vec<f32> {
    let mut values = vec![0f32; bytes.len() / from.width()];
    simd::to_f32(level, from, bytes, &mut values);
    values
}
