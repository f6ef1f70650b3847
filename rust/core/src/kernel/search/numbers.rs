//! The numbers that codes stand for.

use super::units::Each;
use crate::lanes::{LANES, Lanes, MAGIC};

/// The numbers that codes stand for at a scale of 1.
///
/// Traits and plain functions, not closures: these would be compiled without the instructions that
/// [`Lanes`] stand for.
pub(crate) trait Numbers {
    /// The nearest ones.
    fn nearest<L: Lanes>(&self, lanes: L, x: L::F32) -> L::F32;

    /// The nearest ones of a candidate that has others than the rest.
    #[inline(always)]
    fn nearest_of<L: Lanes>(&self, lanes: L, candidate: usize, x: L::F32) -> L::F32 {
        let _ = candidate;
        self.nearest(lanes, x)
    }
}

/// Integers between two of them.
#[derive(Clone, Copy)]
pub(crate) struct Integers {
    pub(crate) low: f32,
    pub(crate) high: f32,
}

impl Numbers for Integers {
    #[inline(always)]
    fn nearest<L: Lanes>(&self, lanes: L, x: L::F32) -> L::F32 {
        let least = lanes.larger(x, lanes.splat(self.low));
        lanes.nearest_integer(lanes.min(least, lanes.splat(self.high)))
    }
}

/// Codes from 0 to a largest one, less the zero points of each lane: of as many candidates.
pub(crate) struct LessZeros<const N: usize> {
    low: [Each; N],
    high: [Each; N],
}

impl<const N: usize> LessZeros<N> {
    #[inline(always)]
    pub(crate) fn new<L: Lanes>(lanes: L, zeros: [L::F32; N], top: f32) -> Self {
        let mut ends = Self { low: [[0.0; LANES]; N], high: [[0.0; LANES]; N] };
        for (zeros, (low, high)) in zeros.iter().zip(ends.low.iter_mut().zip(&mut ends.high)) {
            lanes.store(lanes.sub(lanes.splat(0.0), *zeros), low);
            lanes.store(lanes.sub(lanes.splat(top), *zeros), high);
        }
        ends
    }
}

impl<const N: usize> Numbers for LessZeros<N> {
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
}

/// Stretches of equal length, of which each has one middle at most.
struct Bins {
    /// The bin of `x` is the integer nearest to `x·factor + shift`, of those that there are.
    factor: f32,
    shift: f32,
    /// The middle of each; infinity where there is none.
    middles: [f32; 32],
    /// The places and the numbers nearest to what is in a bin, up to its middle and above it.
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
                    found.places[bin] = place as f32;
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
        Self { numbers, middles, bins: Bins::new(&numbers) }
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
        let places = lanes.truncate(lanes.look_up_many(bins, &self.bins.places));
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
    fn what_is_no_number_has_a_place() {
        assert_eq!(first(&TABLE, f32::NAN), -9.0);
        assert_eq!(first(&TABLE, f32::INFINITY), 11.0);
    }
}
