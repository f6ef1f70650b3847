//! What a row says of its tensor, and how messages call it.

use std::ops::Deref;

use crate::dtype;
use crate::error::RowError;

/// What a row says of its tensor, as far as it can be read.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Described<'a> {
    pub(crate) dtype: Option<&'a str>,
    pub(crate) shape: Option<Shape<'a>>,
}

/// A tensor's dimensions.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape<'a> {
    /// As a shape column has them.
    Given(&'a [i64]),
    /// One dimension, where there is no such column.
    Flat([i64; 1]),
}

impl Deref for Shape<'_> {
    type Target = [i64];
    fn deref(&self) -> &[i64] {
        match self {
            Self::Given(shape) => shape,
            Self::Flat(count) => count,
        }
    }
}

impl PartialEq for Shape<'_> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

/// The number of elements of `shape`, which must fill `found` bytes of `dtype` exactly. Of a dtype
/// that nobody knows, only the shape itself is checked.
pub(crate) fn check_shape(shape: &[i64], dtype: &str, found: usize) -> Result<usize, RowError> {
    let count = element_product(shape)?;
    let Some(block) = dtype::block(dtype) else {
        return Ok(count);
    };
    let (expected, found) = (count as u64, found as u64);
    let partial = || RowError::PartialElement { dtype: dtype.to_owned(), block, found };
    if !expected.is_multiple_of(block.elements) {
        return Err(partial());
    }
    let overflow = || RowError::InvalidShape(format!("{shape:?} overflows"));
    let bytes = block.bytes_of(expected).ok_or_else(overflow)?;
    if bytes != found {
        let found = block.elements_of(found).ok_or_else(partial)?;
        return Err(RowError::ShapeMismatch { shape: shape.to_vec(), expected, found });
    }
    Ok(count)
}

/// The number of elements of `shape`; 1 for a zero-dimensional one.
pub(crate) fn element_product(shape: &[i64]) -> Result<usize, RowError> {
    if let Some(negative) = shape.iter().find(|&&dimension| dimension < 0) {
        return Err(RowError::InvalidShape(format!("{shape:?} has the dimension {negative}")));
    }
    // A zero among the dimensions must not hide an overflow of the others.
    let mut nonzero = shape.iter().filter(|&&dimension| dimension != 0);
    let product = nonzero
        .try_fold(1usize, |product, &dimension| {
            product.checked_mul(usize::try_from(dimension).ok()?)
        })
        .filter(|&product| i64::try_from(product).is_ok())
        .ok_or_else(|| RowError::InvalidShape(format!("{shape:?} overflows")))?;
    Ok(if shape.contains(&0) { 0 } else { product })
}

/// Where element `index` is in a tensor of that shape; `None` where that says no more, or lies.
fn coordinates(shape: &[i64], index: i64) -> Option<Vec<i64>> {
    if shape.len() < 2 || index < 0 {
        return None;
    }
    let mut rest = index;
    let mut place = Vec::with_capacity(shape.len());
    for &dimension in shape.iter().rev() {
        place.push(rest.checked_rem(dimension).filter(|&at| at >= 0)?);
        rest /= dimension;
    }
    place.reverse();
    (rest == 0).then_some(place)
}

/// `layer 'a.b' (BF16 [2, 3], file.safetensors): ` and the reason. Elements are counted in the layer,
/// whose shape is `layer_shape` where the row is a part of it.
pub(crate) fn message(
    name: Option<&str>,
    described: &Described<'_>,
    layer_shape: Option<&[i64]>,
    source_file: Option<&str>,
    error: &RowError,
) -> String {
    if error.is_earlier() {
        return error.to_string();
    }
    let name = name.map_or_else(|| "without a name".to_owned(), |name| format!("'{name}'"));
    let shape = described.shape.as_deref().map(|shape| format!("{shape:?}"));
    let tensor: Vec<_> = described.dtype.map(str::to_owned).into_iter().chain(shape).collect();
    let tensor = tensor.join(" ");
    let details: Vec<_> = [tensor.as_str(), source_file.unwrap_or("")]
        .into_iter()
        .filter(|s| !s.is_empty())
        .collect();
    let element = error.position().0;
    let place = layer_shape
        .or(described.shape.as_deref())
        .zip(element)
        .and_then(|(shape, index)| coordinates(shape, index))
        .map_or(String::new(), |place| format!(" The first is at {place:?}."));
    if details.is_empty() {
        format!("layer {name}: {error}{place}")
    } else {
        format!("layer {name} ({}): {error}{place}", details.join(", "))
    }
}
