//! A column's arrays written to its leaves.

use arrow_array::{Array, ArrayRef};
use arrow_schema::Field;
use parquet::arrow::arrow_writer::{ArrowColumnWriter, compute_leaves};
use parquet::errors::ParquetError;

/// A slice of so many bytes takes some megabytes while it is encoded.
pub(super) const LARGE: usize = 1 << 17;

/// A column's arrays in the next of `writers`: one for each of its leaves.
pub(super) fn encode<'a>(
    field: &Field,
    arrays: impl Iterator<Item = &'a ArrayRef>,
    writers: &mut impl Iterator<Item = ArrowColumnWriter>,
    freed: &dyn Fn(),
) -> Result<Vec<ArrowColumnWriter>, ParquetError> {
    let mut used: Vec<ArrowColumnWriter> = Vec::new();
    for array in arrays {
        let leaves = compute_leaves(field, array)?;
        if used.is_empty() {
            used.extend(writers.take(leaves.len()));
        }
        for (writer, leaf) in used.iter_mut().zip(leaves) {
            writer.write(&leaf)?;
        }
        if array.to_data().get_slice_memory_size()? >= LARGE {
            freed();
        }
    }
    Ok(used)
}
