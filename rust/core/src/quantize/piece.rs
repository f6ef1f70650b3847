//! One piece of a layer, worked through on one thread.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::input::{Input, Room, float_values};
use super::item::{Item, Places, Work};
use super::job::Job;
use super::scratch::{OneByOne, Scratch, Seen, Source, Whole};
use super::stop::Stop;
use crate::error::RowError;
use crate::kernel::metrics::Sums;
use crate::kernel::tile::{Encoded, Importance};
use crate::lanes::Level;
use crate::monitor::Monitor;
use crate::panics;
use crate::relation::weights::Weights;
use crate::tile::Carver;

/// What all pieces share.
pub(super) struct Shared<'a> {
    pub(super) monitor: &'a Monitor,
    /// In fail-fast mode, the lowest row that failed; rows above it are skipped.
    pub(super) lowest_failed: Option<AtomicUsize>,
    /// Pieces of each row that are not finished, for progress.
    pub(super) pending: Vec<AtomicUsize>,
}

impl<'a> Shared<'a> {
    /// For a batch of so many rows.
    pub(super) fn new(monitor: &'a Monitor, fail_fast: bool, rows: usize) -> Self {
        let mut pending = Vec::new();
        if monitor.is_watched() {
            pending.resize_with(rows, || AtomicUsize::new(0));
        }
        let lowest_failed = fail_fast.then(|| AtomicUsize::new(usize::MAX));
        Self { monitor, lowest_failed, pending }
    }

    /// Count one more piece of each row.
    pub(super) fn expect(&self, rows: Range<usize>) {
        for pending in self.pending.get(rows).unwrap_or(&[]) {
            pending.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Forget the pieces of a row that starts over.
    pub(super) fn expect_anew(&self, row: usize) {
        if let Some(pending) = self.pending.get(row) {
            pending.store(0, Ordering::Relaxed);
        }
    }

    /// Tell the monitor of a piece.
    fn done(&self, row: usize, bytes: usize, weights: &Weights) {
        if let Some(pending) = self.pending.get(row) {
            self.monitor.bytes(bytes);
            if pending.fetch_sub(1, Ordering::AcqRel) == 1 {
                self.monitor.layer(weights.name(row));
            }
        }
    }

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

/// Do one piece, tell the monitor, and turn a panic into the row's error.
pub(super) fn finish(
    item: Item<'_>,
    level: Level,
    shared: &Shared<'_>,
    weights: &Weights,
) -> (usize, Result<Sums, Stop>) {
    let (row, bytes) = (item.row, item.size);
    if !shared.wanted(row) {
        return (row, Err(Stop::Skipped));
    }
    let outcome = panics::catch(|| work(item, level, shared, weights))
        .unwrap_or_else(|panic| Err(Stop::Row(RowError::Internal(panic))));
    if matches!(outcome, Err(Stop::Row(_) | Stop::NotFinite | Stop::OutOfRange)) {
        shared.failed(row);
    }
    // A layer that starts over is reported when it is done.
    if !matches!(outcome, Err(Stop::ScaleOverflow)) {
        shared.done(row, bytes, weights);
    }
    (row, outcome)
}

/// Do small layers of one kind as one tile and tell the monitor; or return an error, so that they
/// are done one by one and each gets the error that is its own.
pub(super) fn finish_together(
    weights: &Weights,
    job: &Job,
    (first, more, seen): (usize, bool, Seen),
    sums: &mut [Sums],
    out: Places<'_>,
    level: Level,
    shared: &Shared<'_>,
) -> Result<Seen, OneByOne> {
    let count = sums.len();
    let bytes = weights.joined_bytes(first, count).filter(|_| shared.wanted(first));
    let bytes = bytes.ok_or(OneByOne)?;
    let next = if more { weights.joined_bytes(first + count, count) } else { None };
    let source = Source { bytes, next, seen, importance: Importance::default() };
    let Places { data, scales, zero_points, biases } = out;
    let out = Encoded { data, scales, zero_points, biases };
    let seen = panics::catch(|| {
        SCRATCH.with_borrow_mut(|scratch| scratch.encode_together(level, job, source, out, sums))
    });
    let seen = seen.unwrap_or(Err(OneByOne))?;
    for row in (first..first + count).filter(|_| !shared.pending.is_empty()) {
        shared.done(row, bytes.len() / count, weights);
    }
    Ok(seen)
}

fn work(
    item: Item<'_>,
    level: Level,
    shared: &Shared<'_>,
    weights: &Weights,
) -> Result<Sums, Stop> {
    let Item { row, work, out, .. } = item;
    let mut sums = Sums::default();
    let (job, tiling, tiles, wide, importance) = match work {
        Work::Copy => {
            copy(weights, row, out);
            return Ok(sums);
        }
        Work::Tile { job, place, importance } => {
            let Places { data, scales, zero_points, biases } = out;
            let out = Encoded { data, scales, zero_points, biases };
            let input = Input::of(weights, row, &job);
            let importance = importance.map(|columns| columns.of(&place)).unwrap_or_default();
            ROOM.with_borrow_mut(|room| {
                let bytes = input.bytes(level, &place, room);
                let source = Source { bytes, next: None, seen: None, importance };
                SCRATCH.with_borrow_mut(|scratch| {
                    scratch.encode(level, (&job, &place), source, None, out, &mut sums)
                })
            })?;
            return Ok(sums);
        }
        Work::Encode { job, tiling, tiles, wide, importance } => {
            (job, tiling, tiles, wide, importance)
        }
    };
    if let Some(told) = wide.and_then(|wide| wide.false_fact) {
        return Err(Stop::Row(RowError::InvalidFact(told.to_string())));
    }
    let layout = job.layout();
    let (input, shares) = (Input::of(weights, row, &job), layout.shares_scales());
    let start = tiling.place(tiles.start);
    let data_start = start.data(layout).start;
    let group_start = start.own_groups().start;
    let mut data = Carver::new(out.data);
    let mut scales = Carver::new(out.scales);
    let (mut zero_points, mut biases) = (Carver::new(out.zero_points), Carver::new(out.biases));
    let (mut bounds, mut known) = (Vec::new(), Vec::new());
    ROOM.with_borrow_mut(|room| {
        SCRATCH.with_borrow_mut(|scratch| {
            let (mut seen, end) = (None, tiles.end);
            for tile in tiles {
                if !shared.wanted(row) {
                    return Err(Stop::Skipped);
                }
                let place = tiling.place(tile);
                let bytes_at = place.data(layout);
                let groups = if shares { 0..0 } else { place.own_groups() };
                let own = groups.start.saturating_sub(group_start)
                    ..groups.end.saturating_sub(group_start);
                let out = Encoded {
                    data: data.take(bytes_at.start - data_start..bytes_at.end - data_start),
                    scales: scales.take_if_any(own.clone()),
                    zero_points: zero_points.take_if_any(own.clone()),
                    biases: biases.take_if_any(own),
                };
                let next = (tile + 1 < end).then(|| tiling.place(tile + 1));
                let next = next.filter(|next| next.elements.len() == place.elements.len());
                let next = next.and_then(|next| input.next(&next));
                let importance = importance.map(|columns| columns.of(&place)).unwrap_or_default();
                let bytes = input.bytes(level, &place, room);
                let source = Source { bytes, next, seen, importance };
                let wide = wide.map(|wide| {
                    wide.of(layout, &place, &mut bounds, &mut known);
                    Whole { bounds: &bounds, scales: &known, tensor_scale: wide.tensor_scale }
                });
                seen = scratch.encode(level, (&job, &place), source, wide, out, &mut sums)?;
            }
            Ok(sums)
        })
    })
}

/// A row that is kept: its bytes, and the parameters of its codes.
fn copy(weights: &Weights, row: usize, out: Places<'_>) {
    out.data.copy_from_slice(weights.bytes(row).unwrap_or(&[]));
    let Some(encodings) = weights.packed.as_ref().and_then(|packed| packed.get(row)) else {
        return;
    };
    for (out, from) in [(out.scales, encodings.scales(row)), (out.biases, encodings.biases(row))] {
        for (out, number) in out.iter_mut().zip(from.unwrap_or(&[]).as_chunks::<4>().0) {
            *out = f32::from_le_bytes(*number);
        }
    }
    if !out.zero_points.is_empty() {
        out.zero_points.copy_from_slice(encodings.zero_points(row).unwrap_or(&[]));
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
    static ROOM: RefCell<Room> = RefCell::default();
}

/// Where the values that can't be quantized are, over the whole layer: read again, since this is
/// rare. Stretches that are all good go by at a tile's speed. Of values that are not finite and values
/// above the limit, the former are told.
pub(super) fn bad_values(input: &Input<'_>, job: &Job, monitor: &Monitor) -> RowError {
    let (level, limit, width) = (Level::best(), job.bound.codec.limit(), job.source.width());
    let (mut room, mut values) = (Room::default(), Vec::new());
    let (mut bad, mut only_beyond, mut large) = (Found::default(), true, Found::default());
    let tiling = job.tiling();
    for tile in 0..tiling.len() {
        let place = tiling.place(tile);
        let bytes = input.bytes(level, &place, &mut room);
        let values = float_values(level, job.source, bytes, &mut values);
        // A NaN is not below it.
        if monitor.is_cancelled() || values.iter().all(|value| value.abs() <= limit) {
            continue;
        }
        let elements = bytes.chunks_exact(width).zip(values.iter()).enumerate();
        for (at, (element, value)) in elements {
            let at = (place.elements.start + at) as u64;
            if !value.is_finite() {
                bad.add(at);
                let wide = <[u8; 8]>::try_from(element).map(f64::from_le_bytes);
                only_beyond &= wide.is_ok_and(f64::is_finite);
            } else if value.abs() > limit {
                large.add(at);
            }
        }
    }
    match bad {
        Found { count: 0, .. } => {
            RowError::OutOfRange { limit, first: large.first, count: large.count }
        }
        Found { first, count } if only_beyond => RowError::BeyondFloat32 { first, count },
        Found { first, count } => RowError::NonFinite { first, count },
    }
}

/// Where the first of some elements is, and how many there are.
#[derive(Default)]
struct Found {
    first: u64,
    count: u64,
}

impl Found {
    fn add(&mut self, at: u64) {
        self.first = if self.count == 0 { at } else { self.first };
        self.count += 1;
    }
}
