//! The `shape` column, as it comes in.

use std::ops::Range;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, ArrayRef, Int64Array, LargeListArray};
use arrow_schema::ArrowError;

use super::exact;
use super::repeats::spans_repeat;
use crate::error::RowError;

/// A list column of integers, read as int64; numbers that don't fit are as good as null.
pub struct Shapes {
    rows: LargeListArray,
    dimensions: Int64Array,
}

impl Shapes {
    /// The shapes in a list column of whole numbers.
    ///
    /// # Errors
    /// Offsets are invalid: those that come from outside may be anything, and are checked. Or a
    /// number is no int64.
    pub fn try_new(column: &ArrayRef) -> Result<Self, ArrowError> {
        column.to_data().validate_full()?;
        let rows = exact::int64_lists(column, "shape")?;
        let dimensions = rows.values().as_primitive::<Int64Type>().clone();
        Ok(Self { rows, dimensions })
    }

    /// Whether these rows all have the same shape, and no null in it.
    pub(crate) fn repeats_over(&self, rows: &Range<usize>) -> bool {
        let offsets = &self.rows.value_offsets()[rows.start..=rows.end];
        self.rows.null_count() == 0
            && self.dimensions.null_count() == 0
            && spans_repeat(offsets, self.dimensions.values())
    }

    /// The shape in row `row`.
    ///
    /// # Errors
    /// It or one of its dimensions is null.
    pub(crate) fn get(&self, row: usize) -> Result<&[i64], RowError> {
        if self.rows.is_null(row) {
            return Err(RowError::InvalidShape("it is null".to_owned()));
        }
        let offsets = self.rows.value_offsets();
        let (start, end) = (offsets[row] as usize, offsets[row + 1] as usize);
        let nulls = self.dimensions.nulls().map(|nulls| nulls.slice(start, end - start));
        if nulls.is_some_and(|nulls| nulls.null_count() > 0) {
            let why = "a dimension is null or beyond int64's range".to_owned();
            return Err(RowError::InvalidShape(why));
        }
        Ok(&self.dimensions.values()[start..end])
    }
}
