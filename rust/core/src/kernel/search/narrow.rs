//! Values as int16, in which candidates are summed up where all values matter alike: two of a group in each
//! lane, and sums of products that are exact, in whatever order.

use std::cell::Cell;

use super::numbers::NarrowNumbers;
use super::units::{Pairs, Units};
use crate::lanes::{LANES, Lanes};

/// Values are within ±32767. The sum of two squares of -32768 would not fit in int32.
const LARGEST: f32 = 32767.0;

/// Values of a partial sum: 256 products of a number up to 128 and a value up to 2^15 fit in int32, and 128
/// numbers up to 127, which is a lane's half of them, fit in int16.
const SETTLE: usize = 256;

/// Groups that reach no farther become zeros: parts of blocks that are beside much larger ones.
const FAINT: f32 = 1e-30;

/// Values over the units' powers as int16: `(v − origin)·factor`.
#[derive(Clone, Copy)]
pub(super) struct Narrow<'a, L: Lanes> {
    pairs: &'a [Cell<Pairs>],
    pub(super) origin: L::F32,
    /// One over the factor.
    pub(super) step: L::F32,
}

/// Codes are those of the numbers nearest to `v·factor + shift`, of values as int16.
pub(super) struct Factors<L: Lanes, const COUNT: usize> {
    factors: [L::U32; COUNT],
    shifts: [L::U32; COUNT],
}

/// Sums of codes as numbers `c` and of values `v`, as int32: `Σc`, unless of scales alone, `Σc²` and `Σcv`.
type Found<L, const COUNT: usize> = [[<L as Lanes>::F32; COUNT]; 3];

impl<'a, L: Lanes> Narrow<'a, L> {
    /// Values of either sign.
    #[inline(always)]
    pub(super) fn of_scales(lanes: L, units: &Units<'a, L>) -> Self {
        Self::new::<false>(lanes, units, lanes.splat(0.0), units.absmax)
    }

    /// Values that all lie between two.
    #[inline(always)]
    pub(super) fn between(lanes: L, units: &Units<'a, L>, [lo, hi]: [L::F32; 2]) -> Self {
        let half = lanes.splat(0.5);
        let origin = lanes.mul(lanes.add(lo, hi), half);
        let reach = lanes.mul(lanes.sub(hi, lo), half);
        Self::new::<true>(lanes, units, origin, reach)
    }

    /// No value is farther from its origin than `reach`.
    #[inline(always)]
    fn new<const SHIFTED: bool>(
        lanes: L,
        units: &Units<'a, L>,
        origin: L::F32,
        reach: L::F32,
    ) -> Self {
        let (zero, factor) = (lanes.splat(0.0), lanes.div(lanes.splat(LARGEST), reach));
        let factor = lanes.if_above(reach, lanes.splat(FAINT), factor, zero);
        let step = lanes.mul(lanes.splat(1.0 / LARGEST), reach);
        for (pair, values) in units.pairs.iter().zip(units.values.as_chunks().0) {
            let [first, second] = values;
            let mut both = [lanes.load(first), lanes.load(second)];
            for values in &mut both {
                let above = if SHIFTED { lanes.sub(*values, origin) } else { *values };
                *values = lanes.mul(above, factor);
            }
            let mut numbers = [0; LANES];
            lanes.store_u32(lanes.pairs(both[0], both[1]), &mut numbers);
            pair.set(numbers);
        }
        Self { pairs: units.pairs, origin, step }
    }

    /// Codes of the numbers nearest to `(v − origin)·inverse + shift`.
    #[inline(always)]
    pub(super) fn factors<N: NarrowNumbers, const COUNT: usize>(
        &self,
        lanes: L,
        (inverses, shifts): ([L::F32; COUNT], [L::F32; COUNT]),
    ) -> Factors<L, COUNT> {
        let none = lanes.splat_pairs(0);
        let mut found = Factors { factors: [none; COUNT], shifts: [none; COUNT] };
        // What is multiplied becomes 2^15 times as small.
        let unit = lanes.mul(self.step, lanes.splat(N::UNIT * 32768.0));
        let (one, addend) = (lanes.splat(N::UNIT), lanes.splat(f32::from(N::ADDEND)));
        for at in 0..COUNT {
            let factor = within(lanes, lanes.mul(inverses[at], unit));
            found.factors[at] = lanes.pairs(factor, factor);
            let shift = within(lanes, lanes.mul_add(shifts[at], one, addend));
            found.shifts[at] = lanes.pairs(shift, shift);
        }
        found
    }

    /// The sums of some candidates, of which the first has that number.
    #[inline(always)]
    pub(super) fn sums<N: NarrowNumbers, const SHIFTED: bool, const COUNT: usize>(
        &self,
        lanes: L,
        Factors { factors, shifts }: Factors<L, COUNT>,
        first: usize,
        numbers: &N,
    ) -> Found<L, COUNT> {
        let one = lanes.splat_pairs(1);
        let mut found = [[lanes.splat(0.0); COUNT]; 3];
        for pairs in self.pairs.chunks(SETTLE / 2) {
            let none = [lanes.zero_u32(); COUNT];
            let (mut c, mut cc, mut cv) = (none, none, none);
            for pair in pairs {
                let values = lanes.load_u32(&pair.get());
                for at in 0..COUNT {
                    let scaled = lanes.scale_pairs(values, factors[at]);
                    let scaled = match SHIFTED || N::ADDEND != 0 {
                        true => lanes.add_pairs(scaled, shifts[at]),
                        false => scaled,
                    };
                    let number = numbers.nearest(lanes, first + at, scaled);
                    if SHIFTED {
                        c[at] = lanes.add_pairs(c[at], number);
                    }
                    cc[at] = lanes.add_products(cc[at], number, number);
                    cv[at] = lanes.add_products(cv[at], number, values);
                }
            }
            for at in 0..COUNT {
                let c = lanes.add_products(lanes.zero_u32(), c[at], one);
                for (found, sums) in found.iter_mut().zip([c, cc[at], cv[at]]) {
                    found[at] = lanes.add(found[at], lanes.integers(sums));
                }
            }
        }
        found
    }

    /// The sum of the values.
    #[inline(always)]
    pub(super) fn total(&self, lanes: L) -> L::F32 {
        let one = lanes.splat_pairs(1);
        let mut total = lanes.splat(0.0);
        for pairs in self.pairs.chunks(SETTLE / 2) {
            let mut sums = lanes.zero_u32();
            for pair in pairs {
                sums = lanes.add_products(sums, lanes.load_u32(&pair.get()), one);
            }
            total = lanes.add(total, lanes.integers(sums));
        }
        total
    }
}

/// Numbers that fit in int16.
#[inline(always)]
fn within<L: Lanes>(lanes: L, numbers: L::F32) -> L::F32 {
    let least = lanes.larger(numbers, lanes.splat(-LARGEST));
    lanes.min(least, lanes.splat(LARGEST))
}
