//! How much the squared error of each value matters.

use crate::lanes::{EXPONENT, LANES, Lanes};

/// What is known of a tile's values. Without anything, all matter alike.
#[derive(Clone, Copy, Debug, Default)]
pub struct Importance<'a> {
    /// How much each column of the layer matters; none is below zero.
    pub columns: &'a [f32],
    /// `2σ²` of each of the layer's rows, where a value's own magnitude matters, too: σ² is the mean
    /// square of a row.
    pub rows: &'a [f32],
    /// Flat index of the tile's first value, counted from the first row's beginning.
    pub first: usize,
}

impl Importance<'_> {
    /// How much each of `values` matters, which begin at element `start` of the tile: over the largest
    /// of all, or of that size; then zeros up to whole vectors. Nothing where they matter alike.
    #[inline(always)]
    pub(crate) fn weights<'r, L: Lanes>(
        &self,
        lanes: L,
        values: &[f32],
        start: usize,
        room: &'r mut Vec<f32>,
    ) -> &'r [f32] {
        let count = self.columns.len();
        if count == 0 {
            return &[];
        }
        let length = values.len().next_multiple_of(LANES);
        if room.len() < length {
            room.resize(length, 0.0);
        }
        let room = &mut room[..length];
        room[values.len()..].fill(0.0);
        let (mut row, mut column) = ((self.first + start) / count, (self.first + start) % count);
        let (mut rest, mut out) = (values, &mut room[..values.len()]);
        while !rest.is_empty() {
            let (values, others) = rest.split_at(rest.len().min(count - column));
            let (some, further) = out.split_at_mut(values.len());
            let columns = &self.columns[column..column + values.len()];
            match self.rows.get(row) {
                // As llama.cpp weighs: a large value matters more.
                Some(spread) => {
                    for ((weight, own), x) in some.iter_mut().zip(columns).zip(values) {
                        *weight = own * (spread + x * x).sqrt();
                    }
                }
                None => some.copy_from_slice(columns),
            }
            (rest, out, row, column) = (others, further, row + 1, 0);
        }
        let vectors = room.as_chunks_mut::<LANES>().0;
        let mut largest = lanes.splat(0.0);
        for weights in &*vectors {
            largest = lanes.larger(lanes.load(weights), largest);
        }
        let mut each = [0.0; LANES];
        lanes.store(largest, &mut each);
        let most = each.iter().fold(0.0f32, |most, one| if *one > most { *one } else { most });
        if !most.is_normal() {
            return &[];
        }
        // A power of two, so that no digit is lost.
        let inverse = f32::from_bits((254 << 23) - (most.to_bits() & EXPONENT));
        if inverse.is_normal() {
            let factor = lanes.splat(inverse);
            for weights in vectors {
                lanes.store(lanes.mul(lanes.load(weights), factor), weights);
            }
        }
        room
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lanes::Portable;

    #[test]
    fn weights_are_those_of_their_columns_and_rows() {
        let mut room = Vec::new();
        let values = [1.0, -2.0, 3.0, 4.0];
        let importance = Importance { columns: &[1.0, 2.0, 4.0], rows: &[], first: 3 };
        assert_eq!(importance.weights(Portable, &values, 2, &mut room)[..4], [1.0, 0.25, 0.5, 1.0]);
        let importance = Importance { rows: &[9.0, 0.0, 9.0, 0.0], ..importance };
        // Rows 1 and 2: the magnitude alone, and with 9 beside its square.
        let found: Vec<f32> = importance.weights(Portable, &values, 2, &mut room)[..4].to_vec();
        let wanted = [4.0, 13f32.sqrt(), 2.0 * 18f32.sqrt(), 4.0 * 5.0];
        assert_eq!(found, wanted.map(|weight| weight / 16.0));
    }

    #[test]
    fn what_says_nothing_is_no_importance() {
        let mut room = Vec::new();
        for columns in [[0.0; 2], [f32::NAN; 2], [1e-45; 2], [f32::INFINITY; 2]] {
            let importance = Importance { columns: &columns, ..Importance::default() };
            assert!(importance.weights(Portable, &[1.0; 4], 0, &mut room).is_empty());
        }
        assert!(Importance::default().weights(Portable, &[1.0; 4], 0, &mut room).is_empty());
        let importance = Importance { columns: &[f32::MAX, 1.0], ..Importance::default() };
        assert!(importance.weights(Portable, &[1.0; 2], 0, &mut room)[0] >= 1.0);
    }
}
