//! The groups of a tile as they are worked through.

use std::marker::PhantomData;

use super::general;
use super::parameters::Parameters;
use super::ways::{Lengths, Room};
use crate::kernel::metrics::Sums;
use crate::kernel::pack;
use crate::kernel::spans::{Spans, floats};
use crate::kernel::stored::{BFloat16, Stored};
use crate::kernel::tile::{Tile, Values};
use crate::lanes::{LANES, Lanes};

/// How many whole lines each of a tile's groups is, where all are as many; else zero.
#[inline(always)]
pub(super) fn lines<S: Stored>(tile: &Tile<'_>) -> usize {
    let (group_size, line) = (tile.grouping.group_size, S::VECTORS * LANES);
    let even =
        group_size.is_multiple_of(line) && tile.width.is_multiple_of(group_size) && tile.phase == 0;
    if even { group_size / line } else { 0 }
}

/// Whether a tile has 16-bit weights in groups of whole lines.
#[inline(always)]
pub(super) fn even_halves(tile: &Tile<'_>) -> bool {
    // Lines of both types have equally many weights.
    matches!(tile.values, Values::Halves(..)) && lines::<BFloat16>(tile) > 0
}

/// A tile's groups with their values and codes, as they are worked through. Where `Even`, all are
/// [`lines`] of what they are stored as. Codes are a byte each or, where `Packed`, half a byte.
pub(super) struct Groups<'a, L: Lanes, S: Stored, E: Lengths, P: Room> {
    lanes: L,
    values: Values<'a>,
    /// Those of groups at hand, where they must be converted.
    floats: &'a mut Vec<f32>,
    codes: &'a mut [u8],
    /// Room for the codes of a group before they are packed.
    loose: &'a mut [u8],
    spans: Spans,
    stored: PhantomData<(S, E, P)>,
    /// See [`lines`].
    pub(super) lines: usize,
}

impl<'a, L: Lanes, S: Stored, E: Lengths, P: Room> Groups<'a, L, S, E, P> {
    #[inline(always)]
    pub(super) fn new(
        lanes: L,
        tile: &Tile<'a>,
        floats: &'a mut Vec<f32>,
        (codes, loose): (&'a mut [u8], &'a mut [u8]),
    ) -> Self {
        let lines = if E::EVEN { lines::<S>(tile) } else { 0 };
        // Where groups are even, it makes no difference where a row ends.
        let width = if E::EVEN { tile.values.len() } else { tile.width };
        let spans = Spans::new(&tile.grouping, width, tile.phase);
        let stored = PhantomData;
        Self { lanes, values: tile.values, floats, codes, loose, spans, stored, lines }
    }

    #[inline(always)]
    pub(super) fn next(&mut self) -> (&[f32], &mut [u8]) {
        let span = self.spans.next();
        (floats(self.lanes, self.values, span.clone(), self.floats), &mut self.codes[span])
    }

    /// The codes of the next group in the long way, and what they took.
    #[inline(always)]
    pub(super) fn general(&mut self, bits: u32, group: &Parameters) -> Sums {
        if !P::PACK {
            let (values, codes) = self.next();
            return general::general(bits, group, values, codes);
        }
        let span = self.spans.next();
        let (packed, codes) = (span.start / 2..span.end / 2, &mut self.loose[..span.len()]);
        let values = floats(self.lanes, self.values, span, self.floats);
        let sums = general::general(bits, group, values, codes);
        pack::pack(codes, bits, &mut self.codes[packed]);
        sums
    }

    /// The lines of that many groups at once, and their vectors of codes.
    #[inline(always)]
    pub(super) fn next_even(&mut self, groups: usize) -> (&'a [S::Line], &mut [[u8; LANES]]) {
        let start = self.spans.column;
        self.spans.column += groups * self.spans.group_size;
        let span = start..self.spans.column;
        let line = S::VECTORS * LANES;
        let lines = &S::lines(self.values)[start / line..span.end / line];
        let codes = if P::PACK { span.start / 2..span.end / 2 } else { span };
        (lines, self.codes[codes].as_chunks_mut().0)
    }
}
