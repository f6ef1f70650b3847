//! GPTQ: `qweight` packed along the columns, `qzeros`, `scales` and `g_idx`. Its words are ours, turned around.
//!
//! Zero points are stored less one in its first format: on whole words, so that a borrow reaches into the
//! next one; the second has them as they are. Source: GPTQModel's `nn_modules/qlinear/torch.py` and
//! `convert_gptq_v1_to_v2_format_module`.

use std::io;

use super::side::Side;
use super::{Cut, Data, Foreign, Outline, Parameters, Place, Tensors, expect};
use crate::container::transpose::Turned;
use crate::dtype::Float;
use crate::kernel::dispatch;
use crate::lanes::Level;
use crate::settings::{GROUP_SIZE, SYMMETRIC, Settings, Value};

#[derive(Debug)]
pub(super) struct Gptq {
    outline: Outline,
    codes: Side,
    points: Side,
    scales: Side,
    /// The group of each column, where that is not by their order.
    order: Option<Vec<usize>>,
    bits: usize,
    rows: usize,
    columns: usize,
    groups: usize,
    /// Added to the words of zero points.
    more: u32,
}

impl Gptq {
    pub(super) fn open(tensors: &Tensors<'_>) -> Result<Self, String> {
        let (codes, scales) = (tensors.main.clone(), tensors.required("scales")?);
        let points = tensors.required("zeros")?;
        codes.of_words()?;
        points.of_words()?;
        scales.of_floats()?;
        let bits = tensors.number("bits").filter(|bits| [2, 4, 8].contains(bits));
        let bits = bits.ok_or("only 2, 4 and 8 bits are read")? as usize;
        let per_word = 32 / bits;
        let ([words, rows], [groups, scaled]) = (codes.matrix()?, scales.matrix()?);
        let columns = words.checked_mul(per_word).ok_or("the shape overflows")?;
        expect("rows of scales", Some(scaled), Some(rows))?;
        if !rows.is_multiple_of(per_word) {
            return Err(format!("{rows} rows are no whole words of {per_word} zero points"));
        }
        expect("zero points", points.elements(), groups.checked_mul(rows / per_word))?;
        let said = tensors.number("group_size").filter(|&size| size > 0);
        let size = if groups == 1 { -1 } else { said.ok_or("there is no group size")? };
        let order = match tensors.side("order")? {
            Some(side) => {
                let found = side.integers()?;
                order(&found, columns, size)?
            }
            None => None,
        };
        let settings = Settings::default()
            .with(GROUP_SIZE, Value::Integer(size))
            .with(SYMMETRIC, Value::Flag(false));
        let settings = super::with_scale_dtype(settings, &scales);
        let cut = Cut::Rows(per_word as u64);
        let outline = tensors.outline([rows, columns], &format!("int{bits}"), settings, cut)?;
        let expected = outline.codes.as_ref().map(|(bound, _)| bound.layout.grouping.groups());
        expect("groups", Some(groups), expected)?;
        let is_less = tensors.number("zeros_less_one") == Some(1);
        let more =
            if is_less { (0..per_word).fold(0, |all, at| all | 1 << (at * bits)) } else { 0 };
        let outline = match order {
            Some(_) => Outline { cut, ..tensors.decoded([rows, columns])? },
            None => outline,
        };
        Ok(Self { outline, codes, points, scales, order, bits, rows, columns, groups, more })
    }

    fn words(&self) -> usize {
        self.columns * self.bits / 32
    }

    /// The words of some rows' codes, which are columns of the tensor.
    fn turned(&self, row: usize, rows: usize) -> Turned {
        Turned {
            start: self.codes.start(),
            source_row: self.rows as u64,
            rows: (0, self.words() as u64),
            columns: (row as u64, rows as u64),
            width: 4,
        }
    }

    /// Scales and zero points of some rows, each row's after the other's.
    fn sides(&self, row: usize, rows: usize) -> io::Result<(Vec<f32>, Vec<u8>)> {
        let (per_word, mask) = (32 / self.bits, (1u32 << self.bits) - 1);
        let (first, end) = (row / per_word, (row + rows).div_ceil(per_word));
        let (mut scales, mut points) = (vec![0.0; rows * self.groups], vec![0; rows * self.groups]);
        for group in 0..self.groups {
            let (own, line) = (group * self.rows, group * (self.rows / per_word));
            let found = self.scales.floats(own + row..own + row + rows)?;
            let words = self.points.words(line + first..line + end)?;
            for (at, scale) in found.into_iter().enumerate() {
                let word = words[(row + at) / per_word - first].wrapping_add(self.more);
                scales[at * self.groups + group] = scale;
                points[at * self.groups + group] =
                    ((word >> ((row + at) % per_word * self.bits)) & mask) as u8;
            }
        }
        Ok((scales, points))
    }
}

impl Foreign for Gptq {
    fn outline(&self) -> &Outline {
        &self.outline
    }

    fn data(&self, Place { row, rows, .. }: Place) -> Data {
        match self.order {
            Some(_) => Data::Made((rows * self.columns * self.outline.dtype.width()) as u64),
            None => Data::Turned(self.turned(row, rows)),
        }
    }

    fn make(&self, Place { row, rows, .. }: Place, out: &mut Vec<u8>) -> io::Result<()> {
        let Some(order) = &self.order else { return Ok(()) };
        let (scales, points) = self.sides(row, rows)?;
        let lines: Vec<Vec<u32>> = (0..self.words())
            .map(|word| self.codes.words(word * self.rows + row..word * self.rows + row + rows))
            .collect::<io::Result<_>>()?;
        for at in 0..rows {
            let words: Vec<u32> = lines.iter().map(|line| line[at]).collect();
            let own = at * self.groups;
            let value = |(column, &group): (usize, &usize)| {
                let code = code(&words, self.bits, column) as i32;
                (code - i32::from(points[own + group])) as f32 * scales[own + group]
            };
            let values: Vec<f32> = order.iter().enumerate().map(value).collect();
            write(self.outline.dtype, &values, out);
        }
        Ok(())
    }

    fn parameters(&self, Place { row, rows, .. }: Place) -> io::Result<Parameters> {
        if self.order.is_some() {
            return Ok(Parameters::default());
        }
        let (scales, points) = self.sides(row, rows)?;
        Ok(Parameters { scales: Some(scales), zero_points: Some(points), ..Parameters::default() })
    }
}

/// The group of each column by a tensor that says it; nothing where it is that of their order, or is not set.
pub(super) fn order(said: &[i64], columns: usize, size: i64) -> Result<Option<Vec<usize>>, String> {
    expect("columns in g_idx", Some(said.len()), Some(columns))?;
    if said.contains(&-1) {
        return Ok(None);
    }
    let size = usize::try_from(size).unwrap_or(columns).max(1);
    let groups = columns.div_ceil(size);
    let found = said.iter().map(|&group| usize::try_from(group).ok().filter(|&at| at < groups));
    let found = found.collect::<Option<Vec<_>>>().ok_or("g_idx names groups that are not there")?;
    let is_usual = found.iter().enumerate().all(|(column, &group)| column / size == group);
    Ok((!is_usual).then_some(found))
}

/// A code of a row of words, the first in the lowest bits.
pub(super) fn code(words: &[u32], bits: usize, at: usize) -> u32 {
    let per_word = 32 / bits;
    (words[at / per_word] >> (at % per_word * bits)) & (((1u64 << bits) - 1) as u32)
}

/// Add numbers of some type.
pub(super) fn write(dtype: Float, values: &[f32], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + values.len() * dtype.width(), 0);
    dispatch::from_f32(Level::best(), dtype, values, &mut out[start..]);
}
