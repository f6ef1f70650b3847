//! AWQ's GEMM layout: `qweight`, int32 `[columns, rows/8]`, packed along the rows in an order of its own;
//! `qzeros`, int32 `[groups, rows/8]`, in the same order; `scales` `[groups, rows]`.
//!
//! Source: `awq/utils/packing_utils.py` in <https://github.com/casper-hansen/AutoAWQ>.

use super::format::Format;
use super::integers::{
    check_half, check_positive, check_words, half_scales, push_lines, scale_bytes, turned,
};
use super::matrix::Matrix;
use super::rows::Tensors;
use super::stretch::Stretch;
use crate::sink::TensorSpec;

const PER_WORD: usize = 8;
const BITS: usize = 4;
const MIDDLE: u8 = 8;
/// Which of eight rows each place of a word is of.
const ORDER: [usize; PER_WORD] = [0, 2, 4, 6, 1, 3, 5, 7];
const NAMES: [&str; 3] = ["qweight", "qzeros", "scales"];

#[derive(Debug)]
pub(super) struct Awq;

impl Format for Awq {
    fn name(&self) -> &'static str {
        "awq"
    }

    fn tensors(&self, matrix: &Matrix) -> Result<Vec<TensorSpec>, String> {
        let module = matrix.module()?;
        if matrix.scheme() != "int4" {
            return Err(matrix.refuse("AWQ", "int4"));
        }
        check_positive(matrix)?;
        let (rows, columns, groups) = (matrix.rows, matrix.columns, matrix.groups()?);
        if !rows.is_multiple_of(PER_WORD) {
            return Err(format!(
                "its {rows} rows are no multiple of 8, of which the format has words. Keep the \
                 layer, or write compressed-tensors"
            ));
        }
        let shapes: [(&str, &[usize]); 3] = [
            ("I32", &[columns, rows / PER_WORD]),
            ("I32", &[groups, rows / PER_WORD]),
            (half_scales(matrix).name(), &[groups, rows]),
        ];
        let specs = NAMES.iter().zip(shapes);
        Ok(specs
            .map(|(name, (dtype, shape))| matrix.spec(format!("{module}.{name}"), dtype, shape))
            .collect())
    }

    fn check(&self, stretch: &Stretch<'_, '_>) -> Result<(), String> {
        check_half(stretch)?;
        check_words(stretch, PER_WORD)
    }

    fn write(&self, stretch: &Stretch<'_, '_>, out: &mut Tensors<'_>) -> Result<(), String> {
        let matrix = stretch.matrix();
        let module = matrix.module()?;
        check_words(stretch, PER_WORD)?;
        if stretch.width != matrix.columns {
            return Err("a part is less than a row. Quantize again with larger parts (--part-mib)"
                .to_owned());
        }
        let [codes, points, scales] = NAMES.map(|name| format!("{module}.{name}"));
        let (columns, groups, dtype) = (matrix.columns, stretch.groups(), half_scales(matrix));
        let row_bytes = stretch.layout.row_bytes;
        let code = |row: usize, column: usize| {
            (stretch.data[row * row_bytes + column / 2] >> (column % 2 * BITS)) & 15
        };
        let place = (0, matrix.rows / PER_WORD, stretch.row / PER_WORD, stretch.rows / PER_WORD);
        push_lines(out, &codes, &packed(stretch.rows, columns, code), place, 4)?;
        let point = |row: usize, group: usize| {
            stretch.zero_points.get(row * groups + group).copied().unwrap_or(MIDDLE)
        };
        push_lines(out, &points, &packed(stretch.rows, groups, point), place, 4)?;
        let found = turned(&scale_bytes(&stretch.scales, dtype), groups, 2);
        push_lines(out, &scales, &found, (0, matrix.rows, stretch.row, stretch.rows), 2)
    }
}

/// Words `[columns, rows/8]` of the codes of a matrix.
fn packed(rows: usize, columns: usize, code: impl Fn(usize, usize) -> u8) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(columns * rows / 2);
    for column in 0..columns {
        for first in (0..rows).step_by(PER_WORD) {
            let place =
                |(at, row): (usize, &usize)| u32::from(code(first + row, column)) << (at * BITS);
            let word = ORDER.iter().enumerate().map(place).fold(0, |word, code| word | code);
            bytes.extend(word.to_le_bytes());
        }
    }
    bytes
}
