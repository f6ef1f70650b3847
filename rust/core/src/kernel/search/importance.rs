//! How much the squared error of each value matters.

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
    /// of all, or of that size. Nothing where they matter alike.
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
        room.clear();
        let (mut row, mut column) = ((self.first + start) / count, (self.first + start) % count);
        let mut rest = values;
        while !rest.is_empty() {
            let (values, others) = rest.split_at(rest.len().min(count - column));
            let columns = &self.columns[column..column + values.len()];
            match self.rows.get(row) {
                // As llama.cpp weighs: a large value matters more.
                Some(spread) => room.extend(
                    columns.iter().zip(values).map(|(own, x)| own * (spread + x * x).sqrt()),
                ),
                None => room.extend_from_slice(columns),
            }
            (rest, row, column) = (others, row + 1, 0);
        }
        let most = room.iter().fold(0.0f32, |most, one| if *one > most { *one } else { most });
        if !most.is_normal() {
            return &[];
        }
        // A power of two, so that no digit is lost.
        let inverse = f32::from_bits((254 << 23) - (most.to_bits() & 0x7f80_0000));
        if inverse.is_normal() {
            room.iter_mut().for_each(|weight| *weight *= inverse);
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
        assert_eq!(importance.weights(&values, 2, &mut room), [1.0, 0.25, 0.5, 1.0]);
        let importance = Importance { rows: &[9.0, 0.0, 9.0, 0.0], ..importance };
        // Rows 1 and 2: the magnitude alone, and with 9 beside its square.
        let found: Vec<f32> = importance.weights(&values, 2, &mut room).to_vec();
        let wanted = [4.0, 13f32.sqrt(), 2.0 * 18f32.sqrt(), 4.0 * 5.0];
        assert_eq!(found, wanted.map(|weight| weight / 16.0));
    }

    #[test]
    fn what_says_nothing_is_no_importance() {
        let mut room = Vec::new();
        for columns in [[0.0; 2], [f32::NAN; 2], [1e-45; 2], [f32::INFINITY; 2]] {
            let importance = Importance { columns: &columns, ..Importance::default() };
            assert!(importance.weights(&[1.0; 4], 0, &mut room).is_empty());
        }
        assert!(Importance::default().weights(&[1.0; 4], 0, &mut room).is_empty());
        let importance = Importance { columns: &[f32::MAX, 1.0], ..Importance::default() };
        assert!(importance.weights(&[1.0; 2], 0, &mut room)[0] >= 1.0);
    }
}
