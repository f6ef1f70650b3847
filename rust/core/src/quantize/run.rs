//! Tiles over threads: from checked rows to the payload of a batch.

use std::collections::HashMap;

use arrow_schema::ArrowError;
use rayon::ThreadPool;
use rayon::prelude::*;

use super::importance::importances;
use super::input::Input;
use super::item::{Before, Cutter, Task, Wide, alike, items, pieces, tasks};
use super::job::Layer;
use super::piece::{Shared, bad_values, finish, finish_together};
use super::rows::Rows;
use super::scratch::OneByOne;
use super::stop::Stop;
use super::wide::wide_ranges;
use crate::error::Error;
use crate::kernel::dispatch::Fenced;
use crate::kernel::metrics::Sums;
use crate::lanes::Level;
use crate::memory::Output;
use crate::monitor::Monitor;
use crate::pool::{SPREAD, join};
use crate::relation::quantized::{Payload, Spans, Values};
use crate::scheme::Layout;

/// Encode or copy all good rows and sum up what it took; rows whose values are bad become failed
/// ones.
pub(super) fn run(
    rows: &mut Rows<'_>,
    sums: &mut [Sums],
    fail_fast: bool,
    pool: &ThreadPool,
    monitor: &Monitor,
) -> Result<(Payload, TensorScales), Error> {
    let mut payload = allocate(rows, pool)?;
    let shared = Shared::new(monitor, fail_fast, rows.len());
    let mut scaled = TensorScales::new();
    let mut again = first_round(rows, sums, (&mut payload, &mut scaled), &shared, pool)?;
    // A second round, with F32 scales, is for layers whose scales overflow the dtype asked for.
    if !again.rows.is_empty() {
        for &row in &again.rows {
            rows.widen_scales(row);
        }
        let second =
            second_round(rows, sums, &again.rows, (&mut payload, &mut scaled), &shared, pool)?;
        again.any_failed |= second.any_failed;
    }
    if again.any_failed {
        let keep = |row: usize| rows.kind(row).is_some();
        payload.data.spans.retain(&mut payload.data.values, keep);
        payload.scales.spans.retain(&mut payload.scales.values, keep);
        payload.zero_points.spans.retain(&mut payload.zero_points.values, keep);
        payload.biases.spans.retain(&mut payload.biases.values, keep);
    }
    Ok((payload, scaled))
}

/// The output at its final size.
fn allocate(rows: &Rows<'_>, pool: &ThreadPool) -> Result<Payload, ArrowError> {
    let of_data = || {
        spans(rows, |layer, row| match layer.bound() {
            Some(bound) => bound.layout.data_bytes(),
            None => rows.weights.bytes(row).map(<[u8]>::len),
        })
    };
    let some = |layer: &Layer, len: fn(&Layout) -> Option<usize>| {
        len(&layer.bound()?.layout).filter(|&len| len > 0)
    };
    let of_scales = || spans(rows, |layer, _| some(layer, Layout::scale_count));
    let of_zero_points = || spans(rows, |layer, _| some(layer, Layout::zero_point_count));
    let of_biases = || spans(rows, |layer, _| some(layer, Layout::bias_count));
    let pool = (rows.len() >= SPREAD).then_some(pool);
    let ((data, scales), (zero_points, biases)) =
        join(pool, || join(pool, of_data, of_scales), || join(pool, of_zero_points, of_biases));
    Ok(Payload {
        data: Values { values: Output::new(data.end())?, spans: data },
        scales: Values { values: Output::new(scales.end())?, spans: scales },
        zero_points: Values { values: Output::new(zero_points.end())?, spans: zero_points },
        biases: Values { values: Output::new(biases.end())?, spans: biases },
    })
}

/// Where each row's values will lie, of `len` values each.
#[inline(always)]
fn spans(rows: &Rows<'_>, len: impl Fn(&Layer, usize) -> Option<usize>) -> Spans {
    let mut spans = Spans::with_capacity(rows.len());
    for (run, fate) in rows.runs() {
        match fate.kind().map(|kind| &kind.layer) {
            Some(Layer::Keep) => run.for_each(|row| spans.push(len(&Layer::Keep, row))),
            Some(layer) => spans.push_alike(len(layer, run.start), run.len()),
            None => spans.push_alike(None, run.len()),
        }
    }
    spans
}

/// Do all work on the pool, in order of the items; one item alone is not worth waking a thread. Items
/// are large enough to be stolen one by one, so that all threads end at about the same time.
fn spread<T: Send, R: Send>(
    pool: &ThreadPool,
    items: Vec<T>,
    work: impl Fn(T) -> R + Send + Sync,
) -> Vec<R> {
    if items.len() < 2 {
        return items.into_iter().map(work).collect();
    }
    pool.install(|| items.into_par_iter().with_max_len(1).map(work).collect())
}

/// What became of pieces of layers, and of rows that were not finished.
type Outcomes = Vec<(usize, Result<Sums, Stop>)>;

/// What a round leaves to do.
struct Left {
    /// Rows that need another round.
    rows: Vec<usize>,
    any_failed: bool,
}

/// What must be known of rows before any tile is encoded; of `wanted`, which rise, where these are given.
fn before<'a>(
    rows: &Rows<'a>,
    wanted: Option<&[usize]>,
    pool: &ThreadPool,
    level: Level,
    monitor: &Monitor,
) -> Before<'a> {
    Before {
        wide: wide_ranges(rows, wanted, pool, level, monitor),
        importances: importances(rows, wanted, pool, level, monitor),
    }
}

/// All good rows.
fn first_round(
    rows: &mut Rows<'_>,
    sums: &mut [Sums],
    (payload, scaled): (&mut Payload, &mut TensorScales),
    shared: &Shared<'_>,
    pool: &ThreadPool,
) -> Result<Left, Error> {
    let level = Level::best().for_output(payload.data.values.len());
    let before = before(rows, None, pool, level, shared.monitor);
    write_shared(&before.wide, payload, scaled);
    let tasks = tasks(rows, sums, payload, &before);
    for task in &tasks {
        match task {
            Task::Piece(item) => shared.expect(item.row..item.row + 1),
            Task::Rows { first, sums, .. } => shared.expect(*first..first + sums.len()),
        }
    }
    let work = |task: Task<'_>| {
        let fenced = Fenced::new(level);
        match task {
            Task::Piece(item) => vec![finish(item, fenced.level(), shared, rows.weights)],
            Task::Rows { first, sums, cutter } => {
                finish_rows(rows, first, sums, (cutter, &before), fenced.level(), shared)
            }
        }
    };
    let outcomes = spread(pool, tasks, work);
    settle(rows, sums, outcomes, pool, shared.monitor)
}

/// The scales of whole layers, by row, where they are not 1.
pub(super) type TensorScales = HashMap<usize, f32>;

/// Write the scales that rows share, which are known before any tile is encoded.
fn write_shared(wide: &Wide, payload: &mut Payload, scaled: &mut TensorScales) {
    for (&row, known) in wide {
        if known.tensor_scale != 1.0 {
            scaled.insert(row, known.tensor_scale);
        }
        if !known.scales.is_empty() {
            let span = payload.scales.spans.range(row);
            payload.scales.values[span].copy_from_slice(&known.scales);
        }
    }
}

/// Small rows that follow each other; only what is left to do of them is returned.
fn finish_rows(
    rows: &Rows<'_>,
    mut first: usize,
    mut sums: &mut [Sums],
    (mut cutter, before): (Cutter<'_>, &Before<'_>),
    level: Level,
    shared: &Shared<'_>,
) -> Outcomes {
    let (mut outcomes, mut seen) = (Vec::new(), None);
    while !sums.is_empty() {
        let job = rows.layer(first).and_then(Layer::job);
        let (count, more) = job.map_or((1, false), |job| alike(rows, first, job, sums.len()));
        let (alike, rest) = sums.split_at_mut(count);
        let mut places = cutter.rows(&(first..first + count));
        let together = job.filter(|_| count > 1).ok_or(OneByOne).and_then(|job| {
            let at = (first, more, seen);
            finish_together(rows.weights, job, at, alike, places.all(), level, shared)
        });
        seen = together.unwrap_or_else(|OneByOne| {
            finish_each(rows, first, alike, (places, before), level, shared, &mut outcomes);
            None
        });
        (first, sums) = (first + count, rest);
    }
    outcomes
}

/// Small rows one by one; none has wide groups.
fn finish_each(
    rows: &Rows<'_>,
    first: usize,
    sums: &mut [Sums],
    (mut places, before): (Cutter<'_>, &Before<'_>),
    level: Level,
    shared: &Shared<'_>,
    outcomes: &mut Outcomes,
) {
    for (row, sums) in (first..).zip(sums) {
        let Some(layer) = rows.layer(row) else { continue };
        *sums = Sums::default();
        pieces(rows.weights, layer, row, places.row(row), before, |item| {
            match finish(item, level, shared, rows.weights) {
                (_, Ok(piece)) => *sums += piece,
                unfinished => outcomes.push(unfinished),
            }
        });
    }
}

/// The rows whose scales did not fit, which rise.
fn second_round(
    rows: &mut Rows<'_>,
    sums: &mut [Sums],
    again: &[usize],
    (payload, scaled): (&mut Payload, &mut TensorScales),
    shared: &Shared<'_>,
    pool: &ThreadPool,
) -> Result<Left, Error> {
    let level = Level::best();
    let before = before(rows, Some(again), pool, level, shared.monitor);
    write_shared(&before.wide, payload, scaled);
    let items = items(rows, again, payload, &before);
    for &row in again {
        shared.expect_anew(row);
    }
    for item in &items {
        shared.expect(item.row..item.row + 1);
    }
    let work = |item| finish(item, level, shared, rows.weights);
    let outcomes = spread(pool, items, work);
    settle(rows, sums, vec![outcomes], pool, shared.monitor)
}

/// Write down what became of all.
fn settle(
    rows: &mut Rows<'_>,
    sums: &mut [Sums],
    outcomes: Vec<Outcomes>,
    pool: &ThreadPool,
    monitor: &Monitor,
) -> Result<Left, Error> {
    if monitor.is_cancelled() {
        return Err(Error::Cancelled);
    }
    let (mut again, mut bad, mut any_failed) = (Vec::new(), Vec::new(), false);
    for (row, outcome) in outcomes.into_iter().flatten() {
        any_failed |= matches!(
            outcome,
            Err(Stop::Row(_) | Stop::NotFinite | Stop::OutOfRange | Stop::Skipped)
        );
        match outcome {
            Ok(piece) => sums[row] += piece,
            Err(Stop::Row(error)) if rows.kind(row).is_some() => rows.fail(row, error),
            Err(Stop::NotFinite | Stop::OutOfRange) if bad.last() != Some(&row) => bad.push(row),
            Err(Stop::ScaleOverflow) if again.last() != Some(&row) => again.push(row),
            Err(_) => {}
        }
    }
    locate(rows, &bad, pool, monitor)?;
    again.retain(|&row| rows.kind(row).is_some());
    for &row in &again {
        sums[row] = Sums::default();
    }
    Ok(Left { rows: again, any_failed })
}

/// Fail the rows `bad`, which have values that can't be quantized, saying where these are.
fn locate(
    rows: &mut Rows<'_>,
    bad: &[usize],
    pool: &ThreadPool,
    monitor: &Monitor,
) -> Result<(), Error> {
    let locate = |&row: &usize| {
        let job = rows.layer(row)?.job()?;
        Some((row, bad_values(&Input::of(rows.weights, row, job), job, monitor)))
    };
    let found: Vec<_> = spread(pool, bad.iter().collect(), locate);
    if monitor.is_cancelled() {
        return Err(Error::Cancelled);
    }
    for (row, error) in found.into_iter().flatten() {
        rows.fail(row, error);
    }
    Ok(())
}
