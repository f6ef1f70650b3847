//! The sums of layers that share a tile.

use super::general::zero_point;
use crate::kernel::metrics::{self, Sums};
use crate::kernel::spans::{Spans, floats};
use crate::kernel::tile::{Codes, Values};
use crate::lanes::Lanes;

/// The sums of a tile's parts, which have equally many groups.
pub(super) struct Parts<'a> {
    sums: &'a mut [Sums],
    /// Groups of each part, and those still to come in the part at hand.
    pub(super) part: usize,
    pub(super) left: usize,
    at: usize,
    /// What its groups took that are not simple.
    pub(super) general: Sums,
    /// Parts whose sums can't be had in float32.
    pub(super) faint: Vec<usize>,
}

impl<'a> Parts<'a> {
    #[inline(always)]
    pub(super) fn new(groups: usize, sums: &'a mut [Sums]) -> Self {
        let part = groups / sums.len().max(1);
        Self { sums, part, left: part, at: 0, general: Sums::default(), faint: Vec::new() }
    }

    /// Count groups of one part; whether it was its last ones.
    #[inline(always)]
    pub(super) fn count(&mut self, groups: usize) -> bool {
        self.left -= groups;
        self.left == 0
    }

    /// The largest error of the part at hand that is known.
    #[inline(always)]
    pub(super) fn known(&self) -> f64 {
        self.sums[self.at].max_abs_error
    }

    /// The part at hand is done: add what its simple groups took, where that can be told, and its
    /// other ones.
    #[inline(always)]
    pub(super) fn add(&mut self, simple: Option<Sums>, general: Sums) {
        if let Some(sums) = simple {
            let part = &mut self.sums[self.at];
            *part += sums;
            *part += general;
        } else {
            self.faint.push(self.at);
        }
        (self.at, self.left) = (self.at + 1, self.part);
    }
}

/// Count the parts `faint`, which rise, anew: in float64. `codes` has a byte for each.
#[inline(always)]
pub(super) fn recount<L: Lanes>(
    lanes: L,
    bits: u32,
    values: Values<'_>,
    buffer: &mut Vec<f32>,
    codes: &Codes<'_>,
    faint: &[usize],
    sums: &mut [Sums],
) {
    let part = codes.scales.len() / sums.len();
    let mut spans = Spans::new(&codes.grouping, codes.width, codes.phase);
    let mut faint = faint.iter().copied().peekable();
    for (group, &scale) in codes.scales.iter().enumerate() {
        let span = spans.next();
        if faint.peek() != Some(&(group / part)) {
            continue;
        }
        let zero = zero_point(bits, codes, group);
        let codes = &codes.data[span.clone()];
        let values = floats(lanes, values, span, buffer);
        sums[group / part] += metrics::sums(values, codes, |code| (f32::from(code) - zero) * scale);
        if (group + 1).is_multiple_of(part) {
            faint.next();
        }
    }
}
