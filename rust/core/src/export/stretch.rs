//! Some rows of a quantized matrix, or a stretch of one row.

use std::borrow::Cow;
use std::ops::Deref;

use arrow_buffer::Buffer;

use super::matrix::Matrix;
use crate::relation::quantized::read::Rows;
use crate::scheme::{Bound, Layout};

/// Some of a layer's rows: every `step`th from `first` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selection {
    /// The first one.
    pub first: usize,
    /// From one to the next.
    pub step: usize,
    /// How many.
    pub count: usize,
    /// How many the layer has.
    pub of: usize,
}

impl Selection {
    /// Whether it is all rows.
    pub fn is_all(&self) -> bool {
        self.count == self.of
    }

    /// Which of the selected rows the layer's row `row` is.
    pub fn position(&self, row: usize) -> Option<usize> {
        let beyond = row.checked_sub(self.first)?;
        let position = beyond / self.step;
        (beyond.is_multiple_of(self.step) && position < self.count).then_some(position)
    }

    /// Whether rows of a matrix of that layout can be taken out.
    pub(super) fn check(&self, layout: &Layout, rows: usize) -> Result<(), String> {
        let last = self.count.checked_sub(1).and_then(|last| last.checked_mul(self.step));
        let last = last.and_then(|last| last.checked_add(self.first));
        if self.step == 0 || last.is_none_or(|last| last >= rows) {
            return Err(format!("it has no rows {self:?}, but {rows}"));
        }
        if self.is_all()
            || (layout.rows == rows && (layout.group_rows == 1 || layout.has_one_scale()))
        {
            return Ok(());
        }
        let ends = |row: usize| row.is_multiple_of(layout.group_rows) || row == rows;
        let is_aligned = self.step == 1 && ends(self.first) && ends(self.first + self.count);
        if layout.rows == rows && is_aligned {
            return Ok(());
        }
        Err(format!(
            "{} of its rows become a matrix of their own, but {} rows share a scale. Quantize the \
             layer with scales of single rows",
            self.count, layout.group_rows
        ))
    }
}

/// Some rows of a layer, or a stretch of one row, as a relation's row has them.
#[derive(Clone)]
pub struct Part<'a> {
    /// Where it begins in the layer.
    pub row: usize,
    /// How many rows.
    pub rows: usize,
    /// Where in its rows it begins.
    pub column: usize,
    /// Elements of a row.
    pub width: usize,
    /// How these rows alone lie.
    pub layout: Layout,
    /// Their codes.
    pub data: Buffer,
    /// Their groups' scales, row after row; empty where they lie in `data`.
    pub scales: Vec<f32>,
    /// Likewise; empty where there are none.
    pub zero_points: Cow<'a, [u8]>,
    /// Likewise.
    pub biases: Vec<f32>,
    /// The scale of the whole tensor; 1 where there is none.
    pub tensor_scale: f32,
}

impl<'a> Part<'a> {
    /// A row of a relation that begins at element `first` of its layer.
    pub(super) fn of(
        rows: &'a Rows,
        row: usize,
        bound: &Bound,
        (first, columns, width): (usize, usize, usize),
    ) -> Self {
        let numbers = |bytes: Option<&[u8]>| {
            let numbers = bytes.unwrap_or_default().as_chunks::<4>().0.iter();
            numbers.map(|number| f32::from_le_bytes(*number)).collect()
        };
        let layout = bound.layout;
        let encodings = &rows.encodings;
        Self {
            row: first / columns,
            rows: (layout.elements() / width.max(1)).max(1),
            column: first % columns,
            width,
            layout,
            data: rows.data_buffer(row).unwrap_or_default(),
            scales: numbers(encodings.scales(row).filter(|_| layout.has_scales)),
            zero_points: Cow::Borrowed(encodings.zero_points(row).unwrap_or_default()),
            biases: numbers(encodings.biases(row).filter(|_| layout.has_biases)),
            tensor_scale: encodings.tensor_scale(row),
        }
    }

    /// Groups of each row, or of the stretch of one.
    pub fn groups(&self) -> usize {
        self.layout.grouping.groups()
    }

    /// Those of its rows that are selected, as rows of a matrix; nothing where there are none.
    pub(super) fn cut<'p>(
        &'p self,
        selection: &Selection,
        matrix: &'p Matrix,
    ) -> Option<Stretch<'p, 'a>> {
        if selection.is_all() {
            return Some(Stretch { part: Cow::Borrowed(self), row: self.row, matrix });
        }
        let places = (0..self.rows).filter_map(|at| Some((at, selection.position(self.row + at)?)));
        let places: Vec<(usize, usize)> = places.collect();
        let &(start, row) = places.first()?;
        if places.len() == self.rows {
            return Some(Stretch { part: Cow::Borrowed(self), row, matrix });
        }
        let groups = self.groups();
        let rows_of = |all: &[u8], each: usize| -> Cow<'a, [u8]> {
            let each_row = |&(at, _): &(usize, usize)| all[at * each..][..each].iter().copied();
            if all.is_empty() {
                Cow::Borrowed(&[])
            } else {
                places.iter().flat_map(each_row).collect()
            }
        };
        let numbers_of = |all: &[f32]| -> Vec<f32> {
            if all.is_empty() || self.layout.has_one_scale() {
                return all.to_vec();
            }
            if self.layout.group_rows == 1 {
                let each_row =
                    |&(at, _): &(usize, usize)| all[at * groups..][..groups].iter().copied();
                return places.iter().flat_map(each_row).collect();
            }
            let own = start / self.layout.group_rows
                ..(start + places.len()).div_ceil(self.layout.group_rows);
            all[own.start * groups..own.end * groups].to_vec()
        };
        let part = Part {
            row,
            rows: places.len(),
            layout: Layout { rows: places.len(), ..self.layout },
            data: Buffer::from(rows_of(&self.data, self.layout.row_bytes).into_owned()),
            scales: numbers_of(&self.scales),
            zero_points: rows_of(&self.zero_points, groups),
            biases: numbers_of(&self.biases),
            ..*self
        };
        Some(Stretch { part: Cow::Owned(part), row, matrix })
    }
}

/// A part as some rows of a runtime's matrix.
pub struct Stretch<'p, 'a> {
    part: Cow<'p, Part<'a>>,
    /// Where it begins in the matrix.
    pub row: usize,
    matrix: &'p Matrix,
}

impl<'a> Deref for Stretch<'_, 'a> {
    type Target = Part<'a>;

    fn deref(&self) -> &Part<'a> {
        &self.part
    }
}

impl<'p> Stretch<'p, '_> {
    /// The matrix that it is of.
    pub fn matrix(&self) -> &'p Matrix {
        self.matrix
    }

    /// Where something that each row has `per_row` of begins, when elements of a row are `per` of one.
    pub fn at(&self, per_row: usize, per: usize) -> usize {
        self.row * per_row + self.column / per
    }

    /// Groups of a row that lie before it.
    pub fn first_group(&self) -> usize {
        self.column / self.matrix.bound.layout.grouping.group_size
    }

    /// Whether its groups begin here: the parameters of a group that began in another part are written
    /// with that.
    pub fn begins_groups(&self) -> bool {
        let whole = &self.matrix.bound.layout;
        self.row.is_multiple_of(whole.group_rows.max(1))
            && self.column.is_multiple_of(whole.grouping.group_size)
    }
}
