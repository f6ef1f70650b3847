//! The bytes of each row of a column, without a copy of them.

use std::ops::Range;

use arrow_array::cast::AsArray;
use arrow_array::types::{ArrowPrimitiveType, Float16Type, Float32Type, Float64Type, UInt8Type};
use arrow_array::{Array, ArrayRef, BinaryViewArray, OffsetSizeTrait};
use arrow_buffer::{Buffer, NullBuffer};
use arrow_data::ByteView;
use arrow_schema::{ArrowError, DataType};

use super::columns::list_item;
use super::repeats::is_even;
use crate::dtype::Float;

/// So many bytes lie in a view itself.
const INLINE: usize = arrow_data::MAX_INLINE_VIEW_LEN as usize;

/// What the bytes of a column mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// Raw bytes; another column says their dtype.
    Raw,
    /// Numbers of a list's own type.
    Float(Float),
}

impl Element {
    /// What a column of `data_type` holds, if weights can be read from it.
    pub fn of(data_type: &DataType) -> Option<Self> {
        match data_type {
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView => Some(Self::Raw),
            DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => {
                match list_item(data_type)? {
                    DataType::Float64 => Some(Self::Float(Float::F64)),
                    DataType::Float32 => Some(Self::Float(Float::F32)),
                    DataType::Float16 => Some(Self::Float(Float::F16)),
                    _ => None,
                }
            }
            _ => None,
        }
    }
}

/// Where each row begins and ends, in elements.
enum Spans {
    I32(arrow_buffer::OffsetBuffer<i32>),
    I64(arrow_buffer::OffsetBuffer<i64>),
    Fixed(usize),
}

impl Spans {
    fn of<O: OffsetSizeTrait>(offsets: &arrow_buffer::OffsetBuffer<O>) -> Self {
        // The two offset types are the only ones; ScalarBuffer shares the memory.
        let buffer = offsets.inner().inner().clone();
        let count = offsets.len();
        if O::IS_LARGE {
            let values = arrow_buffer::ScalarBuffer::<i64>::new(buffer, 0, count);
            Self::I64(arrow_buffer::OffsetBuffer::new(values))
        } else {
            let values = arrow_buffer::ScalarBuffer::<i32>::new(buffer, 0, count);
            Self::I32(arrow_buffer::OffsetBuffer::new(values))
        }
    }

    fn at(&self, row: usize) -> (usize, usize) {
        match self {
            Self::I32(offsets) => (offsets[row] as usize, offsets[row + 1] as usize),
            Self::I64(offsets) => (offsets[row] as usize, offsets[row + 1] as usize),
            Self::Fixed(size) => (row * size, (row + 1) * size),
        }
    }
}

/// Either one buffer cut by offsets, or views into many.
enum Storage {
    Cut { values: Buffer, width: usize, spans: Spans, item_nulls: Option<NullBuffer> },
    Views(BinaryViewArray),
}

/// A column of byte strings or of lists of fixed-width values.
pub struct Bytes {
    nulls: Option<NullBuffer>,
    storage: Storage,
}

impl Bytes {
    /// The rows of `column`, whose type [`Element::of`] knows, or which is a list of uint8.
    ///
    /// # Errors
    /// A view reaches beyond its buffer: views that come from outside are not checked by arrow-rs.
    pub fn try_new(column: &ArrayRef) -> Result<Option<Self>, ArrowError> {
        if let DataType::BinaryView = column.data_type() {
            column.to_data().validate_full()?;
        }
        Ok(Self::new(column))
    }

    fn new(column: &ArrayRef) -> Option<Self> {
        let storage = match column.data_type() {
            DataType::Binary => {
                let array = column.as_binary::<i32>();
                cut(array.values().clone(), 1, Spans::of(array.offsets()), None)
            }
            DataType::LargeBinary => {
                let array = column.as_binary::<i64>();
                cut(array.values().clone(), 1, Spans::of(array.offsets()), None)
            }
            DataType::BinaryView => Storage::Views(column.as_binary_view().clone()),
            DataType::List(_) => {
                let array = column.as_list::<i32>();
                cut_items(array.values(), Spans::of(array.offsets()))?
            }
            DataType::LargeList(_) => {
                let array = column.as_list::<i64>();
                cut_items(array.values(), Spans::of(array.offsets()))?
            }
            DataType::FixedSizeList(_, size) => {
                let array = column.as_fixed_size_list();
                cut_items(array.values(), Spans::Fixed(usize::try_from(*size).ok()?))?
            }
            _ => return None,
        };
        Some(Self { nulls: column.logical_nulls(), storage })
    }

    /// The bytes of row `row`; `None` where it is null.
    pub fn get(&self, row: usize) -> Option<&[u8]> {
        if self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
            return None;
        }
        Some(match &self.storage {
            Storage::Cut { values, width, spans, .. } => {
                let (start, end) = spans.at(row);
                &values.as_slice()[start * width..end * width]
            }
            Storage::Views(views) => views.value(row),
        })
    }

    /// The same as a buffer that shares the column's memory.
    pub(crate) fn buffer(&self, row: usize) -> Option<Buffer> {
        let bytes = self.get(row)?;
        Some(match &self.storage {
            Storage::Cut { values, width, spans, .. } => {
                values.slice_with_length(spans.at(row).0 * width, bytes.len())
            }
            Storage::Views(_) if bytes.len() <= INLINE => Buffer::from(bytes),
            Storage::Views(views) => {
                let view = ByteView::from(views.views()[row]);
                let buffer = &views.data_buffers()[view.buffer_index as usize];
                buffer.slice_with_length(view.offset as usize, bytes.len())
            }
        })
    }

    /// Whether a row has as many bytes as the one before it and neither is null nor can have a null
    /// among its elements.
    pub fn repeats(&self, row: usize) -> bool {
        let is_null = |row| self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row));
        if is_null(row) || is_null(row - 1) {
            return false;
        }
        match &self.storage {
            Storage::Cut { spans: Spans::Fixed(_), item_nulls: None, .. } => true,
            Storage::Cut { spans, item_nulls: None, .. } => {
                let ((start, middle), (_, end)) = (spans.at(row - 1), spans.at(row));
                middle - start == end - middle
            }
            Storage::Cut { .. } => false,
            Storage::Views(views) => {
                let length = |row: usize| views.views()[row] as u32;
                length(row) == length(row - 1)
            }
        }
    }

    /// Whether these rows all have as many bytes, and nothing in the column is null.
    pub(crate) fn repeats_over(&self, rows: &Range<usize>) -> bool {
        if self.nulls.as_ref().is_some_and(|nulls| nulls.null_count() > 0) {
            return false;
        }
        match &self.storage {
            Storage::Cut { spans, item_nulls: None, .. } => match spans {
                Spans::I32(offsets) => is_even(&offsets[rows.start..=rows.end]),
                Spans::I64(offsets) => is_even(&offsets[rows.start..=rows.end]),
                Spans::Fixed(_) => true,
            },
            Storage::Cut { .. } => false,
            Storage::Views(views) => {
                let views = &views.views()[rows.clone()];
                let first = views.first().map(|view| *view as u32);
                views.iter().fold(true, |even, view| even & (Some(*view as u32) == first))
            }
        }
    }

    /// The bytes of `count` rows from `row` on, where these follow each other in one buffer; none of
    /// the rows is null.
    pub fn joined(&self, row: usize, count: usize) -> Option<&[u8]> {
        let Storage::Cut { values, width, spans, .. } = &self.storage else {
            return None;
        };
        let (start, end) = (spans.at(row).0, spans.at(row + count - 1).1);
        values.as_slice().get(start * width..end * width)
    }

    /// The first null among the elements of row `row` and how many there are.
    pub fn null_elements(&self, row: usize) -> Option<(u64, u64)> {
        let Storage::Cut { spans, item_nulls: Some(nulls), .. } = &self.storage else {
            return None;
        };
        let (start, end) = spans.at(row);
        let nulls = nulls.slice(start, end - start);
        let first = (0..nulls.len()).find(|&element| nulls.is_null(element))?;
        Some((first as u64, nulls.null_count() as u64))
    }
}

fn cut(values: Buffer, width: usize, spans: Spans, item_nulls: Option<NullBuffer>) -> Storage {
    Storage::Cut { values, width, spans, item_nulls }
}

fn cut_items(items: &ArrayRef, spans: Spans) -> Option<Storage> {
    fn buffer<T: ArrowPrimitiveType>(items: &ArrayRef) -> (Buffer, usize) {
        (items.as_primitive::<T>().values().inner().clone(), size_of::<T::Native>())
    }
    let (values, width) = match items.data_type() {
        DataType::Float64 => buffer::<Float64Type>(items),
        DataType::Float32 => buffer::<Float32Type>(items),
        DataType::Float16 => buffer::<Float16Type>(items),
        DataType::UInt8 => buffer::<UInt8Type>(items),
        _ => return None,
    };
    let nulls = items.nulls().filter(|nulls| nulls.null_count() > 0).cloned();
    Some(cut(values, width, spans, nulls))
}
