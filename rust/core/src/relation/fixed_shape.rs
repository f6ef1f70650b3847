//! The canonical extension type of tensors that all have one shape.
//!
//! Source: <https://arrow.apache.org/docs/format/CanonicalExtensions.html#fixed-shape-tensor>.

use std::sync::Arc;

use arrow_schema::Field;

use crate::error::CallError;

const NAME: &str = "arrow.fixed_shape_tensor";

/// The shape of each value of a column of that type; `None` for a column of another type.
///
/// # Errors
/// The type's metadata is damaged, or its values are not in row-major order.
pub(crate) fn of(field: &Field) -> Result<Option<Arc<[i64]>>, CallError> {
    let metadata = field.metadata();
    if metadata.get("ARROW:extension:name").map(String::as_str) != Some(NAME) {
        return Ok(None);
    }
    let wrong = |hint| CallError::WrongType {
        column: field.name().clone(),
        expected: "arrow.fixed_shape_tensor in row-major order, with its shape",
        found: field.data_type().to_string(),
        hint,
    };
    let text = metadata.get("ARROW:extension:metadata").map_or("{}", String::as_str);
    let parsed: Option<serde_json::Value> = serde_json::from_str(text).ok();
    let list = |key: &str| -> Option<Vec<i64>> {
        parsed.as_ref()?.get(key)?.as_array()?.iter().map(serde_json::Value::as_i64).collect()
    };
    let shape = list("shape").ok_or_else(|| wrong(" Its metadata has no shape."))?;
    let permutation = list("permutation");
    if permutation.is_some_and(|order| !order.iter().copied().eq(0..shape.len() as i64)) {
        let hint = " Its dimensions are permuted: make the arrays contiguous (numpy.ascontiguousarray), \
                    and build the column again.";
        return Err(wrong(hint));
    }
    Ok(Some(shape.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_schema::DataType;

    fn field(metadata: &str) -> Field {
        let item = Arc::new(Field::new_list_field(DataType::Float32, true));
        let pairs = [("ARROW:extension:name", NAME), ("ARROW:extension:metadata", metadata)];
        let pairs = pairs.map(|(key, value)| (key.to_owned(), value.to_owned()));
        Field::new("data", DataType::FixedSizeList(item, 6), true).with_metadata(pairs.into())
    }

    #[test]
    fn the_shape_is_that_of_the_metadata() {
        let shape = |metadata| of(&field(metadata)).map(|shape| shape.map(|s| s.to_vec()));
        assert_eq!(shape(r#"{"shape": [2, 3]}"#).unwrap(), Some(vec![2, 3]));
        let in_order = r#"{"shape": [2, 3], "permutation": [0, 1]}"#;
        assert_eq!(shape(in_order).unwrap(), Some(vec![2, 3]));
        for wrong in
            ["", "{}", r#"{"shape": ["a"]}"#, r#"{"shape": [2, 3], "permutation": [1, 0]}"#]
        {
            assert!(shape(wrong).is_err(), "{wrong}");
        }
        assert_eq!(of(&Field::new("data", DataType::Binary, true)).unwrap(), None);
    }
}
