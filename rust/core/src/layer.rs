//! One row of the weights relation, checked as far as it can be without its values.

use std::ops::Deref;

use crate::dtype::{self, Float, ScaleDtype};
use crate::error::RowError;
use crate::kernel::tile::Grouping;
use crate::options::{Asked, Options};
use crate::relation::bytes::Element;
use crate::relation::weights::{Part, Weights};
use crate::scheme::{self, Choice, RowLayout, Scheme};

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

impl<'a> Described<'a> {
    /// Row `row`'s dtype and shape; without a shape column the shape is the number of elements.
    pub(crate) fn read(weights: &'a Weights, row: usize) -> (Self, Result<(), RowError>) {
        let dtype = match weights.element {
            Some(Element::Float(float)) => Some(float.name()),
            _ => weights.dtype(row),
        };
        match weights.shape(row) {
            Some(Ok(shape)) => (Self { dtype, shape: Some(Shape::Given(shape)) }, Ok(())),
            Some(Err(error)) => (Self { dtype, shape: None }, Err(error)),
            None => {
                let count = element_count(weights.bytes(row), dtype);
                (Self { dtype, shape: count.map(|count| Shape::Flat([count])) }, Ok(()))
            }
        }
    }
}

fn element_count(bytes: Option<&[u8]>, dtype: Option<&str>) -> Option<i64> {
    let (bytes, block) = (bytes?.len() as u64, dtype::block(dtype?)?);
    i64::try_from((bytes / block.bytes).checked_mul(block.elements)?).ok()
}

/// A row that can be encoded or kept.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Layer {
    /// Its bytes come out as they are.
    Keep,
    /// It goes through a kernel.
    Encode(Job),
}

/// How a layer is encoded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    pub(crate) scheme: &'static dyn Scheme,
    pub(crate) source: Float,
    pub(crate) grouping: Grouping,
    /// Rows of the tensor.
    pub(crate) rows: usize,
}

impl Layer {
    pub(crate) fn job(&self) -> Option<&Job> {
        match self {
            Self::Keep => None,
            Self::Encode(job) => Some(job),
        }
    }

    /// Whether the same is done with both.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Keep, Self::Keep) => true,
            (Self::Encode(job), Self::Encode(other)) => job.is_like(other),
            _ => false,
        }
    }

    /// The scheme's name.
    pub(crate) fn scheme(&self) -> &'static str {
        self.job().map_or(scheme::NONE, |job| job.scheme.name())
    }
}

impl Job {
    /// Whether both do the same to tensors of the same shape.
    fn is_like(&self, other: &Self) -> bool {
        std::ptr::addr_eq(self.scheme, other.scheme)
            && (self.source, self.rows, self.grouping) == (other.source, other.rows, other.grouping)
    }

    pub(crate) fn elements(&self) -> usize {
        self.rows * self.grouping.columns
    }

    /// How long a row of the tensor is, encoded.
    pub(crate) fn row_layout(&self) -> RowLayout {
        self.scheme.row_layout(&self.grouping)
    }

    /// The scales' dtype, where the scheme has a column of scales.
    pub(crate) fn scale_dtype(&self) -> Option<&'static str> {
        let has_scales = self.row_layout().scales > 0;
        has_scales.then_some(self.grouping.scale_dtype.name())
    }

    /// Bits of codes, scales at their dtype's width and zero points at the codes' width; `None`
    /// where a shape, which may come from outside, makes that overflow.
    pub(crate) fn bits(&self) -> Option<u64> {
        let layout = self.row_layout();
        let parts = [
            (layout.data, 8),
            (layout.scales, self.grouping.scale_dtype.bits()),
            (layout.zero_points, self.scheme.code_bits()),
        ];
        let row = parts.into_iter().try_fold(0u64, |sum, (count, bits)| {
            sum.checked_add((count as u64).checked_mul(bits)?)
        });
        row?.checked_mul(self.rows as u64)
    }
}

/// Check everything about row `row` that can be known without its values.
pub(crate) fn check(
    weights: &Weights,
    row: usize,
    described: &(Described<'_>, Result<(), RowError>),
    asked: &Asked,
    options: &Options,
) -> Result<Layer, RowError> {
    if let Some(error) = weights.earlier(row) {
        return Err(error);
    }
    weights.name(row).ok_or(RowError::NullName)?;
    let bytes = weights.bytes(row).ok_or(RowError::NullData)?;
    let choice = asked.choice()?;
    check_dtype(weights, row)?;
    let (Described { dtype, shape }, readable) = described;
    readable.clone()?;
    let dtype = *dtype;
    let count = match shape {
        Some(shape) => check_shape(shape, dtype.unwrap_or(""), bytes.len())?,
        None => 0,
    };
    if let Some((first, count)) = weights.null_elements(row) {
        return Err(RowError::NullElement { first, count });
    }
    let Choice::Encode(scheme) = choice else {
        return Ok(Layer::Keep);
    };
    let dtype = dtype.ok_or(RowError::NullDtype)?;
    let source = Float::from_name(dtype).ok_or_else(|| not_float(dtype))?;
    if count == 0 {
        return Err(RowError::Empty);
    }
    let columns = shape.as_ref().and_then(|shape| shape.last()).map_or(1, |&last| last as usize);
    let grouping = Grouping {
        columns,
        group_size: group_size(asked.group_size, columns),
        symmetric: asked.symmetric.unwrap_or_else(|| scheme.default_symmetric()),
        scale_dtype: options.scale_dtype.unwrap_or(ScaleDtype::of_source(source)),
    };
    check_part(weights.part(row).as_ref(), columns, &grouping, asked.group_size)?;
    Ok(Layer::Encode(Job { scheme, source, grouping, rows: count / columns }))
}

/// Why numbers of a type that is no [`Float`] can't be encoded.
fn not_float(dtype: &str) -> RowError {
    let error = match dtype::canonical(dtype) {
        Some(_) => RowError::NotFloat,
        None => RowError::UnknownDtype,
    };
    error(dtype.to_owned())
}

/// Groups must not cross from one part to the next: where a row of the tensor is cut, one must end.
fn check_part(
    part: Option<&Part<'_>>,
    columns: usize,
    grouping: &Grouping,
    asked: Option<i64>,
) -> Result<(), RowError> {
    let Some(Part { offset, layer_shape: [.., row], .. }) = part else {
        return Ok(());
    };
    let (row, columns) = (u64::try_from(*row).unwrap_or(0), columns as u64);
    if columns >= row {
        return Ok(());
    }
    let wanted = asked.and_then(|size| u64::try_from(size).ok()).unwrap_or(row).min(row);
    let start = offset % row;
    let ends_row = start.checked_add(columns) == Some(row);
    let fits = |at: u64| at.is_multiple_of(wanted);
    if fits(start) && (ends_row || fits(columns)) {
        debug_assert!(grouping.group_size as u64 <= wanted);
        return Ok(());
    }
    Err(RowError::TooLarge { columns: row, group_size: wanted, cut: columns })
}

/// The group size asked for, at most the row's length.
pub(crate) fn group_size(asked: Option<i64>, columns: usize) -> usize {
    match asked.map(usize::try_from) {
        Some(Ok(size)) => size.min(columns),
        _ => columns,
    }
}

fn check_dtype(weights: &Weights, row: usize) -> Result<(), RowError> {
    match (weights.element, weights.dtype(row)) {
        (Some(Element::Float(found)), Some(said)) if said != found.name() => {
            Err(RowError::DtypeDisagrees { said: said.to_owned(), found })
        }
        (Some(Element::Raw), None) => Err(RowError::NullDtype),
        _ => Ok(()),
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
