//! Text columns, as they come in.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, LargeStringArray, StringArray};
use arrow_cast::cast;
use arrow_schema::{ArrowError, DataType};

use super::repeats::spans_repeat;

/// A column of text: as it came where that is utf8, else as large_utf8.
#[derive(Clone, Debug)]
pub(crate) enum Text {
    /// Offsets of 32 bits.
    Small(StringArray),
    /// Offsets of 64 bits.
    Large(LargeStringArray),
}

impl Text {
    /// Any column of text. Offsets, views and UTF-8 that come from outside may be anything, and are
    /// checked.
    pub(crate) fn try_new(column: &ArrayRef) -> Result<Self, ArrowError> {
        if column.is_empty() {
            // Its first offset may still point into values that were not sent along.
            return Ok(Self::Large(LargeStringArray::new_null(0)));
        }
        column.to_data().validate_full()?;
        Ok(match column.as_string_opt::<i32>() {
            Some(small) => Self::Small(small.clone()),
            None => Self::Large(cast(column, &DataType::LargeUtf8)?.as_string::<i64>().clone()),
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.array().len()
    }

    pub(crate) fn is_null(&self, row: usize) -> bool {
        self.array().is_null(row)
    }

    /// Row `row`; `None` where it is null.
    pub(crate) fn get(&self, row: usize) -> Option<&str> {
        if self.is_null(row) {
            return None;
        }
        Some(match self {
            Self::Small(rows) => rows.value(row),
            Self::Large(rows) => rows.value(row),
        })
    }

    /// Whether no row is null.
    pub(crate) fn is_whole(&self) -> bool {
        self.array().null_count() == 0
    }

    /// Whether these rows all have the same text.
    pub(crate) fn repeats_over(&self, rows: &Range<usize>) -> bool {
        self.is_whole()
            && match self {
                Self::Small(all) => {
                    spans_repeat(&all.value_offsets()[rows.start..=rows.end], all.value_data())
                }
                Self::Large(all) => {
                    spans_repeat(&all.value_offsets()[rows.start..=rows.end], all.value_data())
                }
            }
    }

    /// The column as utf8.
    pub(crate) fn utf8(&self) -> Result<ArrayRef, ArrowError> {
        match self {
            Self::Small(rows) => Ok(Arc::new(rows.clone())),
            Self::Large(rows) => cast(rows, &DataType::Utf8),
        }
    }

    fn array(&self) -> &dyn Array {
        match self {
            Self::Small(rows) => rows,
            Self::Large(rows) => rows,
        }
    }
}
