//! The relations: which columns come in, which go out, and how a row is read or written.

pub mod bytes;
pub mod columns;
pub mod errors;
pub mod failed;
pub mod quantized;
pub mod weights;

use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{ArrowError, Field, Schema, SchemaRef};

use crate::error::CallError;
use columns::Carried;

/// Schema metadata key under which the format's version stands.
pub const FORMAT_KEY: &str = "arrowquant.format";
/// The format that this version writes, and the newest major that it reads.
pub const FORMAT: &str = "1";

/// Refuse a relation of a newer major format.
pub fn check_format(schema: &Schema) -> Result<(), CallError> {
    let Some(format) = schema.metadata().get(FORMAT_KEY) else {
        return Ok(());
    };
    let major = format.split('.').next().unwrap_or(format);
    if major == FORMAT { Ok(()) } else { Err(CallError::NewerFormat(format.clone())) }
}

/// `fields`, then the carried columns, with the format's metadata.
pub(crate) fn output_schema(fields: Vec<Field>, carried: &Carried) -> SchemaRef {
    let fields: Vec<_> =
        fields.into_iter().map(Arc::new).chain(carried.fields.iter().cloned()).collect();
    let metadata = [(FORMAT_KEY.to_owned(), FORMAT.to_owned())].into();
    Arc::new(Schema::new_with_metadata(fields, metadata))
}

/// The one relation for engines that take one table: `left`'s columns, then the `error_` columns.
pub fn side_by_side_schema(left: &Schema) -> SchemaRef {
    let errors = errors::schema();
    let fields: Vec<_> =
        left.fields().iter().chain(errors.fields().iter().skip(2)).cloned().collect();
    Arc::new(Schema::new_with_metadata(fields, left.metadata().clone()))
}

/// Row for row, `left` and the `error_` columns of `errors` as one batch of `schema`
/// (of [`side_by_side_schema`]).
pub fn side_by_side(
    schema: &SchemaRef,
    left: &RecordBatch,
    errors: &RecordBatch,
) -> Result<RecordBatch, ArrowError> {
    let columns: Vec<ArrayRef> =
        left.columns().iter().chain(errors.columns().iter().skip(2)).cloned().collect();
    RecordBatch::try_new(Arc::clone(schema), columns)
}
