//! The relations: which columns come in, which go out, and how a row is read or written.

pub mod bytes;
pub mod columns;
pub(crate) mod described;
pub mod errors;
pub(crate) mod exact;
pub mod failed;
pub(crate) mod fixed_shape;
pub mod gather;
pub(crate) mod packed;
pub mod quantized;
mod repeats;
pub mod requantize;
pub(crate) mod settings;
pub mod shapes;
pub(crate) mod text;
pub mod weights;

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow_buffer::BooleanBuffer;
use arrow_schema::{ArrowError, Field, Schema, SchemaRef};
use arrow_select::filter::filter_record_batch;

use crate::error::{CallError, Error};
use columns::Carried;

/// Schema metadata key under which the format's version stands.
pub const FORMAT_KEY: &str = "arrowquant.format";
/// The format that this version writes, and the newest major that it reads.
pub const FORMAT: &str = "2";

/// Refuse a relation of another major format.
pub fn check_format(schema: &Schema) -> Result<(), CallError> {
    let Some(format) = schema.metadata().get(FORMAT_KEY) else {
        return Ok(());
    };
    let major = format.split('.').next().unwrap_or(format);
    match (major.parse::<u32>(), FORMAT.parse::<u32>()) {
        (Ok(found), Ok(own)) if found == own => Ok(()),
        (Ok(found), Ok(own)) if found < own => Err(CallError::OlderFormat(format.clone())),
        _ => Err(CallError::NewerFormat(format.clone())),
    }
}

/// `fields`, then the carried columns, with the format's metadata.
pub(crate) fn output_schema(fields: Vec<Field>, carried: &Carried) -> SchemaRef {
    let fields: Vec<_> =
        fields.into_iter().map(Arc::new).chain(carried.fields.iter().cloned()).collect();
    let metadata = [(FORMAT_KEY.to_owned(), FORMAT.to_owned())].into();
    Arc::new(Schema::new_with_metadata(fields, metadata))
}

/// The rows of `batch` whose `error_code`, in the batch `errors` beside it, is null; or, with
/// `failed`, the others. Without a copy where these are all.
///
/// # Errors
/// There is no such column, or Arrow can't filter.
pub fn select(
    batch: &RecordBatch,
    errors: &RecordBatch,
    failed: bool,
) -> Result<RecordBatch, Error> {
    let codes = errors.column_by_name("error_code").ok_or_else(|| CallError::MissingColumn {
        relation: "Results",
        column: "error_code",
        expected: columns::TEXT,
        found: "none such".to_owned(),
        hint: String::new(),
    })?;
    let good = match codes.logical_nulls() {
        Some(nulls) => !nulls.inner(),
        None => BooleanBuffer::new_unset(codes.len()),
    };
    let wanted = BooleanArray::new(if failed { !&good } else { good }, None);
    if wanted.true_count() == batch.num_rows() {
        return Ok(batch.clone());
    }
    Ok(filter_record_batch(batch, &wanted)?)
}

/// The rows of a batch that are wanted, whatever the types of its columns.
///
/// # Errors
/// `wanted` is not as long as the batch, or Arrow can't filter.
pub fn rows_where(batch: &RecordBatch, wanted: Vec<bool>) -> Result<RecordBatch, Error> {
    Ok(filter_record_batch(batch, &BooleanArray::from(wanted))?)
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
