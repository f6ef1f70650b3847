//! The column `packed`: rows whose `data` are codes, and with which parameters.

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch};
use arrow_buffer::NullBuffer;
use arrow_schema::{ArrowError, DataType, Schema};

use super::columns::Finder;
use super::quantized::read::{EncodingColumns, Encodings, Sound};
use crate::error::{CallError, RowError};
use crate::scheme::Bound;

/// The column's name.
pub(crate) const PACKED: &str = "packed";
const STRUCT: &str = "a struct of scheme, group_size, is_symmetric, scales, zero_points and others";

/// Where the column is, and what it has.
#[derive(Clone, Debug)]
pub(crate) struct PackedColumn {
    index: usize,
    encodings: EncodingColumns,
}

impl PackedColumn {
    /// The column, if it is there.
    pub(crate) fn find(schema: &Schema) -> Result<Option<Self>, CallError> {
        let Ok(index) = schema.index_of(PACKED) else {
            return Ok(None);
        };
        match schema.field(index).data_type() {
            DataType::Null => Ok(None),
            DataType::Struct(fields) => {
                let fields = Schema::new(fields.clone());
                let finder = Finder::new(&fields, "Structs 'packed'");
                Ok(Some(Self { index, encodings: EncodingColumns::find(&fields, &finder)? }))
            }
            found => {
                let (column, found) = (PACKED.to_owned(), found.to_string());
                Err(CallError::WrongType { column, expected: STRUCT, found, hint: "" })
            }
        }
    }

    pub(crate) fn bind(&self, batch: &RecordBatch) -> Result<Packed, ArrowError> {
        let column = batch.column(self.index).as_struct();
        let encodings = self.encodings.bind(column.columns())?;
        Ok(Packed { nulls: column.nulls().cloned(), encodings })
    }
}

/// The column itself.
pub(crate) struct Packed {
    nulls: Option<NullBuffer>,
    encodings: Encodings,
}

impl Packed {
    /// How a row's codes are to be read; nothing where its data are numbers.
    pub(crate) fn get(&self, row: usize) -> Option<&Encodings> {
        let is_valid = self.nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row));
        is_valid.then_some(&self.encodings)
    }

    /// Whether a row's codes and parameters make a matrix of that shape.
    pub(crate) fn check(
        &self,
        row: usize,
        data: &[u8],
        dtype: Option<&str>,
        shape: &[i64],
    ) -> Option<Result<Bound, RowError>> {
        let checked = self.get(row)?.check(row, data, dtype, Ok(shape));
        Some(match checked {
            Ok(Sound::Encoded { bound, .. }) => Ok(bound),
            Ok(Sound::Kept) => {
                Err(super::quantized::read::invalid("packed says that its scheme is 'none'"))
            }
            Err(error) => Err(error),
        })
    }
}
