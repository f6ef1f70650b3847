//! The way of groups that are not simple, to the same definition.

use super::parameters::{MAGIC, Parameters, round};
use crate::kernel::metrics::{self, Sums};
use crate::kernel::tile::Codes;

/// The codes of any group, with sums in float64.
#[inline(never)]
pub(super) fn general(bits: u32, group: &Parameters, values: &[f32], codes: &mut [u8]) -> Sums {
    encode(bits, group, values, codes);
    metrics::sums(values, codes, |code| (f32::from(code) - group.zero) * group.scale)
}

/// Write the codes of a group.
#[inline(always)]
pub(super) fn encode(bits: u32, group: &Parameters, values: &[f32], codes: &mut [u8]) {
    let top = ((1u32 << bits) - 1) as f32;
    for (code, value) in codes.iter_mut().zip(values) {
        let shifted = round(value * group.prescale * group.inverse) + group.zero;
        let clamped = if shifted > 0.0 { shifted } else { 0.0 };
        let clamped = if clamped < top { clamped } else { top };
        *code = (clamped + MAGIC).to_bits() as u8;
    }
}

/// The code of zero in a group.
#[inline(always)]
pub(super) fn zero_point(bits: u32, codes: &Codes<'_>, group: usize) -> f32 {
    if codes.grouping.symmetric {
        (1u32 << (bits - 1)) as f32
    } else {
        f32::from(codes.zero_points[group])
    }
}
