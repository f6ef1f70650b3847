//! The places of a tile's groups, and their values.

use std::ops::Range as Span;

use crate::kernel::convert;
use crate::kernel::tile::{Grouping, Values};
use crate::lanes::Lanes;

/// The places of a tile's groups, one after the other.
#[derive(Clone)]
pub(crate) struct Spans {
    pub(crate) group_size: usize,
    /// Elements of a row.
    width: usize,
    /// Where the row begins, and where the next group does in it.
    row: usize,
    pub(crate) column: usize,
    /// Elements of the next group that are within the tile, if its row has so many.
    size: usize,
}

impl Spans {
    #[inline(always)]
    pub(crate) fn new(grouping: &Grouping, width: usize, phase: usize) -> Self {
        let group_size = grouping.group_size;
        Self { group_size, width, row: 0, column: 0, size: group_size - phase }
    }

    /// Elements of the next group.
    #[inline(always)]
    pub(crate) fn peek(&self) -> usize {
        (self.column + self.size).min(self.width) - self.column
    }

    #[inline(always)]
    pub(crate) fn next(&mut self) -> Span<usize> {
        let end = (self.column + self.size).min(self.width);
        let span = self.row + self.column..self.row + end;
        (self.column, self.size) = (end, self.group_size);
        if end == self.width {
            (self.row, self.column) = (span.end, 0);
        }
        span
    }
}

/// Some of a tile's values as float32, in `buffer` if they are not that.
#[inline(always)]
pub(crate) fn floats<'a, L: Lanes>(
    lanes: L,
    values: Values<'a>,
    span: Span<usize>,
    buffer: &'a mut Vec<f32>,
) -> &'a [f32] {
    match values {
        Values::Float32(values) => &values[span],
        Values::Halves(source, bytes) => {
            if buffer.len() < span.len() {
                buffer.resize(span.len(), 0.0);
            }
            let floats = &mut buffer[..span.len()];
            convert::halves(lanes, source, &bytes[2 * span.start..2 * span.end], floats);
            floats
        }
    }
}
