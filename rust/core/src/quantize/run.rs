//! Tiles over threads: from checked rows to the payload of a batch.

use std::sync::atomic::AtomicUsize;

use arrow_schema::ArrowError;
use rayon::ThreadPool;
use rayon::prelude::*;

use super::State;
use super::item::items;
use super::piece::{Shared, Stop, finish, non_finite};
use super::wide::wide_ranges;
use crate::dtype::ScaleDtype;
use crate::error::Error;
use crate::kernel::metrics::Sums;
use crate::layer::Layer;
use crate::memory::Output;
use crate::monitor::Monitor;
use crate::relation::quantized::{Payload, Spans, Values};
use crate::relation::weights::Weights;
use crate::scheme::RowLayout;
use crate::simd::Level;
use crate::tile::into_tasks;

/// Encode or copy all good rows; rows whose values are bad become failed ones.
pub(super) fn run(
    weights: &Weights,
    states: &mut [State],
    fail_fast: bool,
    pool: &ThreadPool,
    monitor: &Monitor,
) -> Result<Payload, Error> {
    let mut payload = allocate(weights, states)?;
    let mut rows: Vec<usize> = (0..states.len()).filter(|&row| states[row].fate.is_ok()).collect();
    // A second round, with F32 scales, is for layers whose scales overflow the dtype asked for.
    while !rows.is_empty() {
        let again = round(weights, states, &rows, &mut payload, fail_fast, pool, monitor)?;
        for &row in &again {
            if let Ok(Layer::Encode { grouping, .. }) = &mut states[row].fate {
                grouping.scale_dtype = ScaleDtype::F32;
            }
        }
        rows = again;
    }
    if states
        .iter()
        .enumerate()
        .any(|(row, state)| state.fate.is_err() && payload.data.spans.valid[row])
    {
        let keep = |row: usize| states[row].fate.is_ok();
        payload.data.spans.retain(&mut payload.data.values, keep);
        payload.scales.spans.retain(&mut payload.scales.values, keep);
        payload.zero_points.spans.retain(&mut payload.zero_points.values, keep);
    }
    Ok(payload)
}

/// The output at its final size.
fn allocate(weights: &Weights, states: &[State]) -> Result<Payload, ArrowError> {
    let spans = || Spans::with_capacity(states.len());
    let (mut data, mut scales, mut zero_points) = (spans(), spans(), spans());
    for (row, state) in states.iter().enumerate() {
        match &state.fate {
            Ok(Layer::Keep) => {
                data.push(weights.bytes(row).map(<[u8]>::len));
                scales.push(None);
                zero_points.push(None);
            }
            Ok(Layer::Encode { scheme, rows, grouping, .. }) => {
                let layout: RowLayout = scheme.row_layout(grouping);
                let some = |len: usize| (len > 0).then_some(len * rows);
                data.push(Some(layout.data * rows));
                scales.push(some(layout.scales));
                zero_points.push(some(layout.zero_points));
            }
            Err(_) => {
                data.push(None);
                scales.push(None);
                zero_points.push(None);
            }
        }
    }
    Ok(Payload {
        data: Values { values: Output::new(data.end())?, spans: data },
        scales: Values { values: Output::new(scales.end())?, spans: scales },
        zero_points: Values { values: Output::new(zero_points.end())?, spans: zero_points },
    })
}

/// One pass over `rows`, which rise; returns those that need another.
fn round(
    weights: &Weights,
    states: &mut [State],
    rows: &[usize],
    payload: &mut Payload,
    fail_fast: bool,
    pool: &ThreadPool,
    monitor: &Monitor,
) -> Result<Vec<usize>, Error> {
    let level = Level::best();
    let wide = wide_ranges(weights, states, rows, pool, level, monitor);
    let items = items(weights, states, rows, payload, &wide);
    let mut pending = Vec::new();
    if monitor.is_watched() {
        pending.resize_with(states.len(), || AtomicUsize::new(0));
        for item in &items {
            *pending[item.row].get_mut() += 1;
        }
    }
    let lowest_failed = fail_fast.then(|| AtomicUsize::new(usize::MAX));
    let shared = Shared { monitor, lowest_failed, pending };
    let tasks = into_tasks(items, |item| item.bytes.len());
    let outcomes: Vec<Vec<(usize, Result<Sums, Stop>)>> = pool.install(|| {
        tasks
            .into_par_iter()
            .map(|task| {
                task.into_iter().map(|item| finish(item, level, &shared, weights)).collect()
            })
            .collect()
    });
    if monitor.is_cancelled() {
        return Err(Error::Cancelled);
    }
    let (mut again, mut bad) = (Vec::new(), Vec::new());
    for (row, outcome) in outcomes.into_iter().flatten() {
        let state = &mut states[row];
        match outcome {
            Ok(sums) => state.sums += sums,
            Err(Stop::Row(error)) if state.fate.is_ok() => {
                state.fate = Err(super::entry(weights, row, &state.described, error));
            }
            Err(Stop::NotFinite) if bad.last() != Some(&row) => bad.push(row),
            Err(Stop::ScaleOverflow) if again.last() != Some(&row) => again.push(row),
            Err(_) => {}
        }
    }
    locate(weights, states, &bad, pool, monitor)?;
    again.retain(|&row| states[row].fate.is_ok());
    for &row in &again {
        states[row].sums = Sums::default();
    }
    Ok(again)
}

/// Fail the rows `bad`, which have values that can't be quantized, saying where these are.
fn locate(
    weights: &Weights,
    states: &mut [State],
    bad: &[usize],
    pool: &ThreadPool,
    monitor: &Monitor,
) -> Result<(), Error> {
    let locate = |&row: &usize| {
        let Ok(Layer::Encode { source, .. }) = states[row].fate else { return None };
        Some((row, non_finite(source, weights.bytes(row).unwrap_or(&[]), monitor)))
    };
    let found: Vec<_> = pool.install(|| bad.par_iter().filter_map(locate).collect());
    if monitor.is_cancelled() {
        return Err(Error::Cancelled);
    }
    for (row, error) in found {
        states[row].fate = Err(super::entry(weights, row, &states[row].described, error));
    }
    Ok(())
}
