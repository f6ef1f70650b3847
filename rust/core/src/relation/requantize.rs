//! A quantized relation as weights: its codes and parameters become the column `packed`.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch, StructArray};
use arrow_buffer::NullBuffer;
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};

use super::check_format;
use super::packed::PACKED;
use super::text::Text;
use crate::error::CallError;
use crate::scheme;

/// The columns that say how a row is packed.
const ENCODING: [&str; 10] = [
    "scheme",
    "group_size",
    "group_rows",
    "is_symmetric",
    "scale_dtype",
    "signed_scales",
    "scales",
    "zero_points",
    "biases",
    "tensor_scale",
];

/// The columns that are of the run that wrote the relation, and hold no longer.
const DROPPED: [&str; 7] =
    ["row_index", "search", "bits_per_weight", "mse", "max_abs_error", "snr_db", "scale_spread"];

/// Makes weights of the batches of a quantized relation.
#[derive(Clone, Debug)]
pub struct Requantized {
    schema: SchemaRef,
    /// Of the columns that stay, where they are.
    others: Vec<usize>,
    encoding: Vec<usize>,
    fields: arrow_schema::Fields,
    scheme: usize,
}

impl Requantized {
    /// For a stream of that schema.
    ///
    /// # Errors
    /// It is of another format.
    pub fn try_new(schema: &Schema) -> Result<Self, CallError> {
        check_format(schema)?;
        let at = |name: &str| schema.index_of(name).ok();
        let encoding: Vec<usize> = ENCODING.iter().filter_map(|name| at(name)).collect();
        let fields: arrow_schema::Fields =
            encoding.iter().map(|&index| Arc::clone(&schema.fields()[index])).collect();
        let own = |name: &str| ENCODING.contains(&name) || DROPPED.contains(&name);
        let others: Vec<usize> =
            (0..schema.fields().len()).filter(|&index| !own(schema.field(index).name())).collect();
        let mut all: Vec<_> =
            others.iter().map(|&index| Arc::clone(&schema.fields()[index])).collect();
        all.push(Arc::new(Field::new(PACKED, DataType::Struct(fields.clone()), true)));
        let scheme = at("scheme").ok_or(CallError::AlreadyQuantized)?;
        Ok(Self { schema: Arc::new(Schema::new(all)), others, encoding, fields, scheme })
    }

    /// Whether a schema is that of a quantized relation.
    pub fn is_quantized(schema: &Schema) -> bool {
        ["scheme", "scales", "zero_points", "snr_db"]
            .iter()
            .all(|name| schema.index_of(name).is_ok())
    }

    /// The weights' schema.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// A batch's rows as weights: kept ones are numbers, as they were.
    ///
    /// # Errors
    /// The schemes can't be read.
    pub fn batch(&self, batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        let schemes = Text::try_new(batch.column(self.scheme))?;
        let packed = |row: usize| schemes.get(row).is_some_and(|name| name != scheme::NONE);
        let valid: NullBuffer = (0..batch.num_rows()).map(packed).collect();
        let columns = self.encoding.iter().map(|&index| Arc::clone(batch.column(index))).collect();
        let packed: ArrayRef =
            Arc::new(StructArray::try_new(self.fields.clone(), columns, Some(valid))?);
        let mut all: Vec<ArrayRef> =
            self.others.iter().map(|&index| Arc::clone(batch.column(index))).collect();
        all.push(packed);
        debug_assert!(all.iter().all(|column| column.len() == batch.num_rows()));
        RecordBatch::try_new(Arc::clone(&self.schema), all)
    }
}
