//! Hashes of rows' bytes, by which a source is recognised that is the same under another time.
//!
//! XXH3 with 128 bits: fast, and no proof against somebody who wants two rows to look alike.

use arrow_array::RecordBatch;
use rayon::ThreadPool;
use rayon::prelude::*;
use twox_hash::XxHash3_128;

use crate::error::Error;
use crate::relation::weights::WeightsSchema;

/// The hash of each row's `data`, dtype and shape; `None` where data are null.
///
/// # Errors
/// The batch can't be read as weights.
pub fn hashes(batch: &RecordBatch, pool: &ThreadPool) -> Result<Vec<Option<u128>>, Error> {
    let weights = WeightsSchema::try_new(&batch.schema())?.bind(batch)?;
    // What the bytes mean belongs to them.
    let hash = |row: usize| {
        let bytes = XxHash3_128::oneshot(weights.bytes(row)?);
        let shape = weights.shape(row).and_then(Result::ok);
        let packed = weights.packed.as_ref().and_then(|packed| packed.get(row));
        let packed = packed.map(|codes| {
            let scales = XxHash3_128::oneshot(codes.scales(row).unwrap_or_default());
            let points = XxHash3_128::oneshot(codes.zero_points(row).unwrap_or_default());
            let biases = XxHash3_128::oneshot(codes.biases(row).unwrap_or_default());
            let tensor = codes.tensor_scale(row);
            let said = (codes.scheme(row), codes.said(row));
            format!("{said:?} {scales} {points} {biases} {tensor}")
        });
        let packed = packed.unwrap_or_default();
        let said = format!("{:?} {shape:?} {bytes}{packed}", weights.dtype(row));
        Some(XxHash3_128::oneshot(said.as_bytes()))
    };
    Ok(pool.install(|| (0..weights.len).into_par_iter().map(hash).collect()))
}
