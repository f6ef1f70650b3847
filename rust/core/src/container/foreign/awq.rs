//! AWQ's GEMM layout: `qweight` of four-bit codes packed along the rows, in an order of their own, `qzeros` in the
//! same order and `scales`.
//!
//! Source: `utils/packing_utils.py` in <https://github.com/casper-hansen/AutoAWQ>.

use std::io;

use super::side::Side;
use super::{Cut, Data, Foreign, Outline, Parameters, Place, Tensors, expect, with_scale_dtype};
use crate::settings::{GROUP_SIZE, SYMMETRIC, Settings, Value};

/// Where in its word each of eight codes is.
const ORDER: [usize; PER_WORD] = [0, 4, 1, 5, 2, 6, 3, 7];
const PER_WORD: usize = 8;
const BITS: usize = 4;

#[derive(Debug)]
pub(super) struct Awq {
    outline: Outline,
    codes: Side,
    points: Side,
    scales: Side,
    rows: usize,
    columns: usize,
    groups: usize,
}

impl Awq {
    pub(super) fn open(tensors: &Tensors<'_>) -> Result<Self, String> {
        let (codes, scales) = (tensors.main.clone(), tensors.required("scales")?);
        let points = tensors.required("zeros")?;
        codes.of_words()?;
        points.of_words()?;
        scales.of_floats()?;
        let ([columns, words], [groups, rows]) = (codes.matrix()?, scales.matrix()?);
        expect("rows of codes", words.checked_mul(PER_WORD), Some(rows))?;
        expect("zero points", points.elements(), groups.checked_mul(words))?;
        let said = tensors.number("group_size").filter(|&size| size > 0);
        let size = if groups == 1 { -1 } else { said.ok_or("there is no group size")? };
        let settings = Settings::default()
            .with(GROUP_SIZE, Value::Integer(size))
            .with(SYMMETRIC, Value::Flag(false));
        let settings = with_scale_dtype(settings, &scales);
        let cut = Cut::Rows(PER_WORD as u64);
        let outline = tensors.outline([rows, columns], "int4", settings, cut)?;
        let expected = outline.codes.as_ref().map(|(bound, _)| bound.layout.grouping.groups());
        expect("groups", Some(groups), expected)?;
        Ok(Self { outline, codes, points, scales, rows, columns, groups })
    }

    /// Where a row's code is in its word.
    fn shift(row: usize) -> usize {
        ORDER[row % PER_WORD] * BITS
    }

    fn row_bytes(&self) -> usize {
        self.columns.div_ceil(PER_WORD) * 4
    }
}

impl Foreign for Awq {
    fn outline(&self) -> &Outline {
        &self.outline
    }

    fn data(&self, Place { rows, .. }: Place) -> Data {
        Data::Made((rows * self.row_bytes()) as u64)
    }

    fn make(&self, Place { row, rows, .. }: Place, out: &mut Vec<u8>) -> io::Result<()> {
        let (start, row_bytes) = (out.len(), self.row_bytes());
        out.resize(start + rows * row_bytes, 0);
        let (line, first) = (self.rows / PER_WORD, row / PER_WORD);
        let end = (row + rows).div_ceil(PER_WORD);
        for column in 0..self.columns {
            let words = self.codes.words(column * line + first..column * line + end)?;
            for at in 0..rows {
                let word = words[(row + at) / PER_WORD - first];
                let code = ((word >> Self::shift(row + at)) & 15) as u8;
                out[start + at * row_bytes + column / 2] |= code << (column % 2 * BITS);
            }
        }
        Ok(())
    }

    fn parameters(&self, Place { row, rows, .. }: Place) -> io::Result<Parameters> {
        let (line, first) = (self.rows / PER_WORD, row / PER_WORD);
        let end = (row + rows).div_ceil(PER_WORD);
        let (mut scales, mut points) = (vec![0.0; rows * self.groups], vec![0; rows * self.groups]);
        for group in 0..self.groups {
            let own = group * self.rows + row;
            let words = self.points.words(group * line + first..group * line + end)?;
            for (at, scale) in self.scales.floats(own..own + rows)?.into_iter().enumerate() {
                let word = words[(row + at) / PER_WORD - first];
                scales[at * self.groups + group] = scale;
                points[at * self.groups + group] = ((word >> Self::shift(row + at)) & 15) as u8;
            }
        }
        Ok(Parameters { scales: Some(scales), zero_points: Some(points), ..Parameters::default() })
    }
}
