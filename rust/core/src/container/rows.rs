//! The rows of a file's tensors: where in the file each one's bytes are.

use std::ops::Range;

use super::Entry;
use super::foreign::{Cut, Data, Foreign, Outline, Place};
use super::meaning::Stack;
use super::transpose::Turned;
use crate::dtype;
use crate::parts;

/// A row: a tensor, a matrix of one, or a part of either.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// Which of the file's tensors it comes from.
    pub(super) entry: usize,
    /// Which of its matrices.
    pub(super) index: Option<usize>,
    pub(super) shape: Vec<i64>,
    pub(super) layer_shape: Vec<i64>,
    /// Which part it is, of how many, and its first element's index in the layer.
    pub(super) part: (i32, i32, i64),
    pub(super) bytes: Bytes,
    /// Which of the matrices of what another tool stores, and where in it.
    pub(super) place: Option<Place>,
}

/// Where a row's bytes are.
#[derive(Clone, Debug)]
pub(super) enum Bytes {
    /// As they are in the file.
    Plain(Range<u64>),
    /// Of a matrix that is turned around.
    Turned(Turned),
    /// So many, made in memory of what another tool stores.
    Made(u64),
}

impl Row {
    /// Where in what another tool stores it is.
    pub(super) fn place(&self) -> Option<Place> {
        self.place
    }

    /// How many bytes it has.
    pub(super) fn size(&self) -> u64 {
        match &self.bytes {
            Bytes::Plain(range) => range.end - range.start,
            Bytes::Turned(turned) => turned.bytes() as u64,
            Bytes::Made(size) => *size,
        }
    }

    /// Whether its bytes follow those of `before` in the file, or both are put together in memory.
    pub(super) fn follows(&self, before: &Self) -> bool {
        match (&before.bytes, &self.bytes) {
            (Bytes::Plain(before), Bytes::Plain(own)) => before.end == own.start,
            (Bytes::Turned(_) | Bytes::Made(_), Bytes::Turned(_) | Bytes::Made(_)) => true,
            _ => false,
        }
    }
}

/// A tensor's row, or the rows of its parts.
pub(super) fn whole(at: usize, entry: &Entry, part_bytes: u64, rows: &mut Vec<Row>) {
    let row = |shape: Vec<i64>, part, bytes| Row {
        entry: at,
        index: None,
        shape,
        layer_shape: entry.shape.clone(),
        part,
        bytes: Bytes::Plain(bytes),
        place: None,
    };
    let Some(parts) = parts::cut(&entry.shape, &entry.dtype, part_bytes) else {
        rows.push(row(entry.shape.clone(), (0, 1, 0), entry.start..entry.end));
        return;
    };
    let count = parts.len() as i32;
    rows.extend((0..count).zip(parts).map(|(index, part)| {
        let bytes = entry.start + part.start..entry.start + part.end;
        row(part.shape, (index, count, part.offset as i64), bytes)
    }));
}

/// The rows of what another tool stores: of each of its matrices, in parts where these are large.
pub(super) fn foreign_rows(at: usize, foreign: &dyn Foreign, part_bytes: u64, rows: &mut Vec<Row>) {
    let Outline { shape, stack, cut, .. } = foreign.outline();
    let columns = shape.last().map_or(1, |&last| last as usize).max(1);
    let count: i64 = shape.iter().product();
    let parts = match *cut {
        Cut::Groups(dtype, group_rows, group_size) => {
            parts::cut_between(shape, dtype, part_bytes, (group_rows, group_size))
        }
        Cut::Rows(unit) => parts::cut_rows(shape, part_bytes, unit),
    };
    let whole = || vec![(0, shape.clone())];
    let parts =
        parts.map(|parts| parts.into_iter().map(|part| (part.offset, part.shape)).collect());
    let parts: Vec<(u64, Vec<i64>)> = parts.unwrap_or_else(whole);
    for matrix in 0..stack.as_ref().map_or(1, |(count, ..)| *count) {
        let of = parts.len() as i32;
        rows.extend((0..of).zip(&parts).map(|(number, (offset, own))| {
            let first = *offset as usize;
            let elements = own.iter().product::<i64>() as usize;
            let width = own.last().map_or(1, |&last| last as usize).max(1);
            debug_assert!(first + elements <= count as usize);
            let place = Place {
                matrix,
                row: first / columns,
                rows: elements / width,
                column: first % columns,
                width,
            };
            Row {
                entry: at,
                index: stack.as_ref().map(|_| matrix),
                shape: own.clone(),
                layer_shape: shape.clone(),
                part: (number, of, *offset as i64),
                bytes: match foreign.data(place) {
                    Data::Plain(range) => Bytes::Plain(range),
                    Data::Turned(turned) => Bytes::Turned(turned),
                    Data::Made(size) => Bytes::Made(size),
                },
                place: Some(place),
            }
        }));
    }
}

/// The rows of each of a stack's matrices; `None` where the tensor can't be such a stack.
pub(super) fn matrices(
    at: usize,
    entry: &Entry,
    stack: Stack,
    part_bytes: u64,
    rows: &mut Vec<Row>,
) -> Option<()> {
    let width = dtype::block(&entry.dtype).filter(|block| block.elements == 1)?.bytes as usize;
    let (&columns, leading) = entry.shape.split_last()?;
    let all = leading.iter().try_fold(1i64, |all, &next| all.checked_mul(next))?;
    let count = i64::try_from(stack.count).ok().filter(|&count| count > 0 && all % count == 0)?;
    let source = (all / count, columns);
    let shape = match stack.axis {
        None | Some(-1) => vec![source.0, source.1],
        Some(-2) => vec![source.1, source.0],
        _ => return None,
    };
    let size = u64::try_from(source.0.checked_mul(source.1)?).ok()?.checked_mul(width as u64)?;
    for index in 0..stack.count {
        let start = entry.start + index as u64 * size;
        let parts = parts::cut(&shape, &entry.dtype, part_bytes).unwrap_or_else(|| {
            vec![parts::Part { offset: 0, shape: shape.clone(), start: 0, end: size }]
        });
        let of = parts.len() as i32;
        rows.extend((0..of).zip(parts).map(|(number, part)| Row {
            entry: at,
            index: Some(index),
            layer_shape: shape.clone(),
            part: (number, of, part.offset as i64),
            bytes: match stack.axis {
                Some(-2) => Bytes::Turned(turned(start, source, width, &part)),
                _ => Bytes::Plain(start + part.start..start + part.end),
            },
            shape: part.shape,
            place: None,
        }));
    }
    Some(())
}

/// Where a part of a matrix that is turned around lies in the source's matrix.
fn turned(start: u64, source: (i64, i64), width: usize, part: &parts::Part) -> Turned {
    let (source_rows, source_row) = (source.0 as u64, source.1 as u64);
    let length = part.shape.last().map_or(0, |&length| length as u64);
    let count = part.shape[..part.shape.len() - 1].iter().product::<i64>() as u64;
    let (first, k) = match source_rows {
        0 => (0, 0),
        rows => (part.offset / rows, part.offset % rows),
    };
    Turned { start, source_row, rows: (k, length), columns: (first, count), width }
}
