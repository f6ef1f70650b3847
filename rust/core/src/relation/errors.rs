//! The error table: row for row beside the output.

use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};

use super::columns::{self, Finder};
use super::text::Text;
use crate::error::{CallError, RowError};

/// The error relation's fields after `row_index` and `layer_name`.
pub(crate) fn error_fields() -> Vec<Field> {
    vec![
        Field::new("error_code", DataType::Utf8, true),
        Field::new("error_message", DataType::Utf8, true),
        Field::new("error_element", DataType::Int64, true),
        Field::new("error_count", DataType::Int64, true),
    ]
}

/// The schema of the error relation.
pub fn schema() -> SchemaRef {
    let mut fields = vec![
        Field::new("row_index", DataType::Int64, true),
        Field::new("layer_name", DataType::Utf8, true),
    ];
    fields.extend(error_fields());
    Arc::new(Schema::new(fields))
}

/// A failed row's entry: what is wrong, and the message in full.
pub(crate) struct Entry {
    pub(crate) error: RowError,
    pub(crate) message: String,
}

/// The four `error_` columns for rows that may have failed.
pub(crate) fn error_columns_of<'a>(
    entries: impl Iterator<Item = Option<&'a Entry>> + Clone,
) -> [ArrayRef; 4] {
    let codes: StringArray = entries.clone().map(|e| e.map(|e| e.error.code())).collect();
    let messages: StringArray = entries.clone().map(|e| e.map(|e| e.message.as_str())).collect();
    let elements: Int64Array = entries.clone().map(|e| e?.error.position().0).collect();
    let counts: Int64Array = entries.map(|e| e?.error.position().1).collect();
    [Arc::new(codes), Arc::new(messages), Arc::new(elements), Arc::new(counts)]
}

/// Schema metadata key of a relation whose errors nobody has been told of: it was made in this
/// call, of objects some of which are no weights.
pub const NEW_ERRORS_KEY: &str = "arrowquant.new_errors";

/// Where the error columns of an earlier step are.
#[derive(Clone, Debug)]
pub(crate) struct EarlierSchema {
    is_new: bool,
    code: usize,
    message: Option<usize>,
    element: Option<usize>,
    count: Option<usize>,
}

impl EarlierSchema {
    /// The error columns, if the relation has an `error_code`.
    pub(crate) fn find(finder: &Finder<'_>) -> Result<Option<Self>, CallError> {
        let Some(code) = finder.text("error_code")? else {
            return Ok(None);
        };
        Ok(Some(Self {
            is_new: finder.has_metadata(NEW_ERRORS_KEY),
            code,
            message: finder.text("error_message")?,
            element: finder.integer("error_element")?,
            count: finder.integer("error_count")?,
        }))
    }

    pub(crate) fn bind(&self, batch: &RecordBatch) -> Result<Earlier, ArrowError> {
        let column = |index: usize| batch.column(index);
        Ok(Earlier {
            is_new: self.is_new,
            codes: Text::try_new(column(self.code))?,
            messages: self.message.map(|i| Text::try_new(column(i))).transpose()?,
            elements: self
                .element
                .map(|i| columns::integer(column(i), "error_element"))
                .transpose()?,
            counts: self.count.map(|i| columns::integer(column(i), "error_count")).transpose()?,
        })
    }
}

/// Errors that rows came in with.
pub(crate) struct Earlier {
    is_new: bool,
    codes: Text,
    messages: Option<Text>,
    elements: Option<Int64Array>,
    counts: Option<Int64Array>,
}

impl Earlier {
    pub(crate) fn is_good(&self, row: usize) -> bool {
        self.codes.is_null(row)
    }

    pub(crate) fn get(&self, row: usize) -> Option<RowError> {
        let code = self.codes.get(row)?.to_owned();
        let message = self.messages.as_ref().and_then(|rows| rows.get(row));
        Some(RowError::Earlier {
            message: message.unwrap_or("failed in an earlier step").to_owned(),
            element: columns::integer_at(self.elements.as_ref(), row),
            count: columns::integer_at(self.counts.as_ref(), row),
            code,
            is_new: self.is_new,
        })
    }
}
