//! How much the squared error of each value matters.

/// How far the values of a row spread, in units in which squares are float32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// `2σ²` times the square of the factor: σ² is the mean square of the row.
    square: f32,
    /// A power of two; 1 where squares of values are float32 anyway.
    factor: f32,
}

impl Spread {
    /// Of the mean square of a row.
    #[must_use]
    pub fn of(mean_square: f64) -> Self {
        let half =
            if mean_square > 0.0 { (exponent(mean_square) / 2).max(f32::MIN_EXP) } else { 0 };
        let factor = if half.abs() < USUAL { 1.0 } else { 2f64.powi(-half) };
        Self { square: (2.0 * mean_square * factor * factor) as f32, factor: factor as f32 }
    }
}

/// That of the largest power of two that is not above a normal number, which is above zero.
pub(crate) fn exponent(number: f64) -> i32 {
    (number.to_bits() >> (f64::MANTISSA_DIGITS - 1)) as i32 + 1 - f64::MAX_EXP
}

/// Rows whose σ is within two to the power of so much, and of its negative, need no other unit.
const USUAL: i32 = 30;

/// What is known of a tile's values. Without anything, all matter alike.
#[derive(Clone, Copy, Debug, Default)]
pub struct Importance<'a> {
    /// How much each column of the layer matters; none is below zero.
    pub columns: &'a [f32],
    /// What is known of each of the layer's rows, where a value's own magnitude matters, too.
    pub rows: &'a [Spread],
    /// Flat index of the tile's first value, counted from the first row's beginning.
    pub first: usize,
}

impl Importance<'_> {
    /// How much each of `values` matters, which begin at element `start` of the tile. Nothing where they
    /// matter alike.
    #[inline(always)]
    pub(crate) fn weights<'r>(
        &self,
        values: &[f32],
        start: usize,
        room: &'r mut Vec<f32>,
    ) -> &'r [f32] {
        let count = self.columns.len();
        if count == 0 {
            return &[];
        }
        if room.len() < values.len() {
            room.resize(values.len(), 0.0);
        }
        let room = &mut room[..values.len()];
        let (mut row, mut column) = ((self.first + start) / count, (self.first + start) % count);
        let (mut rest, mut out) = (values, &mut *room);
        while !rest.is_empty() {
            let (values, others) = rest.split_at(rest.len().min(count - column));
            let (some, further) = out.split_at_mut(values.len());
            let columns = &self.columns[column..column + values.len()];
            match self.rows.get(row) {
                // As llama.cpp weighs: a large value matters more.
                Some(spread) => {
                    let Spread { square, factor } = *spread;
                    for ((weight, own), x) in some.iter_mut().zip(columns).zip(values) {
                        let x = x * factor;
                        *weight = own * (square + x * x).sqrt();
                    }
                }
                None => some.copy_from_slice(columns),
            }
            (rest, out, row, column) = (others, further, row + 1, 0);
        }
        room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_those_of_their_columns_and_rows() {
        let mut room = Vec::new();
        let values = [1.0, -2.0, 3.0, 4.0];
        let importance = Importance { columns: &[1.0, 2.0, 4.0], rows: &[], first: 3 };
        assert_eq!(importance.weights(&values, 2, &mut room), [4.0, 1.0, 2.0, 4.0]);
        let rows = [9.0, 0.0, 9.0, 0.0].map(|twice: f64| Spread::of(twice / 2.0));
        let importance = Importance { rows: &rows, ..importance };
        // Rows 1 and 2: the magnitude alone, and with 9 beside its square.
        let wanted = [4.0, 13f32.sqrt(), 2.0 * 18f32.sqrt(), 4.0 * 5.0];
        assert_eq!(importance.weights(&values, 2, &mut room), wanted);
        assert!(Importance::default().weights(&values, 0, &mut room).is_empty());
    }

    #[test]
    fn rows_of_any_magnitude_have_the_weights_of_those_of_usual_ones() {
        let values = [1.0f32, -2.0, 3.0, 0.25];
        let weights = |power: i32| {
            let scaled = values.map(|x| x * 2f32.powi(power));
            let rows = [Spread::of(3.0 * 4f64.powi(power))];
            let importance = Importance { columns: &[1.0; 4], rows: &rows, first: 0 };
            importance.weights(&scaled, 0, &mut Vec::new()).to_vec()
        };
        for power in [-120, -76, -40, 40, 76, 120] {
            let ratio = weights(power)[0] / weights(0)[0];
            assert!(ratio.is_normal() && ratio.to_bits().trailing_zeros() >= 23);
            assert_eq!(weights(power), weights(0).iter().map(|w| w * ratio).collect::<Vec<_>>());
        }
    }
}
