//! Tiles over threads: from checked rows to the payload of a batch.

use arrow_schema::ArrowError;
use rayon::ThreadPool;
use rayon::prelude::*;

use super::State;
use super::item::{Cutter, Job, Task, Wide, items, pieces, tasks};
use super::piece::{Shared, Stop, finish, finish_together, non_finite};
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

/// Encode or copy all good rows; rows whose values are bad become failed ones.
pub(super) fn run(
    weights: &Weights,
    states: &mut [State<'_>],
    fail_fast: bool,
    pool: &ThreadPool,
    monitor: &Monitor,
) -> Result<Payload, Error> {
    let mut payload = allocate(weights, states)?;
    let shared = Shared::new(monitor, fail_fast, states.len());
    let mut again = first_round(weights, states, &mut payload, &shared, pool)?;
    // A second round, with F32 scales, is for layers whose scales overflow the dtype asked for.
    if !again.rows.is_empty() {
        for &row in &again.rows {
            if let Ok(Layer::Encode { grouping, .. }) = &mut states[row].fate {
                grouping.scale_dtype = ScaleDtype::F32;
            }
        }
        let second = second_round(weights, states, &again.rows, &mut payload, &shared, pool)?;
        again.any_failed |= second.any_failed;
    }
    if again.any_failed {
        let keep = |row: usize| states[row].fate.is_ok();
        payload.data.spans.retain(&mut payload.data.values, keep);
        payload.scales.spans.retain(&mut payload.scales.values, keep);
        payload.zero_points.spans.retain(&mut payload.zero_points.values, keep);
    }
    Ok(payload)
}

/// The output at its final size.
fn allocate(weights: &Weights, states: &[State<'_>]) -> Result<Payload, ArrowError> {
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

/// Do all work on the pool, in order of the items; one item alone is not worth waking a thread.
fn spread<T: Send, R: Send>(
    pool: &ThreadPool,
    items: Vec<T>,
    work: impl Fn(T) -> R + Send + Sync,
) -> Vec<R> {
    if items.len() < 2 {
        return items.into_iter().map(work).collect();
    }
    pool.install(|| items.into_par_iter().map(work).collect())
}

/// What became of pieces of layers, and of rows that were not finished.
type Outcomes = Vec<(usize, Result<Sums, Stop>)>;

/// What a round leaves to do.
struct Left {
    /// Rows that need another round.
    rows: Vec<usize>,
    any_failed: bool,
}

/// All good rows.
fn first_round(
    weights: &Weights,
    states: &mut [State<'_>],
    payload: &mut Payload,
    shared: &Shared<'_>,
    pool: &ThreadPool,
) -> Result<Left, Error> {
    let level = Level::best();
    let wide = wide_ranges(weights, states, None, pool, level, shared.monitor);
    let tasks = tasks(weights, states, payload, &wide);
    for task in &tasks {
        match task {
            Task::Piece(item) => shared.expect(item.row),
            Task::Rows { first, states, .. } => {
                (*first..first + states.len()).for_each(|row| shared.expect(row));
            }
        }
    }
    let work = |task: Task<'_, '_>| match task {
        Task::Piece(item) => vec![finish(item, level, shared, weights)],
        Task::Rows { first, states, cutter } => {
            finish_rows(weights, first, states, cutter, level, shared)
        }
    };
    let outcomes = spread(pool, tasks, work);
    settle(weights, states, outcomes, pool, shared.monitor)
}

/// Small rows that follow each other; only what is left to do of them is returned.
fn finish_rows(
    weights: &Weights,
    mut first: usize,
    mut states: &mut [State<'_>],
    mut cutter: Cutter<'_>,
    level: Level,
    shared: &Shared<'_>,
) -> Outcomes {
    let mut outcomes = Vec::new();
    while let Some(state) = states.first() {
        let job = Job::of(state);
        let count = job.as_ref().map_or(1, |job| job.alike(states));
        let (alike, rest) = states.split_at_mut(count);
        let mut places = cutter.rows(&(first..first + count));
        let together = job.filter(|_| count > 1).is_some_and(|job| {
            finish_together(weights, &job, first, alike, places.all(), level, shared)
        });
        if !together {
            finish_each(weights, first, alike, places, level, shared, &mut outcomes);
        }
        (first, states) = (first + count, rest);
    }
    outcomes
}

/// Small rows one by one; none has wide groups.
fn finish_each(
    weights: &Weights,
    first: usize,
    states: &mut [State<'_>],
    mut places: Cutter<'_>,
    level: Level,
    shared: &Shared<'_>,
    outcomes: &mut Outcomes,
) {
    let wide = Wide::new();
    for (row, state) in (first..).zip(states).filter(|(_, state)| state.fate.is_ok()) {
        let out = places.row(row);
        let mut sums = Sums::default();
        pieces(weights, state, row, out, &wide, |item| {
            match finish(item, level, shared, weights) {
                (_, Ok(piece)) => sums += piece,
                unfinished => outcomes.push(unfinished),
            }
        });
        state.sums = sums;
    }
}

/// The rows whose scales did not fit, which rise.
fn second_round(
    weights: &Weights,
    states: &mut [State<'_>],
    rows: &[usize],
    payload: &mut Payload,
    shared: &Shared<'_>,
    pool: &ThreadPool,
) -> Result<Left, Error> {
    let level = Level::best();
    let wide = wide_ranges(weights, states, Some(rows), pool, level, shared.monitor);
    let items = items(weights, states, rows, payload, &wide);
    for &row in rows {
        shared.expect_anew(row);
    }
    for item in &items {
        shared.expect(item.row);
    }
    let work = |item| finish(item, level, shared, weights);
    let outcomes = spread(pool, items, work);
    settle(weights, states, vec![outcomes], pool, shared.monitor)
}

/// Write into the states what became of them.
fn settle(
    weights: &Weights,
    states: &mut [State<'_>],
    outcomes: Vec<Outcomes>,
    pool: &ThreadPool,
    monitor: &Monitor,
) -> Result<Left, Error> {
    if monitor.is_cancelled() {
        return Err(Error::Cancelled);
    }
    let (mut rows, mut bad, mut any_failed) = (Vec::new(), Vec::new(), false);
    for (row, outcome) in outcomes.into_iter().flatten() {
        let state = &mut states[row];
        any_failed |= matches!(outcome, Err(Stop::Row(_) | Stop::NotFinite | Stop::Skipped));
        match outcome {
            Ok(sums) => state.sums += sums,
            Err(Stop::Row(error)) if state.fate.is_ok() => {
                state.fate = Err(super::entry(weights, row, &state.described, error));
            }
            Err(Stop::NotFinite) if bad.last() != Some(&row) => bad.push(row),
            Err(Stop::ScaleOverflow) if rows.last() != Some(&row) => rows.push(row),
            Err(_) => {}
        }
    }
    locate(weights, states, &bad, pool, monitor)?;
    rows.retain(|&row| states[row].fate.is_ok());
    for &row in &rows {
        states[row].sums = Sums::default();
    }
    Ok(Left { rows, any_failed })
}

/// Fail the rows `bad`, which have values that can't be quantized, saying where these are.
fn locate(
    weights: &Weights,
    states: &mut [State<'_>],
    bad: &[usize],
    pool: &ThreadPool,
    monitor: &Monitor,
) -> Result<(), Error> {
    let locate = |&row: &usize| {
        let Ok(Layer::Encode { source, .. }) = states[row].fate else { return None };
        Some((row, non_finite(source, weights.bytes(row).unwrap_or(&[]), monitor)))
    };
    let found = spread(pool, bad.iter().collect(), locate).into_iter().flatten();
    if monitor.is_cancelled() {
        return Err(Error::Cancelled);
    }
    for (row, error) in found {
        states[row].fate = Err(super::entry(weights, row, &states[row].described, error));
    }
    Ok(())
}
