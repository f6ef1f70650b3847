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

/// The largest magnitude of numbers that are searched as int16.
const MOST: f32 = 127.0;

/// Integers that are found in int16, two in each lane.
pub(crate) trait NarrowNumbers {
    /// What 1 is, where the nearest of some numbers are asked for: they may have fractions.
    const UNIT: f32;
    /// What is added to them beforehand.
    const ADDEND: i16;

    /// Those nearest to numbers in units to which the addend was added, for a candidate.
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

/// Sixteen rising numbers.
pub(crate) struct Rising {
    pub(crate) numbers: [f32; 16],
    /// Those between two numbers, in the order in which they are asked for: the eighth of them; the fourth
    /// and the twelfth; the second, the sixth and so on; the first, the third and so on.
    middles: [[f32; 8]; 4],
    bins: Bins,
    narrow: Option<NarrowRising>,
}

/// Stretches of equal length, of which each has one middle at most.
struct Bins {
    /// The bin of `x` is the integer nearest to `x·factor + shift`, of those that there are.
    factor: f32,
    shift: f32,
    /// The middle of each; infinity where there is none.
    middles: [f32; 32],
    /// The bits of the places, and the numbers, nearest to what is in a bin up to its middle; then above it.
    places: [f32; 32],
    lower: [f32; 32],
    upper: [f32; 32],
}

impl Bins {
    const fn new(numbers: &[f32; 16]) -> Self {
        // Middles keep so far from the ends of bins that rounding can't move anything across.
        const FAR: f32 = 1.0 / 64.0;
        let mut middles = [0.0; 15];
        let mut at = 0;
        while at < 15 {
            middles[at] = f32::midpoint(numbers[at], numbers[at + 1]);
            at += 1;
        }
        let mut attempt = 0;
        loop {
            let bins = 31.0 - (attempt / 16) as f32 / 8.0;
            let factor = bins / (middles[14] - middles[0]);
            let shift = -middles[0] * factor + (attempt % 16) as f32 / 16.0 - 0.5;
            let mut found = Self {
                factor,
                shift,
                middles: [f32::INFINITY; 32],
                places: [0.0; 32],
                lower: [numbers[0]; 32],
                upper: [numbers[15]; 32],
            };
            let (mut at, mut last, mut fits) = (0, -1, true);
            while at < 15 {
                let exact = middles[at] * factor + shift + 0.5;
                let bin = exact as i32;
                let within = exact - bin as f32;
                fits = fits && bin > last && bin < 32 && within > FAR && within < 1.0 - FAR;
                if fits {
                    found.middles[bin as usize] = middles[at];
                }
                (at, last) = (at + 1, bin);
            }
            if fits {
                let (mut bin, mut place) = (0, 0);
                while bin < 32 {
                    found.places[bin] = f32::from_bits(place as u32);
                    found.lower[bin] = numbers[place];
                    if found.middles[bin] < f32::INFINITY {
                        place += 1;
                    }
                    found.upper[bin] = numbers[place];
                    bin += 1;
                }
                return found;
            }
            assert!(attempt < 512, "no bins have one middle each");
            attempt += 1;
        }
    }

    #[inline(always)]
    fn of<L: Lanes>(&self, lanes: L, x: L::F32) -> L::U32 {
        let exact = lanes.mul_add(x, lanes.splat(self.factor), lanes.splat(self.shift));
        let least = lanes.larger(exact, lanes.splat(0.0));
        lanes.round(lanes.min(least, lanes.splat(31.0))).0
    }
}

/// Sixteen rising integers as int16.
#[derive(Clone, Copy)]
pub(crate) struct NarrowRising {
    numbers: [i8; 16],
    /// As those of [`Rising`], in half units.
    middles: [[i16; 8]; 4],
    /// Of each bin, from the one of zero on, those below zero at last: its middle, the largest int16 where it
    /// has none, and the numbers nearest to what is in it, up to its middle and above it.
    bins: [[i16; 32]; 3],
}

/// As many half units are a bin: the 32 are all that there are.
const BIN_BITS: u32 = 16 - 5;
/// The largest magnitude that is told apart from others.
const OUTSIDE: f32 = 160.0;
/// What 1 is in half units.
const IN_HALVES: f32 = 32767.0 / OUTSIDE;

impl NarrowRising {
    /// Of integers of magnitudes up to [`MOST`] no two middles of which are in a bin; else none.
    const fn new(numbers: &[f32; 16]) -> Option<Self> {
        let mut found = Self {
            numbers: [0; 16],
            middles: [[0; 8]; 4],
            bins: [[i16::MAX; 32], [0; 32], [0; 32]],
        };
        let (mut at, mut all) = (0, [0; 15]);
        while at < 16 {
            let number = numbers[at];
            if number.abs() > MOST || number != (number as i8) as f32 {
                return None;
            }
            found.numbers[at] = number as i8;
            if at > 0 {
                all[at - 1] = (f32::midpoint(numbers[at - 1], number) * IN_HALVES) as i16;
            }
            at += 1;
        }
        let mut step = 0;
        while step < 4 {
            at = 0;
            while at < 1 << step {
                found.middles[step][at] = all[((2 * at + 1) << (3 - step)) - 1];
                at += 1;
            }
            step += 1;
        }
        let (mut bin, mut place) = (-16, 0);
        while bin < 16 {
            let index = (bin & 31) as usize;
            found.bins[1][index] = found.numbers[place] as i16;
            if place < 15 && all[place] >> BIN_BITS == bin {
                found.bins[0][index] = all[place];
                place += 1;
            }
            if place < 15 && all[place] >> BIN_BITS == bin {
                return None;
            }
            found.bins[2][index] = found.numbers[place] as i16;
            bin += 1;
        }
        Some(found)
    }

    /// Of numbers in half units.
    #[inline(always)]
    fn nearest_by_bins<L: Lanes>(&self, lanes: L, x: L::U32) -> L::U32 {
        let [middles, lower, upper] = &self.bins;
        let bins = lanes.shift_pairs::<BIN_BITS>(x);
        let middle = lanes.look_up_pairs(bins, middles);
        let (lower, upper) = (lanes.look_up_pairs(bins, lower), lanes.look_up_pairs(bins, upper));
        lanes.if_pairs_above(x, middle, upper, lower)
    }

    #[inline(always)]
    fn nearest_by_steps<L: Lanes>(&self, lanes: L, x: L::U32) -> L::U32 {
        let [first, others @ ..] = &self.middles;
        let mut places = lanes.count_pairs_above(lanes.zero_u32(), x, lanes.splat_pairs(first[0]));
        for middles in others {
            let middle = lanes.look_up_eight_pairs(places, middles);
            places = lanes.count_pairs_above(lanes.add_pairs(places, places), x, middle);
        }
        lanes.look_up_small_pairs(places, &self.numbers)
    }
}

impl NarrowNumbers for NarrowRising {
    const UNIT: f32 = IN_HALVES / 2.0;
    const ADDEND: i16 = 0;

    #[inline(always)]
    fn nearest<L: Lanes>(&self, lanes: L, _: usize, x: L::U32) -> L::U32 {
        // What lies outside stays there.
        let x = lanes.add_pairs(x, x);
        match L::LOOKS_UP_MANY {
            true => self.nearest_by_bins(lanes, x),
            false => self.nearest_by_steps(lanes, x),
        }
    }
}

impl Rising {
    pub(crate) const fn new(numbers: [f32; 16]) -> Self {
        let (mut middles, mut step) = ([[0.0; 8]; 4], 0);
        while step < 4 {
            let mut at = 0;
            while at < 1 << step {
                let below = ((2 * at + 1) << (3 - step)) - 1;
                middles[step][at] = f32::midpoint(numbers[below], numbers[below + 1]);
                at += 1;
            }
            step += 1;
        }
        Self { numbers, middles, bins: Bins::new(&numbers), narrow: NarrowRising::new(&numbers) }
    }

    /// The places of the nearest numbers: how many middles are below `x`.
    #[inline(always)]
    pub(crate) fn places<L: Lanes>(&self, lanes: L, x: L::F32) -> L::U32 {
        if L::LOOKS_UP_MANY {
            self.places_by_bins(lanes, x)
        } else {
            self.places_by_steps(lanes, x)
        }
    }

    #[inline(always)]
    fn places_by_bins<L: Lanes>(&self, lanes: L, x: L::F32) -> L::U32 {
        let bins = self.bins.of(lanes, x);
        let places = lanes.bits(lanes.look_up_many(bins, &self.bins.places));
        lanes.count_above(places, x, lanes.look_up_many(bins, &self.bins.middles))
    }

    #[inline(always)]
    fn places_by_steps<L: Lanes>(&self, lanes: L, x: L::F32) -> L::U32 {
        let [first, others @ ..] = &self.middles;
        let mut places = lanes.count_above(lanes.zero_u32(), x, lanes.splat(first[0]));
        for middles in others {
            let middle = lanes.look_up_eight(places, middles);
            let twice = lanes.add_shifted::<1>(lanes.zero_u32(), places);
            places = lanes.count_above(twice, x, middle);
        }
        places
    }

    #[inline(always)]
    fn nearest_by_bins<L: Lanes>(&self, lanes: L, x: L::F32) -> L::F32 {
        let Bins { middles, lower, upper, .. } = &self.bins;
        let bins = self.bins.of(lanes, x);
        let middle = lanes.look_up_many(bins, middles);
        let (lower, upper) = (lanes.look_up_many(bins, lower), lanes.look_up_many(bins, upper));
        lanes.if_above(x, middle, upper, lower)
    }
}

impl Numbers for Rising {
    type Narrow = NarrowRising;

    #[inline(always)]
    fn narrow<L: Lanes>(&self, _: L) -> Option<NarrowRising> {
        self.narrow
    }

    #[inline(always)]
    fn nearest<L: Lanes>(&self, lanes: L, x: L::F32) -> L::F32 {
        match L::LOOKS_UP_MANY {
            true => self.nearest_by_bins(lanes, x),
            false => lanes.look_up_at(self.places_by_steps(lanes, x), &self.numbers),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lanes::Portable;
    use proptest::prelude::*;

    const TABLE: Rising = Rising::new([
        -9.0, -7.0, -5.5, -4.0, -3.0, -2.0, -1.0, 0.0, 0.5, 1.5, 2.5, 4.0, 5.0, 6.0, 8.0, 11.0,
    ]);

    const WHOLE: Rising = Rising::new([
        -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0,
        69.0, 89.0, 113.0,
    ]);

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
        fn no_number_of_a_table_is_nearer(x in -20f32..20.0) {
            let found = (first(&TABLE, x) - x).abs();
            prop_assert!(TABLE.numbers.iter().all(|number| (number - x).abs() >= found));
        }

        #[test]
        fn bins_have_the_places_of_steps(x in -20f32..20.0, beside in 0usize..15, up: bool) {
            let middle = f32::midpoint(TABLE.numbers[beside], TABLE.numbers[beside + 1]);
            let next = if up { middle.next_up() } else { middle };
            for x in [x, next] {
                let x = [x; LANES];
                let places = TABLE.places_by_steps(Portable, x);
                prop_assert_eq!(TABLE.places_by_bins(Portable, x), places);
                let number = TABLE.numbers[places[0] as usize];
                prop_assert_eq!(TABLE.nearest_by_bins(Portable, x), [number; LANES]);
            }
        }

        #[test]
        fn whole_numbers_are_found_in_int16(x: i16, at in 0usize..15) {
            let table = WHOLE.narrow(Portable).unwrap();
            let middle = f32::midpoint(WHOLE.numbers[at], WHOLE.numbers[at + 1]) * IN_HALVES / 2.0;
            for x in [x, middle as i16, middle as i16 + 1] {
                let both = Portable.splat_pairs(x.saturating_add(x));
                let (bins, steps) =
                    (table.nearest_by_bins(Portable, both), table.nearest_by_steps(Portable, both));
                prop_assert_eq!(bins, steps);
                let (exact, found) = (f32::from(x) * 2.0 / IN_HALVES, f32::from(narrow(&table, x)));
                // A unit is what x is known to.
                let unit = 2.0 / IN_HALVES;
                let nearest = (first(&WHOLE, exact) - exact).abs();
                prop_assert!((found - exact).abs() <= nearest + 2.0 * unit);
            }
        }

        #[test]
        fn integers_are_found_in_int16(x: i16, low in -128i16..=0, high in 1i16..=127) {
            let numbers = Integers { low: f32::from(low), high: f32::from(high) };
            let exact = f32::from(x) / f32::from(UNIT);
            let found = f32::from(narrow(&numbers.narrow(Portable).unwrap(), x));
            let inside = exact.clamp(numbers.low, numbers.high);
            prop_assert!((found - inside).abs() <= 0.5);
            let lanes = [0.0; LANES];
            let less = LessZeros::new(Portable, [lanes.map(|_| 3.0)], 15.0);
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
        assert!(TABLE.narrow(Portable).is_none());
        assert!(Integers { low: 0.0, high: 255.0 }.narrow(Portable).is_none());
        let zeros = [[8.0; LANES]];
        assert!(LessZeros::new(Portable, zeros, 255.0).narrow(Portable).is_none());
    }

    #[test]
    fn what_is_no_number_has_a_place() {
        assert_eq!(first(&TABLE, f32::NAN), -9.0);
        assert_eq!(first(&TABLE, f32::INFINITY), 11.0);
    }
}
