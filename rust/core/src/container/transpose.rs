//! Matrices turned around, for stacks whose contracted axis is not the last.

use std::io;

use crate::source::Stretches;

/// Source rows that are read side by side: a cache line of two-byte elements.
const SIDE_BY_SIDE: usize = 32;

/// A stretch of a matrix that is turned around: source rows `k` become columns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turned {
    /// Where the matrix begins in the source.
    pub(super) start: u64,
    /// Elements of a source row.
    pub(super) source_row: u64,
    /// The first source row and how many, the first element of each and how many.
    pub(super) rows: (u64, u64),
    pub(super) columns: (u64, u64),
    /// Bytes of an element.
    pub(super) width: usize,
}

impl Turned {
    /// Bytes of the stretch.
    pub(super) fn bytes(&self) -> usize {
        (self.rows.1 * self.columns.1) as usize * self.width
    }

    /// Write its columns into `out`, one after the other.
    pub(super) fn read(&self, from: &Stretches<'_>, out: &mut [u8]) -> io::Result<()> {
        let run = self.columns.1 as usize * self.width;
        if run == 0 {
            return Ok(());
        }
        let mut room = vec![0; run * SIDE_BY_SIDE.min(self.rows.1 as usize)];
        for first in (0..self.rows.1).step_by(SIDE_BY_SIDE) {
            let count = (self.rows.1 - first).min(SIDE_BY_SIDE as u64) as usize;
            let mut runs = Vec::with_capacity(count);
            for (row, room) in (self.rows.0 + first..).zip(room.chunks_mut(run).take(count)) {
                let at = row * self.source_row + self.columns.0;
                runs.push(from.get(self.start + at * self.width as u64, room)?);
            }
            scatter(&runs, self.width, first as usize, self.rows.1 as usize, out);
        }
        Ok(())
    }
}

/// `rows` by `columns` elements of `width` bytes, turned around; zeros where they are not so many.
pub(crate) fn transpose(bytes: &[u8], rows: usize, columns: usize, width: usize) -> Vec<u8> {
    let mut out = vec![0; bytes.len()];
    if bytes.is_empty() || bytes.len() != rows * columns * width {
        return out;
    }
    let all: Vec<&[u8]> = bytes.chunks(columns * width).collect();
    for (at, runs) in all.chunks(SIDE_BY_SIDE).enumerate() {
        scatter(runs, width, at * SIDE_BY_SIDE, rows, &mut out);
    }
    out
}

/// Write source rows as columns of `out`, from column `first` of `columns` on.
fn scatter(runs: &[&[u8]], width: usize, first: usize, columns: usize, out: &mut [u8]) {
    match width {
        1 => scatter_elements::<1>(runs, first, columns, out),
        2 => scatter_elements::<2>(runs, first, columns, out),
        4 => scatter_elements::<4>(runs, first, columns, out),
        _ => scatter_elements::<8>(runs, first, columns, out),
    }
}

fn scatter_elements<const N: usize>(runs: &[&[u8]], first: usize, columns: usize, out: &mut [u8]) {
    let runs: Vec<&[[u8; N]]> = runs.iter().map(|run| run.as_chunks::<N>().0).collect();
    let (out, _) = out.as_chunks_mut::<N>();
    for (row, line) in out.chunks_mut(columns).enumerate() {
        for (to, run) in line[first..].iter_mut().zip(&runs) {
            *to = run[row];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn columns_become_rows(
            rows in 1usize..70,
            columns in 1usize..70,
            width in prop::sample::select(vec![1usize, 2, 4, 8]),
            cut in (0.0..1.0f64, 0.0..1.0f64),
        ) {
            let count = rows * columns * width;
            let bytes: Vec<u8> = (0..count).map(|at| (at * 31 % 251) as u8).collect();
            let turned = transpose(&bytes, rows, columns, width);
            for row in 0..rows {
                for column in 0..columns {
                    let (from, to) = ((row * columns + column) * width, (column * rows + row) * width);
                    prop_assert_eq!(&bytes[from..from + width], &turned[to..to + width]);
                }
            }
            prop_assert_eq!(&transpose(&turned, columns, rows, width), &bytes);
            let (first, k) = ((cut.0 * columns as f64) as u64, (cut.1 * rows as f64) as u64);
            let stretch = Turned {
                start: 0,
                source_row: columns as u64,
                rows: (k, rows as u64 - k),
                columns: (first, columns as u64 - first),
                width,
            };
            let mut out = vec![0; stretch.bytes()];
            stretch.read(&Stretches::Mapped(&bytes), &mut out).unwrap();
            let mut expected: Vec<u8> = Vec::new();
            for column in first as usize..columns {
                let from = (column * rows + k as usize) * width;
                expected.extend(&turned[from..(column + 1) * rows * width]);
            }
            prop_assert_eq!(out, expected);
        }
    }
}
