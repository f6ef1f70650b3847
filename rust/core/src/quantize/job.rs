//! One row of the weights relation, checked as far as it can be without its values.

use crate::dtype::{self, Float};
use crate::error::RowError;
use crate::plan::Asked;
use crate::relation::bytes::Element;
use crate::relation::described::{Described, check_shape};
use crate::relation::weights::{Part, Weights};
use crate::scheme::{self, Bound, Choice, Geometry, Layout, Scheme};

/// A row that can be encoded or kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Layer {
    /// Its bytes come out as they are.
    Keep,
    /// It goes through a kernel.
    Encode(Job),
}

/// How a layer is encoded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Job {
    pub(crate) bound: Bound,
    /// What its numbers are.
    pub(crate) source: Float,
    /// How its parameters are chosen.
    pub(crate) search: &'static str,
}

impl Layer {
    pub(crate) fn job(&self) -> Option<&Job> {
        match self {
            Self::Keep => None,
            Self::Encode(job) => Some(job),
        }
    }

    /// The scheme's name.
    pub(crate) fn scheme(&self) -> &'static str {
        self.job().map_or(scheme::NONE, |job| job.bound.scheme.name())
    }
}

impl Job {
    pub(crate) fn layout(&self) -> &Layout {
        &self.bound.layout
    }

    pub(crate) fn elements(&self) -> usize {
        self.layout().elements()
    }
}

/// Check everything about row `row` that can be known without its values.
pub(crate) fn check(
    weights: &Weights,
    row: usize,
    described: &(Described<'_>, Result<(), RowError>),
    asked: &Asked,
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
    let geometry = Geometry { rows: count / columns, columns, source };
    let bound = asked.bind(scheme, &geometry)?;
    if let Some(part) = weights.part(row) {
        check_part(&part, scheme, asked, &geometry, &bound.layout)?;
    }
    Ok(Layer::Encode(Job { bound, source, search: asked.settings().search() }))
}

/// Why numbers of a type that is no [`Float`] can't be encoded.
fn not_float(dtype: &str) -> RowError {
    let error = match dtype::canonical(dtype) {
        Some(_) => RowError::NotFloat,
        None => RowError::UnknownDtype,
    };
    error(dtype.to_owned())
}

/// Groups must not cross from one part to the next: where a row of the tensor is cut, or where one
/// part's rows end, one must end.
fn check_part(
    part: &Part<'_>,
    scheme: &'static dyn Scheme,
    asked: &Asked,
    geometry: &Geometry,
    layout: &Layout,
) -> Result<(), RowError> {
    let Part { offset, layer_shape: [.., row], .. } = part else {
        return Ok(());
    };
    let (row, columns) = (u64::try_from(*row).unwrap_or(0), geometry.columns as u64);
    if columns >= row {
        return Ok(());
    }
    let whole = Geometry { columns: usize::try_from(row).unwrap_or(usize::MAX), ..*geometry };
    let wanted = asked.bind(scheme, &whole)?.layout.grouping.group_size as u64;
    let start = offset % row;
    let ends_row = start.checked_add(columns) == Some(row);
    let fits = |at: u64| at.is_multiple_of(wanted);
    if fits(start) && (ends_row || fits(columns)) {
        debug_assert!(layout.grouping.group_size as u64 <= wanted);
        return Ok(());
    }
    Err(RowError::TooLarge { columns: row, group_size: wanted, cut: columns })
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
