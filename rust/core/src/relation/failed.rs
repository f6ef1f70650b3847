//! The failed relation: only the failed rows, with what was asked of them and why it failed.

use std::sync::Arc;

use arrow_array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray, UInt64Array};
use arrow_schema::{ArrowError, DataType, Field, SchemaRef};
use arrow_select::take::take;

use super::columns::{Carried, shape_type};
use super::described::Described;
use super::errors::{Entry, error_columns_of, error_fields};
use super::{output_schema, quantized};
use crate::settings::Settings;

/// The schema: the relation's own columns, then the carried ones.
pub fn schema(carried: &Carried) -> SchemaRef {
    let mut fields = vec![
        Field::new("row_index", DataType::Int64, true),
        Field::new("layer_name", DataType::Utf8, true),
        Field::new("shape", shape_type(), true),
        Field::new("dtype", DataType::Utf8, true),
        Field::new("scheme", DataType::Utf8, true),
        Field::new("group_size", DataType::Int64, true),
        Field::new("is_symmetric", DataType::Boolean, true),
    ];
    fields.extend(error_fields());
    output_schema(fields, carried)
}

/// One failed row.
#[derive(Clone, Copy)]
pub(crate) struct Failed<'a> {
    /// Its place in the batch.
    pub(crate) row: usize,
    pub(crate) name: Option<&'a str>,
    pub(crate) described: &'a Described<'a>,
    /// The scheme that was asked for, and how.
    pub(crate) asked: Option<(&'a str, Settings)>,
    pub(crate) entry: &'a Entry,
}

/// The batch of `schema` for those rows of a batch that begins at `first_row_index`.
pub(crate) fn batch(
    schema: &SchemaRef,
    first_row_index: i64,
    failed: &[Failed<'_>],
    carried: &[ArrayRef],
) -> Result<RecordBatch, ArrowError> {
    let asked = || failed.iter().map(|row| row.asked);
    let rows = failed.iter().map(|row| row.row as u64).collect::<UInt64Array>();
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(
            failed.iter().map(|row| first_row_index + row.row as i64),
        )),
        Arc::new(failed.iter().map(|row| row.name).collect::<StringArray>()),
        Arc::new(quantized::shapes(failed.iter().map(|row| row.described.shape.as_deref()))),
        Arc::new(failed.iter().map(|row| row.described.dtype).collect::<StringArray>()),
        Arc::new(asked().map(|asked| Some(asked?.0)).collect::<StringArray>()),
        Arc::new(asked().map(|asked| asked?.1.group_size()).collect::<Int64Array>()),
        Arc::new(asked().map(|asked| asked?.1.symmetric()).collect::<BooleanArray>()),
    ];
    columns.extend(error_columns_of(failed.iter().map(|row| Some(row.entry))));
    for column in carried {
        columns.push(take(column, &rows, None)?);
    }
    RecordBatch::try_new(Arc::clone(schema), columns)
}

/// The four `error_` columns of `rows` rows, of which those at the given places failed; places rise.
pub(crate) fn error_columns(rows: usize, failed: &[Failed<'_>]) -> [ArrayRef; 4] {
    if failed.is_empty() {
        let text: ArrayRef = Arc::new(StringArray::new_null(rows));
        let number: ArrayRef = Arc::new(Int64Array::new_null(rows));
        return [Arc::clone(&text), text, Arc::clone(&number), number];
    }
    let mut entries: Vec<Option<&Entry>> = vec![None; rows];
    for failed in failed {
        entries[failed.row] = Some(failed.entry);
    }
    error_columns_of(entries.into_iter())
}

/// Code, layer and reason of the first of `failed`, and which others failed with it.
pub(crate) fn summary(failed: &[Failed<'_>]) -> String {
    const NAMED: usize = 8;
    let Some((first, others)) = failed.split_first() else {
        return String::new();
    };
    let mut text = format!("{}: {}", first.entry.error.code(), first.entry.message);
    if !others.is_empty() {
        let named: Vec<_> = others
            .iter()
            .take(NAMED)
            .map(|row| format!("'{}' ({})", row.name.unwrap_or("?"), row.entry.error.code()))
            .collect();
        let more = others.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        text = format!("{text} Also failed: {}{more}; see .failed for all.", named.join(", "));
    }
    text
}
