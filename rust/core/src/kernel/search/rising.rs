//! Tables of rising numbers that codes stand for.

use super::numbers::{MOST, NarrowNumbers, Numbers};
use crate::lanes::Lanes;

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
    /// For each bin: the middle in it (the largest int16 where it has none), the nearest number to what is below
    /// the middle, and that to what is above. Bins of negative numbers come last.
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
    use crate::lanes::{LANES, Portable};
    use proptest::prelude::*;

    const TABLE: Rising = Rising::new([
        -9.0, -7.0, -5.5, -4.0, -3.0, -2.0, -1.0, 0.0, 0.5, 1.5, 2.5, 4.0, 5.0, 6.0, 8.0, 11.0,
    ]);

    const WHOLE: Rising = Rising::new([
        -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0,
        69.0, 89.0, 113.0,
    ]);

    fn first(table: &Rising, x: f32) -> f32 {
        table.nearest(Portable, [x; LANES])[0]
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
                let exact = f32::from(x) * 2.0 / IN_HALVES;
                let found = table.nearest(Portable, 0, Portable.splat_pairs(x))[0] as i16;
                let found = f32::from(found);
                // A unit is what x is known to.
                let unit = 2.0 / IN_HALVES;
                let nearest = (first(&WHOLE, exact) - exact).abs();
                prop_assert!((found - exact).abs() <= nearest + 2.0 * unit);
            }
        }
    }

    #[test]
    fn only_small_integers_are_int16() {
        assert!(TABLE.narrow(Portable).is_none());
    }

    #[test]
    fn what_is_no_number_has_a_place() {
        assert_eq!(first(&TABLE, f32::NAN), -9.0);
        assert_eq!(first(&TABLE, f32::INFINITY), 11.0);
    }
}
