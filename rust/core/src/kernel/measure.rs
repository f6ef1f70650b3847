//! What a tile's codes decode to beside its values, in few instructions: for schemes that do not sum
//! up errors as they encode.

use super::metrics::{self, Sums};
use super::squares::{SETTLE, is_faint};
use crate::lanes::{LANES, Lanes};

/// Squares of larger magnitudes leave float32.
const LARGEST: f32 = (1u64 << 60) as f32;

/// Sums over stretches of values, in lanes. An error is a float32: rounded once where it is none.
pub(crate) struct Measure<L: Lanes> {
    lanes: L,
    errors: L::F64,
    weights: L::F64,
    largest: L::U32,
}

impl<L: Lanes> Measure<L> {
    #[inline(always)]
    pub(crate) fn new(lanes: L) -> Self {
        let (zero, largest) = (lanes.zero_f64(), lanes.zero_u32());
        Self { lanes, errors: zero, weights: zero, largest }
    }

    /// Add values and what was decoded of them.
    #[inline(always)]
    pub(crate) fn add(&mut self, values: &[f32], decoded: &[f32]) {
        let (values, last_values) = values.as_chunks::<LANES>();
        let (decoded, last_decoded) = decoded.as_chunks::<LANES>();
        for (values, decoded) in values.chunks(SETTLE).zip(decoded.chunks(SETTLE)) {
            self.vectors(values, decoded);
        }
        if !last_values.is_empty() {
            // Zeros have no error.
            let (mut value, mut other) = ([[0.0; LANES]], [[0.0; LANES]]);
            value[0][..last_values.len()].copy_from_slice(last_values);
            other[0][..last_decoded.len()].copy_from_slice(last_decoded);
            self.vectors(&value, &other);
        }
    }

    /// At most [`SETTLE`] vectors.
    #[inline(always)]
    fn vectors(&mut self, values: &[[f32; LANES]], decoded: &[[f32; LANES]]) {
        let lanes = self.lanes;
        // Copies, which stay in registers.
        let (mut errors, mut weights, mut largest) =
            (lanes.splat(0.0), lanes.splat(0.0), self.largest);
        for (values, decoded) in values.iter().zip(decoded) {
            let values = lanes.load(values);
            let error = lanes.sub(values, lanes.load(decoded));
            largest = lanes.max_magnitude(largest, error);
            errors = lanes.add_square(error, errors);
            weights = lanes.add_square(values, weights);
        }
        self.errors = lanes.add_wide(self.errors, errors);
        self.weights = lanes.add_wide(self.weights, weights);
        self.largest = largest;
    }

    /// The sums; nothing where squares may be too small for float32.
    #[inline(always)]
    pub(crate) fn sums(self) -> Option<Sums> {
        let max_abs_error = f64::from(f32::from_bits(self.lanes.largest(self.largest)));
        let [squared_error, squared] = self.lanes.totals(self.errors, self.weights);
        let sums = Sums { squared_error, squared, max_abs_error };
        let faint = is_faint(squared) || (max_abs_error > 0.0 && is_faint(squared_error));
        (!faint).then_some(sums)
    }
}

/// Whether magnitudes can be squared in float32.
#[inline(always)]
pub(crate) fn is_usual(absmax: f32) -> bool {
    absmax < LARGEST
}

/// The sums of values that [`Measure`] has none for.
#[inline(never)]
pub(crate) fn in_full(values: &[f32], decoded: &[f32]) -> Sums {
    metrics::sums(values, decoded, |decoded| decoded)
}
