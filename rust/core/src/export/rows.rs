//! Tensors in the making, as rows of a weights relation.

use std::sync::Arc;

use arrow_array::builder::BinaryViewBuilder;
use arrow_array::{ArrayRef, Int64Array, LargeBinaryArray, RecordBatch, StringArray};
use arrow_buffer::Buffer;
use arrow_schema::ArrowError;

use crate::relation::quantized::shapes;
use crate::sink::TensorSpec;

/// Rows for a writer.
#[derive(Default)]
pub(super) struct Rows {
    names: Vec<String>,
    offsets: Vec<i64>,
    data: Vec<Buffer>,
}

impl Rows {
    pub(super) fn finish(self) -> Result<RecordBatch, ArrowError> {
        // The writer knows types and shapes from the specs; here they only say how much there is.
        let lengths: Vec<i64> = self.data.iter().map(|data| data.len() as i64).collect();
        let dtypes = vec!["U8"; self.names.len()];
        let columns: [(&str, ArrayRef); 5] = [
            ("layer_name", Arc::new(StringArray::from(self.names))),
            ("dtype", Arc::new(StringArray::from(dtypes))),
            ("shape", Arc::new(shapes(lengths.iter().map(|len| Some(std::slice::from_ref(len)))))),
            ("data", data(self.data)?),
            ("part_offset", Arc::new(Int64Array::from(self.offsets))),
        ];
        RecordBatch::try_from_iter(columns)
    }
}

/// The bytes as a column, without a copy of them: as views, unless one is longer than a view can say.
fn data(pieces: Vec<Buffer>) -> Result<ArrayRef, ArrowError> {
    if pieces.iter().any(|piece| u32::try_from(piece.len()).is_err()) {
        return Ok(Arc::new(LargeBinaryArray::from_iter_values(
            pieces.iter().map(Buffer::as_slice),
        )));
    }
    let mut column = BinaryViewBuilder::with_capacity(pieces.len());
    for piece in pieces {
        let length = piece.len() as u32;
        let block = column.append_block(piece);
        column.try_append_view(block, 0, length)?;
    }
    Ok(Arc::new(column.finish()))
}

/// Where a format writes the tensors of one matrix, which may be one of a stack.
pub struct Tensors<'a> {
    rows: &'a mut Rows,
    specs: &'a [TensorSpec],
    index: usize,
}

impl<'a> Tensors<'a> {
    pub(super) fn new(rows: &'a mut Rows, specs: &'a [TensorSpec], index: usize) -> Self {
        Self { rows, specs, index }
    }

    /// Write bytes of a tensor from element `offset` of the matrix on.
    ///
    /// # Errors
    /// The tensor was not announced.
    pub fn push(
        &mut self,
        name: &str,
        offset: usize,
        data: impl Into<Buffer>,
    ) -> Result<(), String> {
        let spec = self.specs.iter().find(|spec| spec.name == name);
        let spec = spec.ok_or_else(|| format!("tensor '{name}' was not announced"))?;
        let elements: i64 = spec.shape.iter().product();
        self.rows.names.push(name.to_owned());
        self.rows.offsets.push(self.index as i64 * elements + offset as i64);
        self.rows.data.push(data.into());
        Ok(())
    }
}
