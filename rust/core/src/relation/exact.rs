//! Numbers in the types that engines give them, as those of the contract.
//!
//! pandas makes floats of integers with a null, SQL engines decimals of sums, Delta has no unsigned
//! types. A number that is the same in our type is taken; one that would change is refused.

use std::sync::Arc;

use arrow_array::builder::PrimitiveBuilder;
use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Float32Type, Float64Type, Int64Type, UInt8Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, Int64Array, LargeListArray, PrimitiveArray, make_array};
use arrow_buffer::{BooleanBufferBuilder, NullBuffer, OffsetBuffer};
use arrow_cast::cast;
use arrow_schema::{ArrowError, DataType, Field};

use crate::error::CallError;

/// The child of any kind of list.
pub(crate) fn list_item(data_type: &DataType) -> Option<&DataType> {
    match data_type {
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _) => Some(item.data_type()),
        _ => None,
    }
}

/// Whether every value may be an integer: engines hold them in these types.
pub(crate) fn holds_integers(data_type: &DataType) -> bool {
    data_type.is_integer() || data_type.is_floating() || data_type.is_decimal()
}

/// A column of numbers as int64. An unsigned one beyond its range becomes the largest value, and a
/// NaN null: that is how pandas writes one.
///
/// # Errors
/// A number that is no int64, with the column's name and the cast to use.
pub(crate) fn int64(column: &ArrayRef, name: &'static str) -> Result<Int64Array, ArrowError> {
    if let Some(unsigned) = column.as_primitive_opt::<UInt64Type>() {
        return Ok(unsigned.unary(|value| i64::try_from(value).unwrap_or(i64::MAX)));
    }
    let found = column.data_type();
    if !found.is_floating() && !found.is_decimal() {
        return Ok(cast(column, &DataType::Int64)?.as_primitive::<Int64Type>().clone());
    }
    let whole = |value: f64| {
        // 2^63 is a float64; the largest int64 is none.
        let fits = value.fract() == 0.0 && (-(2f64.powi(63))..2f64.powi(63)).contains(&value);
        fits.then_some(value as i64)
    };
    if found.is_floating() {
        let column = cast(column, &DataType::Float64)?;
        return convert::<_, Int64Type>(
            column.as_primitive::<Float64Type>(),
            name,
            "bigint",
            |v| {
                if v.is_nan() { Some(None) } else { whole(v).map(Some) }
            },
        );
    }
    // A decimal's text ends with its fraction.
    let texts = cast(column, &DataType::LargeUtf8)?;
    let mut values = Vec::with_capacity(texts.len());
    for text in texts.as_string::<i64>() {
        let integer = |text: &str| {
            let (integer, fraction) = text.split_once('.').unwrap_or((text, ""));
            fraction.bytes().all(|digit| digit == b'0').then(|| integer.parse().ok()).flatten()
        };
        values.push(match text {
            Some(text) => Some(integer(text).ok_or_else(|| refusal(name, text, "bigint"))?),
            None => None,
        });
    }
    Ok(values.into_iter().collect())
}

/// A list column with its numbers as int64, see [`int64`].
pub(crate) fn int64_lists(
    column: &ArrayRef,
    name: &'static str,
) -> Result<LargeListArray, ArrowError> {
    lists(column, |items| Ok(Arc::new(int64(items, name)?)))
}

/// Lists of floats as lists of float32, where the numbers are the same.
pub(crate) fn float32_lists(column: &ArrayRef, name: &'static str) -> Result<ArrayRef, ArrowError> {
    if list_item(column.data_type()) != Some(&DataType::Float64) {
        return Ok(Arc::clone(column));
    }
    let narrow = |value: f64| {
        let near = value as f32;
        (f64::from(near).to_bits() == value.to_bits() || value.is_nan()).then_some(Some(near))
    };
    let items = |items: &ArrayRef| -> Result<ArrayRef, ArrowError> {
        let items = items.as_primitive::<Float64Type>();
        Ok(Arc::new(convert::<_, Float32Type>(items, name, "float[]", narrow)?))
    };
    Ok(Arc::new(lists(column, items)?))
}

/// Lists of integers as lists of uint8, where the numbers fit.
pub(crate) fn uint8_lists(column: &ArrayRef, name: &'static str) -> Result<ArrayRef, ArrowError> {
    if list_item(column.data_type()).is_none_or(|item| *item == DataType::UInt8) {
        return Ok(Arc::clone(column));
    }
    let items = |items: &ArrayRef| -> Result<ArrayRef, ArrowError> {
        let items = int64(items, name)?;
        let narrow = |value: i64| u8::try_from(value).ok().map(Some);
        Ok(Arc::new(convert::<_, UInt8Type>(&items, name, "utinyint[]", narrow)?))
    };
    Ok(Arc::new(lists(column, items)?))
}

/// Any kind of list as a large_list whose items were converted.
fn lists(
    column: &ArrayRef,
    convert: impl Fn(&ArrayRef) -> Result<ArrayRef, ArrowError>,
) -> Result<LargeListArray, ArrowError> {
    let item = list_item(column.data_type()).cloned().unwrap_or(DataType::Null);
    let large = DataType::LargeList(Arc::new(Field::new_list_field(item, true)));
    let column = cast(column, &large)?;
    let (_, offsets, items, nulls) = column.as_list::<i64>().clone().into_parts();
    // A slice's items are some of the column's; and what lies behind a null row is not looked at.
    let (start, end) = (offsets[0], offsets[offsets.len() - 1]);
    let mut items = items.slice(start as usize, (end - start) as usize);
    let offsets = OffsetBuffer::new(offsets.iter().map(|offset| offset - start).collect());
    if let Some(nulls) = nulls.as_ref().filter(|nulls| nulls.null_count() > 0) {
        items = without_hidden(&items, &offsets, nulls)?;
    }
    let items = convert(&items)?;
    let field = Arc::new(Field::new_list_field(items.data_type().clone(), true));
    LargeListArray::try_new(field, offsets, items, nulls)
}

/// The items with those of null rows null.
fn without_hidden(
    items: &ArrayRef,
    offsets: &OffsetBuffer<i64>,
    rows: &NullBuffer,
) -> Result<ArrayRef, ArrowError> {
    let mut shown = BooleanBufferBuilder::new(items.len());
    for (row, ends) in offsets.windows(2).enumerate() {
        shown.append_n((ends[1] - ends[0]) as usize, rows.is_valid(row));
    }
    let nulls = NullBuffer::union(items.nulls(), Some(&NullBuffer::new(shown.finish())));
    items.to_data().into_builder().nulls(nulls).build().map(make_array)
}

/// Each value by `convert`, which gives nothing for one that would change.
fn convert<F: ArrowPrimitiveType, T: ArrowPrimitiveType>(
    column: &PrimitiveArray<F>,
    name: &'static str,
    cast: &'static str,
    convert: impl Fn(F::Native) -> Option<Option<T::Native>>,
) -> Result<PrimitiveArray<T>, ArrowError> {
    let mut values = PrimitiveBuilder::<T>::with_capacity(column.len());
    for value in column {
        let Some(value) = value else {
            values.append_null();
            continue;
        };
        let ours = convert(value).ok_or_else(|| refusal(name, &format!("{value:?}"), cast))?;
        values.append_option(ours);
    }
    Ok(values.finish())
}

fn refusal(column: &'static str, value: &str, cast: &'static str) -> ArrowError {
    CallError::NotExact { column, value: value.to_owned(), cast }.into()
}

#[cfg(test)]
mod tests {
    use arrow_array::{Decimal128Array, Float64Array, UInt64Array};

    use super::*;

    fn read(column: impl Array + 'static) -> Result<Vec<Option<i64>>, String> {
        let read = int64(&(Arc::new(column) as ArrayRef), "group_size");
        read.map(|read| read.iter().collect()).map_err(|error| error.to_string())
    }

    #[test]
    fn whole_numbers_are_read_from_any_type() {
        let floats = Float64Array::from(vec![Some(128.0), None, Some(-1.0), Some(f64::NAN)]);
        assert_eq!(read(floats).unwrap(), [Some(128), None, Some(-1), None]);
        let decimals = Decimal128Array::from(vec![Some(12_800), None, Some(-100)]);
        let decimals = decimals.with_precision_and_scale(38, 2).unwrap();
        assert_eq!(read(decimals).unwrap(), [Some(128), None, Some(-1)]);
        assert_eq!(read(UInt64Array::from(vec![u64::MAX])).unwrap(), [Some(i64::MAX)]);
    }

    #[test]
    fn only_the_rows_that_are_there_are_looked_at() {
        let values = Float64Array::from(vec![1.5, 2.0, 3.0, 0.5, 4.0]);
        let field = Arc::new(Field::new_list_field(DataType::Float64, true));
        let nulls = NullBuffer::from(vec![true, true, false, true]);
        let offsets = OffsetBuffer::from_lengths([1, 2, 1, 1]);
        let lists = LargeListArray::new(field, offsets, Arc::new(values), Some(nulls));
        assert!(int64_lists(&(Arc::new(lists.clone()) as ArrayRef), "shape").is_err());
        let read = int64_lists(&(Arc::new(lists.slice(1, 3)) as ArrayRef), "shape").unwrap();
        assert_eq!(read.len(), 3);
        assert_eq!(read.value(0).as_primitive::<Int64Type>().values(), &[2, 3]);
        assert!(read.is_null(1));
        assert_eq!(read.value(2).as_primitive::<Int64Type>().values(), &[4]);
    }

    #[test]
    fn what_would_change_is_refused_with_the_cast() {
        for value in [0.5, 9.3e18, f64::INFINITY] {
            let why = read(Float64Array::from(vec![value])).unwrap_err();
            assert!(why.contains("'group_size'") && why.contains("bigint"), "{why}");
        }
        let half = Decimal128Array::from(vec![150]).with_precision_and_scale(10, 2).unwrap();
        assert!(read(half).unwrap_err().contains("1.50"));
        let scales = Float64Array::from(vec![0.1]);
        let offsets = arrow_buffer::OffsetBuffer::from_lengths([1]);
        let field = Arc::new(Field::new_list_field(DataType::Float64, true));
        let scales = LargeListArray::new(field, offsets, Arc::new(scales), None);
        assert!(float32_lists(&(Arc::new(scales) as ArrayRef), "scales").is_err());
    }
}
