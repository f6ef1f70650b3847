//! The numbers that codes stand for.

use crate::lanes::{Lanes, MAGIC};

/// The numbers that codes stand for at a scale of 1.
///
/// Traits and plain functions, not closures: these would be compiled without the instructions that
/// [`Lanes`] stand for.
pub(crate) trait Numbers {
    /// The nearest ones.
    fn nearest<L: Lanes>(&self, lanes: L, x: L::F32) -> L::F32;
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
        Self { numbers, middles }
    }

    /// The places of the nearest numbers: how many middles are below `x`.
    #[inline(always)]
    pub(crate) fn places<L: Lanes>(&self, lanes: L, x: L::F32) -> L::U32 {
        let [first, others @ ..] = &self.middles;
        let mut places = lanes.count_above(lanes.zero_u32(), x, lanes.splat(first[0]));
        for middles in others {
            let middle = lanes.look_up_eight(places, middles);
            let twice = lanes.add_shifted::<1>(lanes.zero_u32(), places);
            places = lanes.count_above(twice, x, middle);
        }
        places
    }
}

impl Numbers for Rising {
    #[inline(always)]
    fn nearest<L: Lanes>(&self, lanes: L, x: L::F32) -> L::F32 {
        lanes.look_up_at(self.places(lanes, x), &self.numbers)
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
