//! The numbers that codes stand for.

use std::convert::Infallible;

use super::units::Each;
use crate::lanes::{LANES, Lanes, MAGIC};

/// The numbers that codes stand for at a scale of 1.
///
/// Traits and plain functions, not closures: these would be compiled without the instructions that
/// [`Lanes`] stand for.
pub(crate) trait Numbers {
    /// The same numbers as int16.
    type Narrow: NarrowNumbers;

    /// The nearest ones.
    fn nearest<L: Lanes>(&self, lanes: L, x: L::F32) -> L::F32;

    /// As int16, where all of them are integers of magnitudes up to [`MOST`].
    fn narrow<L: Lanes>(&self, lanes: L) -> Option<Self::Narrow>;

    /// The nearest ones of a candidate that has others than the rest.
    #[inline(always)]
    fn nearest_of<L: Lanes>(&self, lanes: L, candidate: usize, x: L::F32) -> L::F32 {
        let _ = candidate;
        self.nearest(lanes, x)
    }
}

impl<T: Numbers> Numbers for &T {
    type Narrow = T::Narrow;

    #[inline(always)]
    fn nearest<L: Lanes>(&self, lanes: L, x: L::F32) -> L::F32 {
        (**self).nearest(lanes, x)
    }

    #[inline(always)]
    fn narrow<L: Lanes>(&self, lanes: L) -> Option<T::Narrow> {
        (**self).narrow(lanes)
    }

    #[inline(always)]
    fn nearest_of<L: Lanes>(&self, lanes: L, candidate: usize, x: L::F32) -> L::F32 {
        (**self).nearest_of(lanes, candidate, x)
    }
}

/// The largest magnitude of numbers that are searched as int16.
pub(super) const MOST: f32 = 127.0;

/// Integers that are found in int16, two in each lane.
pub(crate) trait NarrowNumbers {
    /// What 1 is in the fixed-point numbers that `nearest` takes.
    const UNIT: f32;
    /// What is added to them beforehand: half a unit, where `nearest` cuts off fractions.
    const ADDEND: i16;

    /// The integers nearest to fixed-point numbers, to which the addend was already added.
    fn nearest<L: Lanes>(&self, lanes: L, candidate: usize, x: L::U32) -> L::U32;
}

/// Of numbers that are no integers, or too large ones.
impl NarrowNumbers for Infallible {
    const UNIT: f32 = 0.0;
    const ADDEND: i16 = 0;

    fn nearest<L: Lanes>(&self, _: L, _: usize, _: L::U32) -> L::U32 {
        match *self {}
    }
}

/// Bits below the point of numbers of which the nearest integers are asked for.
const FRACTION: u32 = 6;
const UNIT: i16 = 1 << FRACTION;

/// The integers nearest to numbers to which a half was added.
#[inline(always)]
fn nearest_between<L: Lanes>(lanes: L, x: L::U32, low: L::U32, high: L::U32) -> L::U32 {
    let least = lanes.max_of_pairs::<true>(lanes.shift_pairs::<FRACTION>(x), low);
    lanes.min_of_pairs(least, high)
}

/// Integers between two of them.
#[derive(Clone, Copy)]
pub(crate) struct Integers {
    pub(crate) low: f32,
    pub(crate) high: f32,
}

/// The same as int16.
pub(crate) struct NarrowIntegers {
    low: i16,
    high: i16,
}

impl NarrowNumbers for NarrowIntegers {
    const UNIT: f32 = UNIT as f32;
    const ADDEND: i16 = UNIT / 2;

    #[inline(always)]
    fn nearest<L: Lanes>(&self, lanes: L, _: usize, x: L::U32) -> L::U32 {
        let (low, high) = (lanes.splat_pairs(self.low), lanes.splat_pairs(self.high));
        nearest_between(lanes, x, low, high)
    }
}

impl Numbers for Integers {
    type Narrow = NarrowIntegers;

    #[inline(always)]
    fn narrow<L: Lanes>(&self, _: L) -> Option<NarrowIntegers> {
        let Self { low, high } = *self;
        // -128, whose magnitude is one more, is as good.
        let fits = high <= MOST && -low <= MOST + 1.0;
        fits.then_some(NarrowIntegers { low: low as i16, high: high as i16 })
    }

    #[inline(always)]
    fn nearest<L: Lanes>(&self, lanes: L, x: L::F32) -> L::F32 {
        let least = lanes.larger(x, lanes.splat(self.low));
        lanes.nearest_integer(lanes.min(least, lanes.splat(self.high)))
    }
}

/// Codes from 0 to a largest one, of two the higher one: as encoders find those of lines. Where a step is as
/// small as a float32's last digit, the other one may leave more.
pub(super) struct Codes {
    pub(super) top: f32,
}

impl Numbers for Codes {
    type Narrow = Infallible;

    #[inline(always)]
    fn narrow<L: Lanes>(&self, _: L) -> Option<Infallible> {
        None
    }

    #[inline(always)]
    fn nearest<L: Lanes>(&self, lanes: L, x: L::F32) -> L::F32 {
        let above = lanes.min(lanes.add(x, lanes.splat(0.5)), lanes.splat(self.top));
        lanes.integers(lanes.max::<true>(lanes.truncate(above), lanes.zero_u32()))
    }
}

/// Codes from 0 to a largest one, less the zero points of each lane: of as many candidates.
pub(crate) struct LessZeros<const N: usize> {
    low: [Each; N],
    high: [Each; N],
    top: f32,
}

impl<const N: usize> LessZeros<N> {
    #[inline(always)]
    pub(crate) fn new<L: Lanes>(lanes: L, zeros: [L::F32; N], top: f32) -> Self {
        let mut ends = Self { low: [[0.0; LANES]; N], high: [[0.0; LANES]; N], top };
        for (zeros, (low, high)) in zeros.iter().zip(ends.low.iter_mut().zip(&mut ends.high)) {
            lanes.store(lanes.sub(lanes.splat(0.0), *zeros), low);
            lanes.store(lanes.sub(lanes.splat(top), *zeros), high);
        }
        ends
    }
}

/// The same as int16.
pub(crate) struct NarrowLessZeros<const N: usize> {
    low: [[u32; LANES]; N],
    high: [[u32; LANES]; N],
}

impl<const N: usize> NarrowNumbers for NarrowLessZeros<N> {
    const UNIT: f32 = UNIT as f32;
    const ADDEND: i16 = UNIT / 2;

    #[inline(always)]
    fn nearest<L: Lanes>(&self, lanes: L, candidate: usize, x: L::U32) -> L::U32 {
        let (low, high) = (&self.low[candidate], &self.high[candidate]);
        nearest_between(lanes, x, lanes.load_u32(low), lanes.load_u32(high))
    }
}

impl<const N: usize> Numbers for LessZeros<N> {
    type Narrow = NarrowLessZeros<N>;

    #[inline(always)]
    fn narrow<L: Lanes>(&self, lanes: L) -> Option<NarrowLessZeros<N>> {
        if self.top > MOST {
            return None;
        }
        let mut found = NarrowLessZeros { low: [[0; LANES]; N], high: [[0; LANES]; N] };
        for (own, narrow) in [(&self.low, &mut found.low), (&self.high, &mut found.high)] {
            for (numbers, narrow) in own.iter().zip(narrow) {
                let numbers = lanes.load(numbers);
                lanes.store_u32(lanes.pairs(numbers, numbers), narrow);
            }
        }
        Some(found)
    }

    #[inline(always)]
    fn nearest<L: Lanes>(&self, lanes: L, x: L::F32) -> L::F32 {
        self.nearest_of(lanes, 0, x)
    }

    #[inline(always)]
    fn nearest_of<L: Lanes>(&self, lanes: L, candidate: usize, x: L::F32) -> L::F32 {
        let least = lanes.larger(x, lanes.load(&self.low[candidate]));
        lanes.nearest_integer(lanes.min(least, lanes.load(&self.high[candidate])))
    }
}

/// Floats of few bits, without infinities.
#[derive(Clone, Copy)]
pub(crate) struct Floats {
    /// The largest number.
    pub(crate) largest: f32,
    /// The smallest normal number: below, numbers are as far apart as from there on.
    pub(crate) smallest: f32,
    /// Adding and subtracting so many powers of two rounds numbers that have that exponent: a float32
    /// there has as many bits of fraction as is left.
    magic: f32,
}

impl Floats {
    pub(crate) const fn new(largest: f32, smallest: f32, fraction_bits: u32) -> Self {
        Self { largest, smallest, magic: MAGIC / (1u32 << fraction_bits) as f32 }
    }
}

impl Numbers for Floats {
    type Narrow = Infallible;

    #[inline(always)]
    fn narrow<L: Lanes>(&self, _: L) -> Option<Infallible> {
        None
    }

    #[inline(always)]
    fn nearest<L: Lanes>(&self, lanes: L, x: L::F32) -> L::F32 {
        let least = lanes.larger(x, lanes.splat(-self.largest));
        let inside = lanes.min(least, lanes.splat(self.largest));
        let power = lanes.larger(lanes.power_of_two(inside), lanes.splat(self.smallest));
        let magic = lanes.mul(power, lanes.splat(self.magic));
        lanes.sub(lanes.add(inside, magic), magic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lanes::Portable;
    use proptest::prelude::*;

    /// The number that is found for a pair of `x` in units.
    fn narrow<N: NarrowNumbers>(numbers: &N, x: i16) -> i16 {
        let pairs = Portable.splat_pairs(x.saturating_add(N::ADDEND));
        numbers.nearest(Portable, 0, pairs)[0] as i16
    }

    fn first<N: Numbers>(numbers: &N, x: f32) -> f32 {
        numbers.nearest(Portable, [x; LANES])[0]
    }

    proptest! {
        #[test]
        fn integers_are_found_in_int16(x: i16, low in -128i16..=0, high in 1i16..=127) {
            let numbers = Integers { low: f32::from(low), high: f32::from(high) };
            let exact = f32::from(x) / f32::from(UNIT);
            let found = f32::from(narrow(&numbers.narrow(Portable).unwrap(), x));
            let inside = exact.clamp(numbers.low, numbers.high);
            prop_assert!((found - inside).abs() <= 0.5);
            let less = LessZeros::new(Portable, [[3.0; LANES]], 15.0);
            let found = f32::from(narrow(&less.narrow(Portable).unwrap(), x));
            prop_assert!((found - exact.clamp(-3.0, 12.0)).abs() <= 0.5);
        }

        #[test]
        fn no_float_is_nearer(x in -9f32..9.0) {
            let e2m1 = Floats::new(6.0, 1.0, 1);
            let found = first(&e2m1, x);
            let magnitudes = [0.0f32, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
            prop_assert!(magnitudes.contains(&found.abs()));
            prop_assert!(magnitudes.iter().all(|one| (one - x.abs()).abs() >= (found - x).abs()));
        }
    }

    #[test]
    fn of_two_floats_the_one_of_even_code_is_nearest() {
        let e2m1 = Floats::new(6.0, 1.0, 1);
        for (x, number) in
            [(0.25, 0.0), (0.75, 1.0), (1.25, 1.0), (1.75, 2.0), (2.5, 2.0), (5.0, 4.0)]
        {
            assert_eq!((first(&e2m1, x), first(&e2m1, -x)), (number, -number));
        }
    }

    #[test]
    fn only_small_integers_are_int16() {
        assert!(Integers { low: 0.0, high: 255.0 }.narrow(Portable).is_none());
        let zeros = [[8.0; LANES]];
        assert!(LessZeros::new(Portable, zeros, 255.0).narrow(Portable).is_none());
    }
}
