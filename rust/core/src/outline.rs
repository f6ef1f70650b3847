//! What a batch says of its layers, without their data.

use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef};

use crate::error::Error;
use crate::relation::columns::shape_type;
use crate::relation::quantized::shapes;
use crate::relation::weights::WeightsSchema;

const TOLD: [&str; 3] = ["data", "dtype", "shape"];

/// `schema` without `data`, and with the columns `dtype` and `shape`.
pub fn schema(schema: &Schema) -> SchemaRef {
    let others = schema.fields().iter().filter(|field| !TOLD.contains(&field.name().as_str()));
    let mut fields: Vec<_> = others.cloned().collect();
    fields.push(Arc::new(Field::new("dtype", DataType::Utf8, true)));
    fields.push(Arc::new(Field::new("shape", shape_type(), true)));
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

/// The batch likewise: where its columns don't say a layer's dtype or shape, its data do.
///
/// # Errors
/// The batch can't be read as weights.
pub fn of(batch: &RecordBatch) -> Result<RecordBatch, Error> {
    let given = batch.schema();
    let weights = WeightsSchema::try_new(&given)?.bind(batch)?;
    let described: Vec<_> = (0..weights.len).map(|row| weights.described(row).0).collect();
    let others = given.fields().iter().zip(batch.columns());
    let others = others.filter(|(field, _)| !TOLD.contains(&field.name().as_str()));
    let mut columns: Vec<ArrayRef> = others.map(|(_, column)| Arc::clone(column)).collect();
    let dtypes = described.iter().map(|described| described.dtype);
    columns.push(Arc::new(dtypes.collect::<StringArray>()));
    columns.push(Arc::new(shapes(described.iter().map(|described| described.shape.as_deref()))));
    Ok(RecordBatch::try_new(schema(&given), columns)?)
}
