//! A batch in slices that are encoded one at a time: what that takes of memory grows with them.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, GenericListArray, LargeBinaryArray, OffsetSizeTrait};
use arrow_buffer::OffsetBuffer;
use arrow_schema::DataType;

use super::codes::PAGE;

/// The columns in slices of about a page of codes, or of a row.
pub(super) fn slices(
    codes: Option<&LargeBinaryArray>,
    columns: &[ArrayRef],
    rows: usize,
) -> Vec<Vec<ArrayRef>> {
    let mut cuts = vec![0];
    if let Some(codes) = codes {
        let pages = codes.value_offsets().windows(2).map(|ends| ends[0] as usize / PAGE);
        let ends = pages.clone().zip(pages.skip(1)).enumerate();
        cuts.extend(ends.filter(|(_, (page, next))| page != next).map(|(row, _)| row + 1));
    }
    let ends = cuts.iter().skip(1).copied().chain([rows]);
    let slice = |start: usize, end: usize| {
        let columns = columns.iter().map(|column| column.slice(start, end - start));
        columns.map(|column| without_others(&column)).collect()
    };
    cuts.iter().zip(ends).map(|(&start, end)| slice(start, end)).collect()
}

/// A slice of lists without the items of all others, which would be encoded as well.
fn without_others(array: &ArrayRef) -> ArrayRef {
    fn own<O: OffsetSizeTrait>(lists: &GenericListArray<O>) -> ArrayRef {
        let (item, offsets, values, nulls) = lists.clone().into_parts();
        let (start, end) = (offsets[0].as_usize(), offsets[lists.len()].as_usize());
        let values = values.slice(start, end - start);
        let offsets = OffsetBuffer::new(offsets.iter().map(|at| *at - offsets[0]).collect());
        Arc::new(GenericListArray::new(item, offsets, values, nulls))
    }
    match array.data_type() {
        DataType::List(_) => own::<i32>(array.as_list()),
        DataType::LargeList(_) => own::<i64>(array.as_list()),
        _ => Arc::clone(array),
    }
}
