//! Finding columns by name, checking their types, and reading the small ones.
//!
//! Shapes and options are cast to one type each. [`super::text`] reads text, and [`super::bytes`]
//! `data`, which must not be copied.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;
use arrow_array::{
    Array, ArrayRef, BooleanArray, Float64Array, Int64Array, LargeListArray, RecordBatch,
};
use arrow_cast::cast;
use arrow_schema::{ArrowError, DataType, Field, FieldRef, Schema};

pub(crate) use super::exact::list_item;
use super::exact::{self, holds_integers};
use crate::error::CallError;

/// `text` in the contract: any utf8 type, or a dictionary of one.
pub const TEXT: &str = "utf8, large_utf8, utf8_view or a dictionary of these";
/// Any type of whole numbers.
pub const INTEGER: &str = "any integer type, or floats or decimals without fractions";
/// What a `shape` column may be.
pub const SHAPE: &str = "a list of any integer type, or of floats or decimals without fractions";

fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, values) => is_text(values),
        _ => false,
    }
}

/// The columns of a schema by name, each of which may be taken once.
pub struct Finder<'a> {
    schema: &'a Schema,
    relation: &'static str,
}

impl<'a> Finder<'a> {
    /// A finder whose messages call the relation by `relation`, a plural.
    pub fn new(schema: &'a Schema, relation: &'static str) -> Self {
        Self { schema, relation }
    }

    /// Whether the schema's metadata has that key.
    pub(crate) fn has_metadata(&self, key: &str) -> bool {
        self.schema.metadata().contains_key(key)
    }

    fn optional(
        &self,
        column: &'static str,
        expected: &'static str,
        fits: impl Fn(&DataType) -> bool,
    ) -> Result<Option<usize>, CallError> {
        let Ok(index) = self.schema.index_of(column) else {
            return Ok(None);
        };
        let found = self.schema.field(index).data_type();
        // A column of nothing but nulls often has lost its type on the way (pandas, SQL literals).
        if fits(found) || *found == DataType::Null {
            return Ok(Some(index));
        }
        let (column, found) = (column.to_owned(), found.to_string());
        Err(CallError::WrongType { column, expected, found, hint: "" })
    }

    /// A text column, if it is there.
    pub fn text(&self, column: &'static str) -> Result<Option<usize>, CallError> {
        self.optional(column, TEXT, is_text)
    }

    /// A column of whole numbers, if it is there.
    pub fn integer(&self, column: &'static str) -> Result<Option<usize>, CallError> {
        self.optional(column, INTEGER, holds_integers)
    }

    /// A column of numbers, if it is there.
    pub fn number(&self, column: &'static str) -> Result<Option<usize>, CallError> {
        self.optional(column, "any numeric type", DataType::is_numeric)
    }

    /// A column of lists of floats, if it is there.
    pub fn floats(&self, column: &'static str) -> Result<Option<usize>, CallError> {
        self.optional(column, "a list of any floating-point type", |found| {
            list_item(found).is_some_and(|item| item.is_floating() || *item == DataType::Null)
        })
    }

    /// A boolean column, if it is there.
    pub fn boolean(&self, column: &'static str) -> Result<Option<usize>, CallError> {
        self.optional(column, "boolean", |found| *found == DataType::Boolean)
    }

    /// A column of lists of integers, if it is there.
    pub fn shape(&self, column: &'static str) -> Result<Option<usize>, CallError> {
        self.optional(column, SHAPE, |found| {
            list_item(found).is_some_and(|item| holds_integers(item) || *item == DataType::Null)
        })
    }

    /// A column that must be there.
    pub fn required(
        &self,
        column: &'static str,
        expected: &'static str,
        index: Option<usize>,
    ) -> Result<usize, CallError> {
        index.ok_or_else(|| CallError::MissingColumn {
            relation: self.relation,
            column,
            expected,
            found: quoted_names(self.schema),
            hint: self.elsewhere(column),
        })
    }

    /// What to say of a column that is there and called as other tools call this one.
    fn elsewhere(&self, column: &str) -> String {
        let known = ELSEWHERE.iter().find(|(ours, _)| *ours == column);
        let theirs = known.map_or(&[] as &[&str], |(_, theirs)| theirs);
        let names = self.schema.fields().iter().map(|field| field.name().as_str());
        let mut found = names.filter(|name| theirs.contains(&name.to_lowercase().as_str()));
        found.next().map_or(String::new(), |name| format!(" Rename '{name}' to '{column}'."))
    }
}

/// Our columns, and what other tools call them.
const ELSEWHERE: [(&str, &[&str]); 4] = [
    (
        "layer_name",
        &["layer", "name", "tensor", "tensor_name", "weight_name", "pattern", "module", "key"],
    ),
    ("data", &["weights", "weight", "values", "value", "tensor", "embedding", "vector", "array"]),
    ("shape", &["dims", "dimensions", "size"]),
    ("dtype", &["type", "data_type", "kind"]),
];

fn quoted_names(schema: &Schema) -> String {
    let names: Vec<_> = schema.fields().iter().map(|field| format!("'{}'", field.name())).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// Columns that go through untouched.
#[derive(Clone, Debug, Default)]
pub struct Carried {
    /// Their fields.
    pub fields: Vec<FieldRef>,
    /// Their places in the input.
    pub indices: Vec<usize>,
}

impl Carried {
    /// All columns of `schema` but those named in `consumed`.
    ///
    /// # Errors
    /// A carried name that equals, without case, another of the input or one of `reserved`.
    pub fn try_new(
        schema: &Schema,
        consumed: &[&str],
        reserved: &[&str],
    ) -> Result<Self, CallError> {
        let mut carried = Self::default();
        let mut seen: HashMap<String, &str> = HashMap::new();
        for (index, field) in schema.fields().iter().enumerate() {
            let name = field.name().as_str();
            if let Some(other) = seen.insert(name.to_lowercase(), name) {
                return Err(CallError::DuplicateColumn(other.to_owned(), name.to_owned()));
            }
            if consumed.contains(&name) {
                continue;
            }
            if reserved.iter().any(|known| known.eq_ignore_ascii_case(name)) {
                return Err(CallError::ReservedColumn(name.to_owned()));
            }
            carried.fields.push(Arc::clone(field));
            carried.indices.push(index);
        }
        Ok(carried)
    }
}

/// A column of whole numbers as int64; what is unsigned and beyond its range becomes the largest.
///
/// # Errors
/// A fraction, or a float or decimal beyond int64's range.
pub fn integer(column: &ArrayRef, name: &'static str) -> Result<Int64Array, ArrowError> {
    exact::int64(column, name)
}

/// A column of numbers as float64.
pub fn number(column: &ArrayRef) -> Result<Float64Array, ArrowError> {
    Ok(cast(column, &DataType::Float64)?.as_primitive::<Float64Type>().clone())
}

/// A boolean column.
pub fn boolean(column: &ArrayRef) -> Result<BooleanArray, ArrowError> {
    Ok(cast(column, &DataType::Boolean)?.as_boolean().clone())
}

/// A column of weights that are to be written, which must be there.
///
/// # Errors
/// It is not.
pub(crate) fn written<'a>(
    batch: &'a RecordBatch,
    name: &'static str,
) -> Result<&'a ArrayRef, CallError> {
    batch.column_by_name(name).ok_or_else(|| CallError::MissingColumn {
        relation: "Weights",
        column: name,
        expected: "text and binary",
        found: format!("{:?}", batch.schema().fields()),
        hint: String::new(),
    })
}

/// The type of the `shape` column.
pub fn shape_type() -> DataType {
    DataType::LargeList(Arc::new(Field::new_list_field(DataType::Int64, true)))
}

/// Row `row` of an integer column.
pub fn integer_at(column: Option<&Int64Array>, row: usize) -> Option<i64> {
    column.filter(|values| values.is_valid(row)).map(|values| values.value(row))
}

/// Row `row` of a boolean column.
pub fn boolean_at(column: Option<&BooleanArray>, row: usize) -> Option<bool> {
    column.filter(|values| values.is_valid(row)).map(|values| values.value(row))
}

/// Lists of floats as lists of float32.
pub(crate) fn float32_lists(column: &ArrayRef) -> Result<LargeListArray, ArrowError> {
    let item = Arc::new(Field::new_list_field(DataType::Float32, true));
    Ok(cast(column, &DataType::LargeList(item))?.as_list::<i64>().clone())
}
