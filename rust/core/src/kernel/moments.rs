//! Sums of columns and rows, in float64.

use crate::lanes::{LANES, Lanes};

/// Add values to the sums of their columns, and their squares to those of squares; return the sum of the
/// squares.
#[inline(always)]
pub(crate) fn add<L: Lanes>(_: L, values: &[f32], sums: &mut [f64], squares: &mut [f64]) -> f64 {
    let mut totals = [0.0; LANES];
    let (whole, rest) = values.as_chunks::<LANES>();
    let (own_sums, rest_sums) = sums[..values.len()].as_chunks_mut::<LANES>();
    let (own_squares, rest_squares) = squares[..values.len()].as_chunks_mut::<LANES>();
    for ((values, sums), squares) in whole.iter().zip(own_sums).zip(own_squares) {
        for lane in 0..LANES {
            let value = f64::from(values[lane]);
            sums[lane] += value;
            squares[lane] += value * value;
            totals[lane] += value * value;
        }
    }
    let mut total = totals.iter().sum();
    for ((value, sum), squares) in rest.iter().zip(rest_sums).zip(rest_squares) {
        let value = f64::from(*value);
        *sum += value;
        *squares += value * value;
        total += value * value;
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lanes::Portable;

    #[test]
    fn sums_are_those_of_their_columns() {
        let (mut sums, mut squares) = ([1.0; 40], [2.0; 40]);
        let values: Vec<f32> = (0..35u8).map(f32::from).collect();
        let total = add(Portable, &values, &mut sums, &mut squares);
        assert_eq!(total, (0..35).map(|x| f64::from(x * x)).sum::<f64>());
        for (at, (sum, squares)) in sums.into_iter().zip(squares).enumerate() {
            let value = values.get(at).copied().map_or(0.0, f64::from);
            assert_eq!((sum, squares), (1.0 + value, 2.0 + value * value));
        }
    }
}
