//! Many tiny batches put together: each one costs as much as some thousand weights do.

use arrow_array::cast::AsArray;
use arrow_array::types::{BinaryViewType, ByteViewType, StringViewType};
use arrow_array::{Array, ArrayRef, RecordBatch, RecordBatchReader};
use arrow_schema::{ArrowError, DataType, SchemaRef};
use arrow_select::concat::concat_batches;

/// A batch of so many bytes is handed on as it came.
const SMALL: usize = 1 << 16;
/// Smaller ones are put together to about so many bytes.
const ENOUGH: usize = 1 << 20;
/// And never more of them: a source may go on for ever without any bytes.
const MOST: usize = 1 << 8;
/// One more for so many that were handed on: a short stream comes as it is, batch by batch.
const RAMP: usize = 1 << 2;

/// A stream whose tiny batches come together, in order, the more the longer it is. Which ones depends
/// on their sizes alone.
pub struct Gathered<R> {
    source: R,
    handed_on: usize,
    /// What is handed on next: a large batch, or an error, that ended a gathering.
    next: Option<Result<RecordBatch, ArrowError>>,
}

impl<R: RecordBatchReader> Gathered<R> {
    /// The batches of `source`.
    pub fn new(source: R) -> Self {
        Self { source, handed_on: 0, next: None }
    }

    fn pull(&mut self) -> Option<Result<RecordBatch, ArrowError>> {
        self.next.take().or_else(|| self.source.next())
    }
}

impl<R: RecordBatchReader> Iterator for Gathered<R> {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (mut batches, mut bytes) = (Vec::new(), 0);
        let most = (self.handed_on / RAMP).clamp(1, MOST);
        self.handed_on += 1;
        while bytes < ENOUGH && batches.len() < most {
            match self.pull() {
                Some(Ok(batch)) if size(&batch) < SMALL => {
                    bytes += size(&batch);
                    batches.push(batch);
                }
                None => break,
                large if batches.is_empty() => return large,
                large => {
                    self.next = large;
                    break;
                }
            }
        }
        match batches.len() {
            0 => None,
            1 => batches.pop().map(Ok),
            _ => Some(concat_batches(&self.source.schema(), &batches)),
        }
    }
}

impl<R: RecordBatchReader> RecordBatchReader for Gathered<R> {
    fn schema(&self) -> SchemaRef {
        self.source.schema()
    }
}

/// Bytes of a batch's rows; as many as there can be where its types don't tell, or can't be put
/// together.
fn size(batch: &RecordBatch) -> usize {
    batch.columns().iter().fold(0, |sum, column| sum.saturating_add(column_size(column)))
}

fn column_size(column: &ArrayRef) -> usize {
    fn views<T: ByteViewType>(column: &ArrayRef) -> usize {
        // A view's low half is its length.
        column.as_byte_view::<T>().views().iter().map(|view| *view as u32 as usize).sum()
    }
    match column.data_type() {
        DataType::BinaryView => views::<BinaryViewType>(column),
        DataType::Utf8View => views::<StringViewType>(column),
        other if !is_plain(other) => usize::MAX,
        _ => column.to_data().get_slice_memory_size().unwrap_or(usize::MAX),
    }
}

/// Whether columns of that type can always be put together, and tell their bytes. Dictionaries of
/// many batches may have more values than their keys count.
fn is_plain(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(of) | DataType::LargeList(of) | DataType::FixedSizeList(of, _) => {
            is_plain(of.data_type())
        }
        DataType::Struct(fields) => fields.iter().all(|field| is_plain(field.data_type())),
        DataType::Map(entries, _) => is_plain(entries.data_type()),
        DataType::Union(..)
        | DataType::RunEndEncoded(..)
        | DataType::Dictionary(..)
        | DataType::ListView(_)
        | DataType::LargeListView(_)
        | DataType::BinaryView
        | DataType::Utf8View => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{Int64Array, RecordBatchIterator};
    use arrow_schema::{Field, Schema};

    use super::*;

    fn gathered(sizes: &[usize]) -> Vec<usize> {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]));
        let mut first = 0;
        let batches: Vec<_> = sizes
            .iter()
            .map(|&rows| {
                let column = Int64Array::from_iter_values(first..first + rows as i64);
                first += rows as i64;
                RecordBatch::try_new(schema.clone(), vec![Arc::new(column)])
            })
            .collect();
        let gathered = Gathered::new(RecordBatchIterator::new(batches, schema));
        let batches: Vec<_> = gathered.map(Result::unwrap).collect();
        let values = batches
            .iter()
            .flat_map(|b| b["n"].as_primitive::<arrow_array::types::Int64Type>().values().to_vec());
        assert!(values.eq(0..first));
        batches.iter().map(RecordBatch::num_rows).collect()
    }

    #[test]
    fn tiny_batches_come_together_and_large_ones_as_they_are() {
        assert_eq!(gathered(&[]), [] as [usize; 0]);
        assert_eq!(gathered(&[3]), [3]);
        assert_eq!(gathered(&[1; 8]), [1; 8]);
        assert_eq!(gathered(&[1; 11])[8..], [2, 1]);
        let sizes = [&[1; 8][..], &[2, 10_000, 20_000, 4, 5, 6]].concat();
        assert_eq!(gathered(&sizes)[8..], [2, 10_000, 20_000, 9, 6]);
        let many = gathered(&[1; 200_000]);
        assert!(many.len() < 2_000 && many.contains(&MOST) && many.iter().all(|&n| n <= MOST));
        assert!(gathered(&[8_000; 2_000]).iter().all(|&rows| rows * 8 < ENOUGH + SMALL));
    }
}
