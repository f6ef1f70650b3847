//! Formats of fixed blocks: as many bytes for as many values, scales among them.

use std::fmt::Debug;

use super::convert;
use super::measure::{Measure, in_full, is_usual};
use super::metrics::Sums;
use super::search::{Rows, Units};
use super::tile::{Bounds, Buffers, Search, Tile, Values};
use crate::lanes::{LANES, Lanes};

/// A format of blocks. All that it says is how one block is written and read.
pub(crate) trait Block: Debug + Send + Sync + 'static {
    /// Values of a block: a power of two of at least 32, at most [`RUN`].
    const ELEMENTS: usize;
    /// Its bytes.
    const BYTES: usize;
    /// Values that have a scale of their own in it: the bounds of so many are found beforehand.
    const PART: usize = Self::ELEMENTS;
    /// The largest magnitude whose scale it can hold.
    const LIMIT: f32;

    /// What a block's codes are multiplied by, and what is added.
    type Levels: Copy + Default;

    /// The levels of a block of [`Block::ELEMENTS`] finite values from the bounds of each
    /// [`Block::PART`] of them.
    fn fit<L: Lanes>(lanes: L, values: &[f32], bounds: &[Bounds]) -> Self::Levels;

    /// Levels that leave smaller squared errors of some blocks, whose parts are side by side, than the usual
    /// ones, which the bounds give.
    fn search<L: Lanes>(lanes: L, units: &Units<'_, L>, levels: &mut [Self::Levels]);

    /// Write the block of such values.
    fn encode<L: Lanes>(lanes: L, values: &[f32], levels: Self::Levels, block: &mut [u8]);

    /// What a block decodes to, whatever its bytes.
    fn decode<L: Lanes>(lanes: L, block: &[u8], values: &mut [f32]);

    /// The magnitude of a block's scale.
    fn scale(block: &[u8]) -> f32;
}

/// Values that are encoded, decoded and measured while they are in the first-level cache.
pub(crate) const RUN: usize = 1 << 10;

/// See `Codec::encode`.
#[inline(always)]
pub(crate) fn encode<L: Lanes, B: Block>(
    lanes: L,
    tile: &Tile<'_>,
    data: &mut [u8],
    buffers: &mut Buffers,
    sums: &mut [Sums],
) {
    const { assert!(RUN.is_multiple_of(B::ELEMENTS)) }
    let Buffers { values: floats, room, .. } = buffers;
    let mut decoded = [0.0; RUN];
    let part = tile.values.len() / sums.len().max(1);
    let absmax = tile.ranges.iter().fold(0.0f32, |absmax, range| absmax.max(range.absmax()));
    let mut at = 0;
    for sums in sums {
        let (mut measure, end) = (Measure::new(lanes), at + part);
        let start = at;
        while at < end {
            let count = RUN.min(end - at);
            let values = floats_of(lanes, tile.values, at, count, floats);
            let blocks = at / B::ELEMENTS..(at + count) / B::ELEMENTS;
            let bytes = &mut data[blocks.start * B::BYTES..blocks.end * B::BYTES];
            let parts = B::ELEMENTS / B::PART;
            let ranges = &tile.ranges[blocks.start * parts..blocks.end * parts];
            let together = LANES / parts;
            let runs = values
                .chunks(together * B::ELEMENTS)
                .zip(bytes.chunks_mut(together * B::BYTES))
                .zip(ranges.chunks(LANES));
            let starts = (at..).step_by(together * B::ELEMENTS);
            for (((values, bytes), bounds), start) in runs.zip(starts) {
                let count = values.len() / B::ELEMENTS;
                let mut levels = [B::Levels::default(); LANES];
                let levels = &mut levels[..count];
                let blocks = values.chunks_exact(B::ELEMENTS).zip(bounds.chunks_exact(parts));
                for (levels, (values, bounds)) in levels.iter_mut().zip(blocks) {
                    *levels = B::fit(lanes, values, bounds);
                }
                if tile.search != Search::None {
                    let absmax = bounds.iter().copied().map(Bounds::absmax);
                    let rows = Rows::of_blocks((values, start), (B::PART, parts), absmax);
                    let units = Units::new(lanes, &rows, &tile.importance, room);
                    B::search(lanes, &units, levels);
                }
                let blocks = values.chunks_exact(B::ELEMENTS).zip(bytes.chunks_exact_mut(B::BYTES));
                for ((values, block), levels) in blocks.zip(&*levels) {
                    B::encode(lanes, values, *levels, block);
                }
            }
            let decoded = &mut decoded[..count];
            decode::<L, B>(lanes, bytes, decoded);
            measure.add(values, decoded);
            at += count;
        }
        let usual = measure.sums().filter(|_| is_usual(absmax));
        *sums +=
            usual.unwrap_or_else(|| again::<L, B>(lanes, tile.values, start..end, data, floats));
    }
}

/// The sums of a part in float64.
#[inline(never)]
fn again<L: Lanes, B: Block>(
    lanes: L,
    values: Values<'_>,
    part: std::ops::Range<usize>,
    data: &[u8],
    floats: &mut Vec<f32>,
) -> Sums {
    let mut decoded = vec![0.0; part.len()];
    let bytes = part.start / B::ELEMENTS * B::BYTES..part.end / B::ELEMENTS * B::BYTES;
    decode::<L, B>(lanes, &data[bytes], &mut decoded);
    in_full(floats_of(lanes, values, part.start, part.len(), floats), &decoded)
}

/// Some of a tile's values as float32, in `buffer` if they are not that.
#[inline(always)]
pub(crate) fn floats_of<'a, L: Lanes>(
    lanes: L,
    values: Values<'a>,
    start: usize,
    count: usize,
    buffer: &'a mut Vec<f32>,
) -> &'a [f32] {
    match values {
        Values::Float32(values) => &values[start..start + count],
        Values::Halves(source, bytes) => {
            if buffer.len() < count {
                buffer.resize(count, 0.0);
            }
            let floats = &mut buffer[..count];
            convert::halves(lanes, source, &bytes[2 * start..2 * (start + count)], floats);
            floats
        }
    }
}

/// See `Codec::decode`.
#[inline(always)]
pub(crate) fn decode<L: Lanes, B: Block>(lanes: L, data: &[u8], values: &mut [f32]) {
    let blocks = data.chunks_exact(B::BYTES).zip(values.chunks_exact_mut(B::ELEMENTS));
    for (block, values) in blocks {
        B::decode(lanes, block, values);
    }
}
