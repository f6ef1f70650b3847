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
                    for ((weight, own), x) in some.iter_mut().zip(columns).zip(values) {
                        *weight = own * (spread + x * x).sqrt();
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
        let importance = Importance { rows: &[9.0, 0.0, 9.0, 0.0], ..importance };
        // Rows 1 and 2: the magnitude alone, and with 9 beside its square.
        let wanted = [4.0, 13f32.sqrt(), 2.0 * 18f32.sqrt(), 4.0 * 5.0];
        assert_eq!(importance.weights(&values, 2, &mut room), wanted);
        assert!(Importance::default().weights(&values, 0, &mut room).is_empty());
    }
}
