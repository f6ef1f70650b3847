//! Tiles over threads: from checked rows to the payload of a batch.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::ThreadPool;
use rayon::prelude::*;

use super::State;
use crate::dtype::{Float, ScaleDtype};
use crate::error::{Error, RowError};
use crate::kernel::metrics::Sums;
use crate::layer::Layer;
use crate::monitor::Monitor;
use crate::panics;
use crate::relation::quantized::{Payload, Spans, Values};
use crate::relation::weights::Weights;
use crate::scheme::{self, Encoded, Grouping, RowLayout, Scheme, Tile};
use crate::simd::{self, Level};
use crate::tile::{Carver, Place, Tiling, into_tasks};

/// A piece of a layer, with the places in the output that it fills.
struct Item<'a> {
    row: usize,
    bytes: &'a [u8],
    work: Work<'a>,
    data: &'a mut [u8],
    scales: &'a mut [f32],
    zero_points: &'a mut [u8],
}

enum Work<'a> {
    Copy,
    Encode { job: Job, tiles: Range<usize>, wide: Option<&'a [scheme::Range]> },
}

/// How one layer is encoded.
#[derive(Clone, Copy)]
struct Job {
    scheme: &'static dyn Scheme,
    source: Float,
    grouping: Grouping,
    tiling: Tiling,
}

/// Why a piece was not finished.
enum Stop {
    Row(RowError),
    /// A scale would be infinite in the scale dtype: the layer takes F32.
    ScaleOverflow,
    /// Nobody needs it any more.
    Skipped,
}

/// What all pieces share.
struct Shared<'a> {
    monitor: &'a Monitor,
    /// In fail-fast mode, the lowest row that failed; rows above it are skipped.
    lowest_failed: Option<AtomicUsize>,
    /// Pieces of each row that are not finished, for progress.
    pending: Vec<AtomicUsize>,
}

impl Shared<'_> {
    fn wanted(&self, row: usize) -> bool {
        let needed = |lowest: &AtomicUsize| row <= lowest.load(Ordering::Relaxed);
        !self.monitor.is_cancelled() && self.lowest_failed.as_ref().is_none_or(needed)
    }

    fn failed(&self, row: usize) {
        if let Some(lowest) = &self.lowest_failed {
            lowest.fetch_min(row, Ordering::Relaxed);
        }
    }
}

/// Encode or copy all good rows; rows whose values are bad become failed ones.
pub(super) fn run(
    weights: &Weights,
    states: &mut [State],
    fail_fast: bool,
    pool: &ThreadPool,
    monitor: &Monitor,
) -> Result<Payload, Error> {
    let mut payload = allocate(weights, states);
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

/// The output at its final size, zeroed by the operating system as its pages are first touched.
fn allocate(weights: &Weights, states: &[State]) -> Payload {
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
    Payload {
        data: Values { values: vec![0; data.end()], spans: data },
        scales: Values { values: vec![0.0; scales.end()], spans: scales },
        zero_points: Values { values: vec![0; zero_points.end()], spans: zero_points },
    }
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
    let mut again = Vec::new();
    for (row, outcome) in outcomes.into_iter().flatten() {
        let state = &mut states[row];
        match outcome {
            Ok(sums) => state.sums += sums,
            Err(Stop::Row(error)) if state.fate.is_ok() => {
                state.fate = Err(super::entry(weights, row, &state.described, error));
            }
            Err(Stop::ScaleOverflow) if again.last() != Some(&row) => again.push(row),
            Err(_) => {}
        }
    }
    again.retain(|&row| states[row].fate.is_ok());
    for &row in &again {
        states[row].sums = Sums::default();
    }
    Ok(again)
}

fn job(state: &State) -> Option<(Job, usize)> {
    let Ok(Layer::Encode { scheme, source, rows, grouping }) = state.fate else {
        return None;
    };
    Some((Job { scheme, source, grouping, tiling: Tiling::new(rows, grouping) }, rows))
}

/// Every piece of `rows`, with its part of the output.
fn items<'a>(
    weights: &'a Weights,
    states: &[State],
    rows: &[usize],
    payload: &'a mut Payload,
    wide: &'a HashMap<usize, Vec<scheme::Range>>,
) -> Vec<Item<'a>> {
    let mut items = Vec::with_capacity(rows.len());
    let mut data = Carver::new(&mut payload.data.values);
    let mut scales = Carver::new(&mut payload.scales.values);
    let mut zero_points = Carver::new(&mut payload.zero_points.values);
    for &row in rows {
        let bytes = weights.bytes(row).unwrap_or(&[]);
        let at = payload.data.spans.range(row);
        let Some((job, _)) = job(&states[row]) else {
            let (scales, zero_points) = (&mut [], &mut []);
            items.push(Item {
                row,
                bytes,
                work: Work::Copy,
                data: data.take(at),
                scales,
                zero_points,
            });
            continue;
        };
        let groups_at = payload.scales.spans.range(row).start;
        let zero_points_at = payload.zero_points.spans.range(row);
        let has_scales = !payload.scales.spans.range(row).is_empty();
        for tiles in job.tiling.pieces() {
            let (first, last) = (job.tiling.place(tiles.start), job.tiling.place(tiles.end - 1));
            let bytes_at =
                job.tiling.data(job.scheme, &first).start..job.tiling.data(job.scheme, &last).end;
            let groups = first.own_groups().start..last.groups.end;
            let shift = |range: &Range<usize>, by: usize| range.start + by..range.end + by;
            let width = job.source.width();
            items.push(Item {
                row,
                bytes: &bytes[first.elements.start * width..last.elements.end * width],
                work: Work::Encode { job, tiles, wide: wide.get(&row).map(Vec::as_slice) },
                data: data.take(shift(&bytes_at, at.start)),
                scales: if has_scales { scales.take(shift(&groups, groups_at)) } else { &mut [] },
                zero_points: if zero_points_at.is_empty() {
                    &mut []
                } else {
                    zero_points.take(shift(&groups, zero_points_at.start))
                },
            });
        }
    }
    items
}

/// Do one piece, tell the monitor, and turn a panic into the row's error.
fn finish(
    item: Item<'_>,
    level: Level,
    shared: &Shared<'_>,
    weights: &Weights,
) -> (usize, Result<Sums, Stop>) {
    let (row, bytes) = (item.row, item.bytes.len());
    if !shared.wanted(row) {
        return (row, Err(Stop::Skipped));
    }
    let outcome = panics::catch(|| work(item, level, shared, weights))
        .unwrap_or_else(|panic| Err(Stop::Row(RowError::Internal(panic))));
    if matches!(outcome, Err(Stop::Row(_))) {
        shared.failed(row);
    }
    // A layer that starts over is reported when it is done.
    if let Some(pending) = shared.pending.get(row)
        && !matches!(outcome, Err(Stop::ScaleOverflow))
    {
        shared.monitor.bytes(bytes);
        if pending.fetch_sub(1, Ordering::AcqRel) == 1 {
            shared.monitor.layer(weights.name(row));
        }
    }
    (row, outcome)
}

fn work(
    item: Item<'_>,
    level: Level,
    shared: &Shared<'_>,
    weights: &Weights,
) -> Result<Sums, Stop> {
    let Item { row, bytes, work, data, scales, zero_points } = item;
    let Work::Encode { job, tiles, wide } = work else {
        data.copy_from_slice(bytes);
        return Ok(Sums::default());
    };
    let start = job.tiling.place(tiles.start);
    let data_start = job.tiling.data(job.scheme, &start).start;
    let group_start = start.own_groups().start;
    let mut data = Carver::new(data);
    let mut scales = Carver::new(scales);
    let mut zero_points = Carver::new(zero_points);
    let mut scratch = Scratch::default();
    let mut sums = Sums::default();
    for tile in tiles {
        if !shared.wanted(row) {
            return Err(Stop::Skipped);
        }
        let place = job.tiling.place(tile);
        let bytes_at = job.tiling.data(job.scheme, &place);
        let groups = place.own_groups();
        let own = groups.start - group_start..groups.end - group_start;
        let out = Encoded {
            data: data.take(bytes_at.start - data_start..bytes_at.end - data_start),
            scales: if scales.is_empty() { &mut [] } else { scales.take(own.clone()) },
            zero_points: if zero_points.is_empty() { &mut [] } else { zero_points.take(own) },
        };
        let width = job.source.width();
        let from = (place.elements.start - start.elements.start) * width;
        let source = &bytes[from..from + place.elements.len() * width];
        let wide = wide.map(|ranges| &ranges[place.groups.clone()]);
        match scratch.encode(level, &job, &place, source, wide, out) {
            Ok(tile) => sums += tile,
            Err(NotFinite) => {
                let whole = weights.bytes(row).unwrap_or(&[]);
                return Err(Stop::Row(non_finite(job.source, whole)));
            }
            Err(Overflow) => return Err(Stop::ScaleOverflow),
        }
    }
    Ok(sums)
}

use BadTile::{NotFinite, Overflow};

enum BadTile {
    NotFinite,
    Overflow,
}

/// Buffers for one tile, used again for the next.
#[derive(Default)]
struct Scratch {
    values: Vec<f32>,
    decoded: Vec<f32>,
    ranges: Vec<scheme::Range>,
}

impl Scratch {
    fn encode(
        &mut self,
        level: Level,
        job: &Job,
        place: &Place,
        source: &[u8],
        wide: Option<&[scheme::Range]>,
        out: Encoded<'_>,
    ) -> Result<Sums, BadTile> {
        self.values.resize(place.elements.len(), 0.0);
        self.decoded.resize(place.elements.len(), 0.0);
        if !simd::to_f32(level, job.source, source, &mut self.values) {
            return Err(NotFinite);
        }
        let grouping = job.grouping;
        let ranges = match wide {
            Some(ranges) => ranges,
            None => {
                self.ranges.resize(place.groups.len(), scheme::Range::ZERO);
                simd::ranges(
                    level,
                    &self.values,
                    place.width,
                    grouping.group_size,
                    &mut self.ranges,
                );
                &self.ranges
            }
        };
        if !scales_fit(job, ranges) {
            return Err(Overflow);
        }
        let (width, phase, values) = (place.width, place.phase, self.values.as_slice());
        let tile = Tile { grouping, width, values, phase, ranges };
        job.scheme.encode(level, &tile, out, &mut self.decoded);
        Ok(if job.source == Float::F64 {
            simd::sums_f64(level, source, &self.decoded)
        } else {
            simd::sums(level, &self.values, &self.decoded)
        })
    }
}

/// Only binary16 has a range that a scale can exceed, and not where the source was binary16.
fn scales_fit(job: &Job, ranges: &[scheme::Range]) -> bool {
    let Grouping { symmetric, scale_dtype, .. } = job.grouping;
    let fits = |range: &scheme::Range| {
        let exact = job.scheme.exact_scale(*range, symmetric);
        exact == 0.0 || scale_dtype.round(exact).is_finite()
    };
    scale_dtype != ScaleDtype::F16 || job.source == Float::F16 || ranges.iter().all(fits)
}

/// Where the values that can't be quantized are, over the whole layer: read again, since this is
/// rare.
fn non_finite(source: Float, bytes: &[u8]) -> RowError {
    let (mut first, mut count, mut only_beyond) = (0, 0, true);
    let mut value = [0f32];
    for (index, element) in bytes.chunks_exact(source.width()).enumerate() {
        if simd::to_f32(Level::BASELINE, source, element, &mut value) {
            continue;
        }
        first = if count == 0 { index as u64 } else { first };
        count += 1;
        let beyond = <[u8; 8]>::try_from(element).is_ok_and(|b| f64::from_le_bytes(b).is_finite());
        only_beyond &= beyond;
    }
    if only_beyond {
        RowError::BeyondFloat32 { first, count }
    } else {
        RowError::NonFinite { first, count }
    }
}

/// The ranges of all groups of those layers whose groups reach over several tiles.
fn wide_ranges(
    weights: &Weights,
    states: &[State],
    rows: &[usize],
    pool: &ThreadPool,
    level: Level,
    monitor: &Monitor,
) -> HashMap<usize, Vec<scheme::Range>> {
    let mut wide = HashMap::new();
    for &row in rows {
        let Some((job, tensor_rows)) = job(&states[row]) else {
            continue;
        };
        if !job.tiling.has_wide_groups() {
            continue;
        }
        let bytes = weights.bytes(row).unwrap_or(&[]);
        let tiles: Vec<_> = pool.install(|| {
            (0..job.tiling.len())
                .into_par_iter()
                .map_init(Vec::new, |values, tile| {
                    let wanted = !monitor.is_cancelled();
                    wanted.then(|| tile_ranges(level, &job, tile, bytes, values))
                })
                .flatten()
                .collect()
        });
        let mut ranges = vec![scheme::Range::ZERO; tensor_rows * job.grouping.groups()];
        for (groups, tile) in tiles {
            for (range, part) in ranges[groups].iter_mut().zip(tile) {
                *range = range.union(part);
            }
        }
        wide.insert(row, ranges);
    }
    wide
}

/// The part of one tile in the ranges of the groups that it touches.
fn tile_ranges(
    level: Level,
    job: &Job,
    tile: usize,
    bytes: &[u8],
    values: &mut Vec<f32>,
) -> (Range<usize>, Vec<scheme::Range>) {
    let place = job.tiling.place(tile);
    let width = job.source.width();
    values.resize(place.elements.len(), 0.0);
    let source = &bytes[place.elements.start * width..place.elements.end * width];
    // Values that are not finite are found when the tile is encoded.
    simd::to_f32(level, job.source, source, values);
    let mut ranges = vec![scheme::Range::ZERO; place.groups.len()];
    let first = (job.grouping.group_size - place.phase).min(values.len());
    let (head, tail) = values.split_at(first);
    let (first_range, other_ranges) = ranges.split_at_mut(1);
    simd::ranges(level, head, head.len(), head.len(), first_range);
    if !tail.is_empty() {
        simd::ranges(level, tail, tail.len(), job.grouping.group_size, other_ranges);
    }
    (place.groups, ranges)
}
