//! Scales and zero points of sixteen groups together, and which of them are simple.
//!
//! Nearly all groups of real weights are: their codes and errors then come from a short loop. The
//! others take the long way round in [`super::group`], to the same definition.

use std::ops::Range as Span;

use super::parameters::{Form, MAGIC, Parameters, exact_scale, parameters, power_of_two, round};
use crate::dtype::ScaleDtype;
use crate::kernel::tile::Bounds;
use crate::lanes::LANES;

/// Scales of simple groups lie between these: then no product of a value, an error or a scale
/// leaves the normal float32 or float64 numbers, and neither prescaling nor capping happens.
const LOWEST: f32 = power_of_two(-40);
const HIGHEST: f32 = power_of_two(40);

/// How far, in scales, the error of an unclamped value of a simple group can be from zero: half,
/// and more than the rounding of `w·inverse` and of `q·scale` for `|q| ≤ 255` can add.
const FARTHEST: f32 = 0.5 + 1.0 / 1024.0;

/// What the groups of one tile have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    pub(super) bits: u32,
    pub(super) form: Form,
    pub(super) scale_dtype: ScaleDtype,
}

/// Sixteen groups, an array for each quantity so that the compiler computes it for all at once.
pub(super) struct Run {
    /// How many groups there are.
    pub(super) len: usize,
    pub(super) scale: [f32; LANES],
    pub(super) inverse: [f32; LANES],
    /// The code of zero.
    pub(super) zero: [f32; LANES],
    /// The same plus [`MAGIC`], so that its low bits are those of an integer.
    pub(super) shifted_zero: [f32; LANES],
    /// What a code may be at most, less the code of zero.
    pub(super) reach: [f32; LANES],
    /// No error of the group is larger.
    bound: [f32; LANES],
    /// Whether, in simple groups, every product of a rounded value, of at most 8 bits and a sign, and
    /// a scale is a float32 number: a scale of 8 or 11 significant bits leaves room for it in 24.
    pub(super) exact: bool,
    /// 1 where the group is simple, and whether all are.
    simple: [u32; LANES],
    all_simple: u32,
    /// 1 where a value of any group rounds to more than `reach`.
    clamps: u32,
}

impl Run {
    /// Of no groups.
    pub(super) fn new() -> Self {
        Self {
            len: 0,
            scale: [0.0; LANES],
            inverse: [0.0; LANES],
            zero: [0.0; LANES],
            shifted_zero: [0.0; LANES],
            reach: [0.0; LANES],
            bound: [0.0; LANES],
            exact: false,
            simple: [0; LANES],
            all_simple: 0,
            clamps: 0,
        }
    }

    /// Make this the run of up to sixteen groups with these ranges.
    #[inline(always)]
    pub(super) fn set(&mut self, kind: Kind, ranges: &[Bounds]) {
        self.len = ranges.len();
        self.exact = kind.scale_dtype != ScaleDtype::F32;
        let mut padded = [Bounds::ZERO; LANES];
        let sixteen = <&[Bounds; LANES]>::try_from(ranges).unwrap_or_else(|_| {
            padded[..ranges.len()].copy_from_slice(ranges);
            &padded
        });
        match kind.bits {
            8 => self.fill_as::<8>(kind, sixteen),
            4 => self.fill_as::<4>(kind, sixteen),
            _ => self.fill_as::<2>(kind, sixteen),
        }
    }

    #[inline(always)]
    fn fill_as<const BITS: u32>(&mut self, kind: Kind, ranges: &[Bounds; LANES]) {
        match kind.form {
            Form::Asymmetric => self.fill::<BITS, false, false>(kind.scale_dtype, ranges),
            Form::Symmetric => self.fill::<BITS, true, false>(kind.scale_dtype, ranges),
            Form::Signed => self.fill::<BITS, true, true>(kind.scale_dtype, ranges),
        }
    }

    /// Fit the groups, and prepare them: the arithmetic of [`parameters`], without branches.
    #[inline(always)]
    fn fill<const BITS: u32, const SYMMETRIC: bool, const SIGNED: bool>(
        &mut self,
        dtype: ScaleDtype,
        ranges: &[Bounds; LANES],
    ) {
        let shift = 52 - dtype.fraction_bits();
        self.prepare::<BITS, SYMMETRIC, SIGNED>(dtype, ranges, |range| {
            fit::<BITS, SYMMETRIC, SIGNED>(range, shift)
        });
    }

    /// What it takes to apply the scales and codes of zero that `chosen` gives to groups of these
    /// ranges, and which groups are simple with them.
    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "one index into nine arrays")]
    fn prepare<const BITS: u32, const SYMMETRIC: bool, const SIGNED: bool>(
        &mut self,
        dtype: ScaleDtype,
        ranges: &[Bounds; LANES],
        chosen: impl Fn(Bounds) -> (f32, f32),
    ) {
        let top = ((1u32 << BITS) - 1) as f32;
        let half = (1u32 << (BITS - 1)) as f32;
        // Outside the normal numbers of a dtype its rounding is another.
        let (lowest, highest) = match dtype {
            ScaleDtype::F16 => (power_of_two(-14), power_of_two(15)),
            ScaleDtype::F32 | ScaleDtype::BF16 => (LOWEST, HIGHEST),
            // Nobody can ask for these; none of their numbers is usual.
            ScaleDtype::F8E4M3 | ScaleDtype::F8E8M0 => (HIGHEST, LOWEST),
        };
        let (mut all_simple, mut clamps) = (1, 0);
        for i in 0..LANES {
            let range = ranges[i];
            let (scale, zero) = chosen(range);
            let empty = (range.lo == 0.0) & (range.hi == 0.0);
            let inverse = 1.0 / scale;
            // What becomes numbers below zero, and above.
            let is_turned = SIGNED & (scale < 0.0);
            let (low, high) = if is_turned { (range.hi, range.lo) } else { (range.lo, range.hi) };
            let below = round(-low * inverse);
            let above = high * inverse;
            let reach = if SYMMETRIC { half - 1.0 } else { top - zero };
            let beyond = round(above) > reach;
            // A clamped value must be within twice of what it decodes to, or decode to zero: then
            // their difference is exact in float32 (Sterbenz), as it is for all unclamped values.
            let near = !beyond | (above <= 1.9 * reach) | (reach == 0.0);
            let size = if SIGNED { scale.abs() } else { scale };
            let usual = (size >= lowest) & (size <= highest);
            let clamped = above - reach;
            let farthest = if clamped > 0.5 { clamped + 1.0 / 1024.0 } else { FARTHEST };
            self.scale[i] = scale;
            self.inverse[i] = inverse;
            self.zero[i] = zero;
            self.shifted_zero[i] = zero + MAGIC;
            self.reach[i] = reach;
            self.bound[i] = if empty { 0.0 } else { farthest * size };
            let simple = u32::from((empty | usual) & near & (below <= zero));
            self.simple[i] = simple;
            // While both are at hand: to read them back would wait for them to be written.
            all_simple &= simple;
            clamps |= u32::from(beyond);
        }
        (self.all_simple, self.clamps) = (all_simple, clamps);
    }

    /// Whether any group has values to clamp.
    #[inline(always)]
    pub(super) fn clamps(&self) -> bool {
        self.clamps > 0
    }

    /// Whether an error larger than `largest` is possible in any simple group.
    #[inline(always)]
    pub(super) fn may_exceed(&self, largest: f32) -> bool {
        self.bound.iter().fold(false, |any, bound| any | (*bound > largest))
    }

    #[inline(always)]
    pub(super) fn is_simple(&self, group: usize) -> bool {
        self.simple[group] > 0
    }

    /// How many groups are simple before one is not, of those at `places`.
    #[inline(always)]
    pub(super) fn simple_first(&self, places: Span<usize>) -> usize {
        self.simple[places].iter().take_while(|simple| **simple > 0).count()
    }

    /// Whether every group is; those that fill up a short run always are.
    #[inline(always)]
    pub(super) fn is_all_simple(&self) -> bool {
        self.all_simple > 0
    }

    /// Take the long way for a group that is not simple.
    pub(super) fn general(&mut self, kind: Kind, group: usize, range: Bounds) -> Parameters {
        let general = parameters(kind.bits, range, kind.form, kind.scale_dtype);
        (self.scale[group], self.zero[group]) = (general.scale, general.zero);
        self.shifted_zero[group] = general.zero + MAGIC;
        general
    }
}

/// The scale and the code of zero of a group of that range, as rounding chooses them.
#[inline(always)]
fn fit<const BITS: u32, const SYMMETRIC: bool, const SIGNED: bool>(
    range: Bounds,
    shift: u32,
) -> (f32, f32) {
    let exact = exact_scale(BITS, range, Form::of(SYMMETRIC, SIGNED));
    let scale = if exact == 0.0 { 1.0 } else { round_bits(exact, shift) as f32 };
    if SYMMETRIC {
        return (scale, (1u32 << (BITS - 1)) as f32);
    }
    let (below, top) = (round(-range.lo * (1.0 / scale)), ((1u32 << BITS) - 1) as f32);
    (scale, if below < top { below } else { top })
}

/// Round a float64 to `52 − shift` stored significand bits, ties to even, on its bits; a carry
/// moves into the exponent as it should.
#[inline(always)]
fn round_bits(value: f64, shift: u32) -> f64 {
    let bits = value.to_bits();
    let odd = (bits >> shift) & 1;
    f64::from_bits(((bits + (1 << (shift - 1)) - 1 + odd) >> shift) << shift)
}

#[cfg(test)]
mod tests {
    use super::super::parameters::forms;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn simple_groups_have_the_parameters_of_the_long_way(
            bounds in prop::collection::vec((0u32..0x7f80_0000, 0u32..0x7f80_0000), 1..=16),
            exponents in 0u32..24,
            form in forms(),
            bits in prop::sample::select(vec![2u32, 4, 8]),
            scale_dtype in prop::sample::select(ScaleDtype::CHOICES.to_vec()),
        ) {
            // Half of the cases have exponents near those of weights.
            let bound = |bits: u32| if exponents < 12 {
                f32::from_bits(bits)
            } else {
                f32::from_bits(bits % (exponents << 23) + (115 << 23))
            };
            let ranges: Vec<_> =
                bounds.iter().map(|&(a, b)| Bounds { lo: -bound(a), hi: bound(b) }).collect();
            let kind = Kind { bits, form, scale_dtype };
            let mut run = Run::new();
            run.set(kind, &ranges);
            for (group, range) in ranges.iter().enumerate().filter(|(at, _)| run.is_simple(*at)) {
                let long = parameters(bits, *range, form, scale_dtype);
                prop_assert_eq!(long.prescale, 1.0);
                prop_assert_eq!(
                    (run.scale[group], run.zero[group], run.inverse[group]),
                    (long.scale, long.zero, long.inverse)
                );
            }
        }
    }

    /// The one place where Sterbenz' lemma could fail for an unclamped value: a code of one whose
    /// value lies just below half of the scale. Every significand of a scale is tried.
    #[test]
    fn errors_next_to_half_a_scale_are_exact() {
        for significand in 0..1u32 << 23 {
            let scale = f32::from_bits((127 << 23) | significand);
            let inverse = 1.0 / scale;
            let mut value = scale / 2.0;
            while round(value * inverse) < 1.0 {
                value = value.next_up();
            }
            for _ in 0..3 {
                if round(value * inverse) == 1.0 {
                    let exact = f64::from(value) - f64::from(scale);
                    assert_eq!(f64::from(value - scale), exact, "{value} {scale}");
                }
                value = value.next_down();
            }
        }
    }
}
