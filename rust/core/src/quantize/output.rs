//! The columns of a quantized batch, from its rows and what encoding them took.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::builder::{BooleanBuilder, Float32Builder, Float64Builder, Int64Builder};
use arrow_array::{ArrayRef, Float64Array};
use arrow_buffer::{BooleanBuffer, NullBuffer, NullBufferBuilder};
use rayon::ThreadPool;
use rayon::prelude::*;

use super::job::{Job, Layer};
use super::rows::{Fate, Kind, Rows};
use super::run::TensorScales;
use crate::dtype::{self, ScaleDtype};
use crate::kernel::dispatch;
use crate::kernel::metrics::Sums;
use crate::lanes::Level;
use crate::pool::SPREAD;
use crate::relation::described::{self, Described};
use crate::relation::quantized::{Columns, Payload, shapes_of_runs, text_of_runs};
use crate::scheme::{Bound, Said};

/// All columns that say something of a row; many rows' columns are spread over the threads.
pub(super) fn columns(
    rows: &Rows<'_>,
    sums: &[Sums],
    scaled: &TensorScales,
    scale_spread: ArrayRef,
    pool: &ThreadPool,
) -> Columns {
    let text = |get: fn(&Kind<'_>) -> Option<&'static str>| {
        text_of_runs(
            rows.runs().map(|(run, fate)| (fate.kind().and_then(get), run.len())),
            rows.len(),
        )
    };
    let columns: [&(dyn Fn() -> ArrayRef + Sync); 14] = [
        &|| signal_to_noise(rows, sums),
        &|| text_of_runs(described(rows).map(|(said, count)| (said.dtype, count)), rows.len()),
        &|| {
            let shapes = described(rows).map(|(said, count)| (said.shape, count));
            Arc::new(shapes_of_runs(shapes, rows.len()))
        },
        &|| text(|kind| Some(kind.layer.scheme())),
        &|| integers(rows, |said| said.group_size),
        &|| integers(rows, |said| said.group_rows),
        &|| flags(rows, |said| said.is_symmetric),
        &|| text(|kind| kind.layer.bound()?.layout.said.scale_dtype.map(ScaleDtype::name)),
        &|| flags(rows, |said| said.signed_scales),
        &|| tensor_scales(rows, scaled),
        &|| text(|kind| kind.layer.search()),
        &|| bits_per_weight(rows),
        // A row that is kept has no sums, and no error.
        &|| {
            metric(rows, sums, |layer, sums| {
                let count = layer.job().map_or(1, Job::elements);
                move |at| sums[at].mse(count)
            })
        },
        &|| metric(rows, sums, |_, sums| move |at| sums[at].max_abs_error),
    ];
    let columns: Vec<ArrayRef> = if rows.len() < SPREAD {
        columns.iter().map(|column| column()).collect()
    } else {
        pool.install(|| columns.par_iter().with_max_len(1).map(|column| column()).collect())
    };
    let Ok(
        [
            snr_db,
            dtypes,
            shapes,
            schemes,
            group_sizes,
            group_rows,
            symmetries,
            scale_dtypes,
            signed_scales,
            tensor_scales,
            searches,
            bits_per_weight,
            mse,
            max_abs_error,
        ],
    ) = <[ArrayRef; 14]>::try_from(columns)
    else {
        unreachable!("fourteen columns")
    };
    Columns {
        dtypes,
        shapes,
        schemes,
        group_sizes,
        group_rows,
        symmetries,
        scale_dtypes,
        signed_scales,
        tensor_scales,
        searches,
        bits_per_weight,
        mse,
        max_abs_error,
        snr_db,
        scale_spread,
    }
}

/// What rows say of their tensors, by runs that say the same.
fn described<'a>(
    rows: &'a Rows<'_>,
) -> impl Iterator<Item = (Described<'a>, usize)> + Clone + use<'a> {
    rows.runs().map(|(run, fate)| (fate.described(), run.len()))
}

/// A number of each good row's sums; `of` is given those of a run of rows.
#[inline(always)]
fn metric<'a, F: Fn(usize) -> f64>(
    rows: &'a Rows<'_>,
    sums: &'a [Sums],
    of: impl Fn(&Layer, &'a [Sums]) -> F,
) -> ArrayRef {
    let mut values = Vec::with_capacity(rows.len());
    let mut valid = NullBufferBuilder::new(rows.len());
    for (run, fate) in rows.runs() {
        let (end, count) = (run.end, run.len());
        match fate.kind() {
            Some(kind) => {
                values.extend((0..count).map(of(&kind.layer, &sums[run])));
                valid.append_n_non_nulls(count);
            }
            None => {
                values.resize(end, 0.0);
                valid.append_n_nulls(count);
            }
        }
    }
    Arc::new(Float64Array::new(values.into(), valid.finish()))
}

/// Null where a row failed or has no noise. A logarithm for each row takes longer than any other
/// column does, so many are spread once more, over the pool that this runs on.
fn signal_to_noise(rows: &Rows<'_>, sums: &[Sums]) -> ArrayRef {
    let decibels = |sums: &Sums| sums.snr_db().unwrap_or(f64::NAN);
    let mut values: Vec<f64> = if rows.len() < SPREAD {
        sums.iter().map(decibels).collect()
    } else {
        sums.par_iter().with_min_len(SPREAD / 4).map(decibels).collect()
    };
    for (run, fate) in rows.runs() {
        if fate.kind().is_none() {
            values[run].fill(f64::NAN);
        }
    }
    let valid = BooleanBuffer::collect_bool(values.len(), |row| !values[row].is_nan());
    let nulls = Some(NullBuffer::new(valid)).filter(|nulls| nulls.null_count() > 0);
    Arc::new(Float64Array::new(values.into(), nulls))
}

fn integers(rows: &Rows<'_>, get: fn(&Said) -> Option<i64>) -> ArrayRef {
    let mut column = Int64Builder::with_capacity(rows.len());
    for (run, fate) in rows.runs() {
        match fate.kind().and_then(|kind| get(&kind.layer.bound()?.layout.said)) {
            Some(size) => column.append_value_n(size, run.len()),
            None => column.append_nulls(run.len()),
        }
    }
    Arc::new(column.finish())
}

/// The scales of whole layers: the encoder's, or those that came with codes that are kept.
fn tensor_scales(rows: &Rows<'_>, scaled: &TensorScales) -> ArrayRef {
    let mut column = Float32Builder::with_capacity(rows.len());
    for (run, fate) in rows.runs() {
        let layer = fate.kind().map(|kind| &kind.layer);
        if !layer.and_then(Layer::bound).is_some_and(|bound| bound.layout.has_tensor_scale) {
            column.append_nulls(run.len());
            continue;
        }
        for row in run {
            let packed = rows.weights.packed.as_ref().and_then(|packed| packed.get(row));
            let kept = packed.filter(|_| matches!(layer, Some(Layer::KeepPacked(_))));
            let own = || scaled.get(&row).copied().unwrap_or(1.0);
            column.append_value(kept.map_or_else(own, |codes| codes.tensor_scale(row)));
        }
    }
    Arc::new(column.finish())
}

fn flags(rows: &Rows<'_>, get: fn(&Said) -> Option<bool>) -> ArrayRef {
    let mut column = BooleanBuilder::with_capacity(rows.len());
    for (run, fate) in rows.runs() {
        match fate.kind().and_then(|kind| get(&kind.layer.bound()?.layout.said)) {
            Some(flag) => column.append_n(run.len(), flag),
            None => column.append_nulls(run.len()),
        }
    }
    Arc::new(column.finish())
}

fn bits_per_weight(rows: &Rows<'_>) -> ArrayRef {
    let mut column = Float64Builder::with_capacity(rows.len());
    for (run, fate) in rows.runs() {
        match fate.kind().map(|kind| &kind.layer) {
            Some(Layer::Keep) => run.for_each(|row| column.append_option(kept_bits(rows, row))),
            Some(layer) => match layer.bound().and_then(encoded_bits) {
                Some(bits) => column.append_value_n(bits, run.len()),
                None => column.append_nulls(run.len()),
            },
            None => column.append_nulls(run.len()),
        }
    }
    Arc::new(column.finish())
}

/// Bits of each weight of a layer that was encoded.
fn encoded_bits(bound: &Bound) -> Option<f64> {
    Some(bound.layout.bits()? as f64 / bound.layout.elements() as f64)
}

/// Bits of each weight of a layer that was kept.
fn kept_bits(rows: &Rows<'_>, row: usize) -> Option<f64> {
    let described = rows.described(row);
    let count = described::element_product(described.shape.as_deref()?).ok()?;
    let known = described.dtype.and_then(dtype::block).map(dtype::Block::bits);
    let stored = || 8.0 * rows.weights.bytes(row).map_or(0, <[u8]>::len) as f64 / count as f64;
    (count > 0).then(|| known.unwrap_or_else(stored))
}

/// So many scales tell a median.
const SAMPLED: usize = 1 << 9;

/// The largest scale of each layer over its median one, of at most [`SAMPLED`] evenly spread ones;
/// null with fewer than two. Negative scales, which some schemes have, count without their sign.
/// Groups of zeros, whose scale is 1, don't count. One outlier that swallows its group gives an
/// excellent SNR and a huge spread.
pub(super) fn scale_spread(rows: &Rows<'_>, payload: &Payload, pool: &ThreadPool) -> ArrayRef {
    let spread = |(run, fate): (Range<usize>, &Fate<'_>)| {
        let bound = fate.kind().and_then(|kind| kind.layer.bound());
        let mut sample = Vec::new();
        let values = run.map(|row| {
            let bound = bound?;
            let data = &payload.data.values[payload.data.spans.range(row)];
            let scales = &payload.scales.values[payload.scales.spans.range(row)];
            let inside = bound.codec.scales_within(data);
            spread_of(inside.as_deref().unwrap_or(scales), &mut sample)
        });
        values.collect::<Vec<_>>()
    };
    let values: Vec<Option<f64>> = if rows.len() < SPREAD {
        rows.runs().flat_map(spread).collect()
    } else {
        // Runs of rows that are alike may be long.
        let pieces: Vec<_> = rows.runs().flat_map(|(run, fate)| pieces(run, fate)).collect();
        pool.install(|| pieces.into_par_iter().flat_map_iter(spread).collect())
    };
    Arc::new(values.into_iter().collect::<Float64Array>())
}

fn pieces<'a, 'b>(
    run: Range<usize>,
    fate: &'a Fate<'b>,
) -> impl Iterator<Item = (Range<usize>, &'a Fate<'b>)> {
    let end = run.end;
    run.step_by(SPREAD / 4).map(move |start| (start..(start + SPREAD / 4).min(end), fate))
}

fn spread_of(scales: &[f32], sample: &mut Vec<f32>) -> Option<f64> {
    let counts = |scale: &f32| *scale != 1.0 && *scale > 0.0;
    let sizes = scales.iter().step_by(scales.len().div_ceil(SAMPLED).max(1)).map(|s| s.abs());
    sample.clear();
    sample.extend(sizes.filter(counts));
    if sample.len() < 2 {
        return None;
    }
    let largest = dispatch::largest_scale(Level::best(), scales);
    let middle = sample.len() / 2;
    let (_, median, _) = sample.select_nth_unstable_by(middle, f32::total_cmp);
    Some(f64::from(largest) / f64::from(*median))
}
