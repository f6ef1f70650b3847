//! Sums of columns and rows, in float64.

use crate::lanes::{LANES, Lanes};

/// Rows that are added together: what their columns have so far is read and written once.
pub(crate) const ROWS: usize = 4;

/// Add rows of values, at most [`ROWS`] and of one length, one after the other to the sums of their columns, and
/// their squares to those of squares; return the sum of each row's squares.
#[inline(always)]
pub(crate) fn add<L: Lanes>(
    lanes: L,
    rows: &[&[f32]],
    sums: &mut [f64],
    squares: &mut [f64],
) -> [f64; ROWS] {
    match rows {
        [a, b, c, d] => add_rows(lanes, [a, b, c, d], sums, squares),
        _ => {
            let mut totals = [0.0; ROWS];
            for (row, total) in rows.iter().zip(&mut totals) {
                [*total] = add_rows(lanes, [row], sums, squares);
            }
            totals
        }
    }
}

#[inline(always)]
fn add_rows<L: Lanes, const N: usize>(
    lanes: L,
    rows: [&[f32]; N],
    sums: &mut [f64],
    squares: &mut [f64],
) -> [f64; N] {
    let length = rows[0].len();
    let mut totals = [lanes.zero_f64(); N];
    let (own_sums, rest_sums) = sums[..length].as_chunks_mut::<LANES>();
    let (own_squares, rest_squares) = squares[..length].as_chunks_mut::<LANES>();
    let mut whole: [&[[f32; LANES]]; N] = [&[]; N];
    for (whole, row) in whole.iter_mut().zip(rows) {
        *whole = &row.as_chunks().0[..own_sums.len()];
    }
    for (at, (sums, squares)) in own_sums.iter_mut().zip(own_squares).enumerate() {
        let (mut all, mut all_squares) = (lanes.load_wide(sums), lanes.load_wide(squares));
        for (row, totals) in whole.iter().zip(&mut totals) {
            let values = lanes.load(&row[at]);
            all = lanes.add_wide(all, values);
            all_squares = lanes.add_squares_wide(all_squares, values);
            *totals = lanes.add_squares_wide(*totals, values);
        }
        lanes.store_wide(all, sums);
        lanes.store_wide(all_squares, squares);
    }
    let mut found = [0.0; N];
    for ((found, totals), row) in found.iter_mut().zip(totals).zip(rows) {
        [*found, _] = lanes.totals(totals, totals);
        let rest = &row[length - rest_sums.len()..length];
        for ((value, sum), squares) in rest.iter().zip(&mut *rest_sums).zip(&mut *rest_squares) {
            let value = f64::from(*value);
            *sum += value;
            *squares += value * value;
            *found += value * value;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lanes::Portable;

    #[test]
    fn sums_are_those_of_their_columns() {
        let values: Vec<f32> = (0..35 * ROWS as u16).map(f32::from).collect();
        let rows: Vec<&[f32]> = values.chunks(35).collect();
        for count in 1..=ROWS {
            let (mut sums, mut squares) = ([1.0; 40], [2.0; 40]);
            let totals = add(Portable, &rows[..count], &mut sums, &mut squares);
            let square = |value: &f32| f64::from(value * value);
            for (row, total) in rows[..count].iter().zip(totals) {
                assert_eq!(total, row.iter().map(square).sum::<f64>());
            }
            for (at, (sum, squares)) in sums.into_iter().zip(squares).enumerate() {
                let column: Vec<f32> =
                    rows[..count].iter().filter_map(|row| row.get(at)).copied().collect();
                assert_eq!(sum, 1.0 + column.iter().map(|x| f64::from(*x)).sum::<f64>());
                assert_eq!(squares, 2.0 + column.iter().map(square).sum::<f64>());
            }
        }
    }
}
