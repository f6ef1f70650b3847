//! What quantizing cost: sums over a tile, in float64 and in one fixed order.

use std::ops::AddAssign;

const LANES: usize = 16;

/// Sums from which a layer's metrics come.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sums {
    /// Σ(w − ŵ)²
    pub squared_error: f64,
    /// Σw²
    pub squared: f64,
    /// max|w − ŵ|
    pub max_abs_error: f64,
}

impl AddAssign for Sums {
    fn add_assign(&mut self, other: Self) {
        self.squared_error += other.squared_error;
        self.squared += other.squared;
        self.max_abs_error = self.max_abs_error.max(other.max_abs_error);
    }
}

impl Sums {
    /// Mean squared error over `count` elements.
    pub(crate) fn mse(&self, count: usize) -> f64 {
        self.squared_error / count as f64
    }

    /// `10·log10(Σw²/Σe²)`; `None` where exact. From the libm crate, since the platform's own
    /// logarithm may differ in its last bit from CPU to CPU.
    pub(crate) fn snr_db(&self) -> Option<f64> {
        let (signal, noise) = (self.squared, self.squared_error);
        let ratio = signal / noise;
        let bels = if ratio.is_normal() {
            libm::log10(ratio)
        } else {
            libm::log10(signal) - libm::log10(noise)
        };
        (noise > 0.0 && bels.is_finite()).then_some(10.0 * bels)
    }
}

/// The sums of float32 values and of what their codes decode to.
#[inline(always)]
pub(crate) fn sums<T: Copy>(values: &[f32], codes: &[T], decode: impl Fn(T) -> f32) -> Sums {
    let mut totals = Totals::default();
    let ((values, last_values), (codes, last_codes)) =
        (values.as_chunks::<LANES>(), codes.as_chunks::<LANES>());
    for (values, codes) in values.iter().zip(codes) {
        for lane in 0..LANES {
            totals.add(lane, f64::from(values[lane]), f64::from(decode(codes[lane])));
        }
    }
    for (lane, (value, code)) in last_values.iter().zip(last_codes).enumerate() {
        totals.add(lane, f64::from(*value), f64::from(decode(*code)));
    }
    totals.sums()
}

/// The sums of float32 values and of what was decoded of them.
#[inline(always)]
pub(crate) fn sums_f32<L: crate::lanes::Lanes>(_: L, values: &[f32], decoded: &[f32]) -> Sums {
    sums(values, decoded, |decoded| decoded)
}

/// The largest size of these numbers that is not 1; 0 where there is none.
#[inline(always)]
pub(crate) fn largest_scale<L: crate::lanes::Lanes>(_: L, scales: &[f32]) -> f32 {
    const ONE: u32 = 1f32.to_bits();
    const SIGN: u32 = 1 << 31;
    // Bits of positive numbers rise as the numbers do, and vectors of integers have a maximum.
    let bits = scales
        .iter()
        .map(|scale| scale.to_bits() & !SIGN)
        .map(|bits| if bits == ONE { 0 } else { bits });
    f32::from_bits(bits.fold(0, u32::max))
}

/// The sums of a float64 source, given as little-endian bytes, at its own precision.
#[inline(always)]
pub(crate) fn sums_f64<L: crate::lanes::Lanes>(_: L, source: &[u8], decoded: &[f32]) -> Sums {
    let mut totals = Totals::default();
    let (source, _) = source.as_chunks::<8>();
    for (at, (value, decoded)) in source.iter().zip(decoded).enumerate() {
        totals.add(at % LANES, f64::from_le_bytes(*value), f64::from(*decoded));
    }
    totals.sums()
}

/// Sums in lanes.
#[derive(Default)]
struct Totals {
    squared_error: [f64; LANES],
    squared: [f64; LANES],
    max_abs_error: [f64; LANES],
}

impl Totals {
    #[inline(always)]
    fn add(&mut self, lane: usize, value: f64, decoded: f64) {
        let error = value - decoded;
        let magnitude = error.abs();
        self.squared_error[lane] += error * error;
        self.squared[lane] += value * value;
        let largest = self.max_abs_error[lane];
        self.max_abs_error[lane] = if magnitude > largest { magnitude } else { largest };
    }

    #[inline(always)]
    fn sums(&self) -> Sums {
        let mut sums = Sums::default();
        for lane in 0..LANES {
            sums += Sums {
                squared_error: self.squared_error[lane],
                squared: self.squared[lane],
                max_abs_error: self.max_abs_error[lane],
            };
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn sums_are_those_of_a_plain_loop(
            pairs in prop::collection::vec((-1e3f32..1e3, any::<u8>()), 1..100),
            scale in 1e-3f32..10.0,
            zero in 0u8..=255,
        ) {
            let (values, codes): (Vec<f32>, Vec<u8>) = pairs.into_iter().unzip();
            let zero = f32::from(zero);
            let ours = sums(&values, &codes, |code| (f32::from(code) - zero) * scale);
            let decoded: Vec<f32> = codes.iter().map(|&c| (f32::from(c) - zero) * scale).collect();
            let errors =
                values.iter().zip(&decoded).map(|(v, d)| f64::from(*v) - f64::from(*d));
            let squared_error: f64 = errors.clone().map(|e| e * e).sum();
            prop_assert!((ours.squared_error - squared_error).abs() <= 1e-12 * squared_error);
            prop_assert_eq!(ours.max_abs_error, errors.map(f64::abs).fold(0.0, f64::max));
            let wide: Vec<u8> =
                values.iter().flat_map(|v| f64::from(*v).to_le_bytes()).collect();
            let wide = sums_f64(crate::lanes::Portable, &wide, &decoded);
            prop_assert_eq!(wide, ours);
        }
    }

    #[test]
    fn exact_has_no_snr() {
        let same = sums(&[1.0, -2.0], &[1.0, -2.0], |same| same);
        assert_eq!((same.mse(2), same.snr_db()), (0.0, None));
        let off = sums(&[10.0], &[9.0], |decoded| decoded);
        assert_eq!((off.mse(1), off.snr_db()), (1.0, Some(20.0)));
    }
}
