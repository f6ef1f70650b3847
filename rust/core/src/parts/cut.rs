//! Where a layer is cut, and the columns that say it.

use std::sync::Arc;

use arrow_array::{ArrayRef, Int32Array, Int64Array};
use arrow_schema::{DataType, Field, Schema, SchemaRef};

use crate::dtype;
use crate::relation::columns::shape_type;
use crate::relation::described::element_product;
use crate::tile::least_common_multiple;

/// The columns that say which part of its layer a row is; they are there together or not at all.
pub(super) const COLUMNS: [&str; 4] = ["part_index", "part_count", "part_offset", "layer_shape"];

/// A layer that would take more parts stays whole: its shape is a lie, or the size of a part a slip,
/// and a row for each would take the memory that parts are to save.
pub(super) const MOST: u64 = 1 << 16;

/// Where they can, parts have a multiple of so many rows: blocks of rows that share a scale end there,
/// and so do words of zero points that are packed along rows.
const ROWS: usize = 128;

/// A part's size counts its float32 numbers, which it becomes on the way, where these are larger.
const NUMBER_BYTES: u64 = 4;

/// A part of a layer: where it begins, in elements, and what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The first element's flat index in the layer.
    pub offset: u64,
    /// The part's own shape: `[rows, row length]`, or one-dimensional.
    pub shape: Vec<i64>,
    /// Where its bytes begin in the layer's.
    pub start: u64,
    /// Where its bytes end.
    pub end: u64,
}

/// The parts of at most `part_bytes` of a layer; `None` where it stays whole, since it is small
/// enough, or its size is not known.
pub fn cut(shape: &[i64], dtype: &str, part_bytes: u64) -> Option<Vec<Part>> {
    cut_between(shape, dtype, part_bytes, (1, 1))
}

/// The same of a layer whose scales are each for so many rows, and so many elements of a row: no part
/// has more than one group in a direction unless it begins and ends with one.
pub(crate) fn cut_between(
    shape: &[i64],
    dtype: &str,
    part_bytes: u64,
    (group_rows, group_size): (u64, u64),
) -> Option<Vec<Part>> {
    let (block, count) = (dtype::block(dtype)?, element_product(shape).ok()? as u64);
    let bytes = block.bytes_of(count)?;
    let largest = bytes.max(count.checked_mul(NUMBER_BYTES)?);
    let &columns = shape.last().filter(|_| largest > part_bytes)?;
    let columns = columns as u64;
    // Elements that fit.
    let fit = (u128::from(part_bytes) * u128::from(count) / u128::from(largest)) as u64;
    let all = count / columns;
    let matrix = if shape.len() > 2 { shape[shape.len() - 2] as u64 } else { all };
    let rows = match fit / columns {
        rows if rows >= matrix => rows / matrix * matrix,
        0 => 0,
        rows => match least_common_multiple(ROWS, group_rows as usize) as u64 {
            unit if rows >= unit => rows / unit * unit,
            _ => step(rows, group_rows),
        },
    };
    let whole_rows = columns.is_multiple_of(block.elements);
    let whole_matrices = (matrix * columns).is_multiple_of(block.elements);
    let on_rows =
        rows > 0 && (whole_rows || (whole_matrices && rows.is_multiple_of(block.elements)));
    // What is cut from its beginning on: all whole matrices, each matrix, or each row.
    let (stretch, length) = match on_rows {
        true if rows >= matrix => (count, rows * columns),
        true => (matrix * columns, rows * columns),
        false if !whole_rows => return None,
        false => (columns, step(fit.max(block.elements), group_size)),
    };
    if (count / stretch).saturating_mul(stretch.div_ceil(length)) > MOST {
        return None;
    }
    let part = |offset: u64, length: u64| Part {
        offset,
        shape: match (shape.len(), on_rows) {
            (1, _) => vec![length as i64],
            (_, true) => vec![(length / columns) as i64, columns as i64],
            (_, false) => vec![1, length as i64],
        },
        start: offset / block.elements * block.bytes,
        end: (offset + length) / block.elements * block.bytes,
    };
    let stretches = (0..count).step_by(usize::try_from(stretch).ok()?);
    let parts = stretches.flat_map(|from| {
        let starts = (from..from + stretch).step_by(length as usize);
        starts.map(move |start| part(start, length.min(from + stretch - start)))
    });
    Some(parts.collect())
}

/// The same where rows are never cut, and parts have a multiple of `unit` rows.
pub(crate) fn cut_rows(shape: &[i64], part_bytes: u64, unit: u64) -> Option<Vec<Part>> {
    let count = element_product(shape).ok()? as u64;
    let &columns = shape.last().filter(|_| count.saturating_mul(NUMBER_BYTES) > part_bytes)?;
    let (columns, all) = (columns as u64, count / columns as u64);
    let matrix = if shape.len() > 2 { shape[shape.len() - 2] as u64 } else { all };
    let fit = part_bytes / NUMBER_BYTES / columns;
    let many = least_common_multiple(ROWS, unit as usize) as u64;
    let step = if fit >= many { fit / many * many } else { fit.max(unit) / unit * unit };
    if all.div_ceil(step.max(1)) > MOST {
        return None;
    }
    let starts = (0..all / matrix.max(1)).flat_map(|at| {
        (0..matrix)
            .step_by(step as usize)
            .map(move |row| (at * matrix + row, step.min(matrix - row)))
    });
    let part = |(row, rows): (u64, u64)| {
        let (offset, end) = (row * columns, (row + rows) * columns);
        Part { offset, shape: vec![rows as i64, columns as i64], start: offset, end }
    };
    Some(starts.map(part).collect())
}

/// The largest number up to `fit` that is a group times a power of two, or a power of two that divides
/// a group.
fn step(fit: u64, group: u64) -> u64 {
    let power = |count: u64| 1 << count.max(1).ilog2();
    if group <= fit {
        group * power(fit / group)
    } else {
        power(fit).min(1 << group.trailing_zeros())
    }
}

/// `schema` with the part columns, where it has none of them.
pub fn schema(schema: &Schema) -> SchemaRef {
    let mut fields: Vec<_> = schema.fields().iter().cloned().collect();
    if !has_any(schema) {
        fields.extend(part_fields().map(Arc::new));
    }
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

/// The fields of the part columns.
pub(crate) fn part_fields() -> [Field; 4] {
    [
        Field::new(COLUMNS[0], DataType::Int32, true),
        Field::new(COLUMNS[1], DataType::Int32, true),
        Field::new(COLUMNS[2], DataType::Int64, true),
        Field::new(COLUMNS[3], shape_type(), true),
    ]
}

/// The part columns of rows of which each is part `.0` of `.1`, begins at element `.2` of its
/// layer, and has layers' shapes as given.
pub(crate) fn part_columns(rows: &[(i32, i32, i64)], layer_shapes: ArrayRef) -> [ArrayRef; 4] {
    let ints = |get: fn(&(i32, i32, i64)) -> i32| -> ArrayRef {
        Arc::new(Int32Array::from_iter_values(rows.iter().map(get)))
    };
    let offsets = Int64Array::from_iter_values(rows.iter().map(|row| row.2));
    [ints(|row| row.0), ints(|row| row.1), Arc::new(offsets), layer_shapes]
}

pub(super) fn has_any(schema: &Schema) -> bool {
    COLUMNS.iter().any(|name| schema.index_of(name).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parts_follow_each_other_and_fill_the_layer(
            shape in prop::collection::vec(prop_oneof![Just(1i64), 1i64..40], 1..4),
            dtype in prop::sample::select(vec!["F32", "BF16", "F8_E4M3", "F4", "F64"]),
            part_bytes in 1u64..600,
        ) {
            let count: i64 = shape.iter().product();
            let block = dtype::block(dtype).unwrap();
            let Some(parts) = cut(&shape, dtype, part_bytes) else {
                let bytes = block.bytes_of(count as u64);
                let largest = bytes.map(|bytes| bytes.max(count as u64 * NUMBER_BYTES));
                let fits = largest.is_none_or(|bytes| bytes <= part_bytes || bytes / part_bytes > MOST / 8);
                let splits_blocks = shape.last().unwrap() % block.elements as i64 != 0;
                prop_assert!(fits || splits_blocks);
                return Ok(());
            };
            let (mut element, mut at) = (0, 0);
            let &row = shape.last().unwrap();
            let matrix = if shape.len() > 2 { row * shape[shape.len() - 2] } else { count };
            for part in &parts {
                prop_assert_eq!((part.offset, part.start), (element, at));
                let size: i64 = part.shape.iter().product();
                prop_assert!(size > 0 && part.shape.len() <= 2);
                prop_assert_eq!(block.bytes_of(size as u64), Some(part.end - part.start));
                prop_assert!(part.end - part.start <= part_bytes.max(8));
                let columns = *part.shape.last().unwrap();
                let (from, to) = (element as i64, element as i64 + size);
                let (first, last) = (from / matrix, (to - 1) / matrix);
                let whole = from % matrix == 0 && to % matrix == 0;
                prop_assert!(first == last || whole, "a part crosses matrices");
                element += size as u64;
                at = part.end;
                if columns < row && !element.is_multiple_of(row as u64) {
                    prop_assert!(columns.count_ones() == 1, "cut at a power of two");
                }
            }
            prop_assert_eq!(Some((element, at)), block.bytes_of(count as u64).map(|b| (count as u64, b)));
        }
    }

    proptest! {
        #[test]
        fn parts_do_not_cut_groups_in_two(
            (rows, columns) in (1i64..600, 1i64..600),
            groups in (1u64..300, 1u64..300),
            part_bytes in 64u64..40_000,
        ) {
            let Some(parts) = cut_between(&[rows, columns], "F8_E4M3", part_bytes, groups) else {
                return Ok(());
            };
            let fits = |from: u64, to: u64, group: u64, all: u64| {
                let ends = |at: u64| at.is_multiple_of(group) || at == all;
                from / group == (to - 1) / group || (ends(from) && ends(to))
            };
            let (mut next, [rows, columns]) = (0, [rows as u64, columns as u64]);
            for part in parts {
                prop_assert_eq!(part.offset, next);
                let [height, width] = part.shape[..] else { unreachable!() };
                let (row, column) = (part.offset / columns, part.offset % columns);
                prop_assert!(fits(row, row + height as u64, groups.0, rows), "{part:?}");
                prop_assert!(fits(column, column + width as u64, groups.1, columns), "{part:?}");
                next += (height * width) as u64;
            }
            prop_assert_eq!(next, rows * columns);
        }
    }

    #[test]
    fn a_shape_that_lies_takes_no_memory() {
        assert_eq!(cut(&[1 << 60], "F32", 1 << 20), None);
        assert_eq!(cut(&[1 << 40, 1 << 19], "U8", 1), None);
        assert_eq!(cut(&[1 << 20, 4096], "F32", 1 << 28).map(|parts| parts.len()), Some(64));
        assert_eq!(cut(&[1 << 20, 4096], "BF16", 1 << 28).map(|parts| parts.len()), Some(64));
        let rows = |shape: &[i64]| cut(shape, "F32", 1 << 20).map(|parts| parts[0].shape.clone());
        assert_eq!(rows(&[1000, 1000]), Some(vec![256, 1000]));
        assert_eq!(rows(&[1000, 4096]), Some(vec![64, 4096]));
        assert_eq!(rows(&[8, 100, 1000]), Some(vec![200, 1000]));
        assert_eq!(rows(&[8, 300, 1000]), Some(vec![256, 1000]));
    }
}
