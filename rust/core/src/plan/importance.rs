//! How much the columns of layers matter, as a table says: `layer_name, importance`.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Float32Type;
use arrow_array::{Array, RecordBatch};

use crate::error::{CallError, Error};
use crate::relation::columns::{self, Finder};
use crate::relation::text::Text;

/// A number for each column of a layer, by layer.
pub type Importance = Arc<HashMap<String, Vec<f32>>>;

/// Read a table; layers whose list is null are left out.
///
/// # Errors
/// A column is missing or of another type, or a layer is named twice.
pub fn read(batches: &[RecordBatch]) -> Result<Importance, Error> {
    let mut found = HashMap::new();
    for batch in batches {
        let schema = batch.schema();
        let finder = Finder::new(&schema, "Tables of importance");
        let name = finder.required("layer_name", columns::TEXT, finder.text("layer_name")?)?;
        let expected = "a list of any floating-point type";
        let lists = finder.required("importance", expected, finder.floats("importance")?)?;
        let names = Text::try_new(batch.column(name))?;
        let lists = columns::float32_lists(batch.column(lists))?;
        for row in (0..batch.num_rows()).filter(|&row| lists.is_valid(row)) {
            let name = names.get(row).unwrap_or_default().to_owned();
            let list = lists.value(row);
            let numbers = list.as_primitive::<Float32Type>();
            // What is null is no number, which the layer's row is told.
            let numbers = numbers.iter().map(|number| number.unwrap_or(f32::NAN)).collect();
            if found.contains_key(&name) {
                return Err(CallError::DuplicateLayer(name, "tables of importance").into());
            }
            found.insert(name, numbers);
        }
    }
    Ok(Arc::new(found))
}
