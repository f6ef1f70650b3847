//! Parts of layers: a layer that is too large for one row of a file comes as several rows.
//!
//! A layer is cut on the rows of its tensor. Where one row alone is too large, it is cut at
//! multiples of a power of two, so that the usual groups end where parts do.

mod split;

use std::sync::Arc;

use arrow_array::{ArrayRef, Int32Array, Int64Array};
use arrow_schema::{DataType, Field, Schema, SchemaRef};

use crate::dtype;
use crate::layer::element_product;
use crate::relation::columns::shape_type;
pub use split::split;

/// The columns that say which part of its layer a row is; they are there together or not at all.
const COLUMNS: [&str; 4] = ["part_index", "part_count", "part_offset", "layer_shape"];

/// A layer that would take more parts stays whole: its shape is a lie, or the size of a part a slip,
/// and a row for each would take the memory that parts are to save.
const MOST: u64 = 1 << 16;

/// Where they can, parts have a multiple of so many rows.
const ROWS: u64 = 8;

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
    let (bits, count) = (dtype::bits(dtype)?, element_product(shape).ok()? as u64);
    let bytes = count.checked_mul(bits).filter(|bits| bits.is_multiple_of(8))? / 8;
    let &columns = shape.last().filter(|_| bytes > part_bytes)?;
    let columns = columns as u64;
    let fit = part_bytes.saturating_mul(8) / bits;
    let whole = if bits.is_multiple_of(8) { 1 } else { 8 };
    // Parts are whole bytes of narrow elements, and whole words of zero points packed along rows.
    let rows = fit / columns;
    let rows = match rows {
        ROWS.. => rows / ROWS * ROWS,
        4..ROWS => 4,
        _ => rows,
    };
    let on_rows = rows >= whole;
    let (row, step) = if on_rows {
        (count, rows * columns)
    } else if whole > 1 && !columns.is_multiple_of(whole) {
        return None;
    } else {
        (columns, 1 << fit.max(whole).ilog2())
    };
    if (count / row).saturating_mul(row.div_ceil(step)) > MOST {
        return None;
    }
    let part = |offset: u64, length: u64| Part {
        offset,
        shape: match (shape.len(), on_rows) {
            (1, _) => vec![length as i64],
            (_, true) => vec![(length / columns) as i64, columns as i64],
            (_, false) => vec![1, length as i64],
        },
        start: offset * bits / 8,
        end: (offset + length) * bits / 8,
    };
    let rows = (0..count).step_by(usize::try_from(row).ok()?);
    let parts = rows.flat_map(|from| {
        let starts = (from..from + row).step_by(step as usize);
        starts.map(move |start| part(start, step.min(from + row - start)))
    });
    Some(parts.collect())
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

fn has_any(schema: &Schema) -> bool {
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
            let bytes = count as u64 * dtype::bits(dtype).unwrap() / 8;
            let Some(parts) = cut(&shape, dtype, part_bytes) else {
                let whole = dtype == "F4" && shape.last().unwrap() % 8 != 0;
                prop_assert!(bytes <= part_bytes || whole || bytes / part_bytes > MOST / 8);
                return Ok(());
            };
            let (mut element, mut at) = (0, 0);
            for part in &parts {
                prop_assert_eq!((part.offset, part.start), (element, at));
                let size: i64 = part.shape.iter().product();
                prop_assert!(size > 0 && part.shape.len() <= 2);
                prop_assert!(part.end - part.start <= part_bytes.max(8));
                element += size as u64;
                at = part.end;
                let columns = *part.shape.last().unwrap();
                let row = *shape.last().unwrap();
                if columns < row && !element.is_multiple_of(row as u64) {
                    prop_assert!(columns.count_ones() == 1, "cut at a power of two");
                }
            }
            prop_assert_eq!((element, at), (count as u64, bytes));
        }
    }

    #[test]
    fn a_shape_that_lies_takes_no_memory() {
        assert_eq!(cut(&[1 << 60], "F32", 1 << 20), None);
        assert_eq!(cut(&[1 << 40, 1 << 19], "U8", 1), None);
        assert_eq!(cut(&[1 << 20, 4096], "F32", 1 << 28).map(|parts| parts.len()), Some(64));
    }
}
