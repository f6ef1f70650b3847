//! One row of the weights relation, checked as far as it can be without its values.

use crate::dtype::{self, Float};
use crate::error::RowError;
use crate::plan::Asked;
use crate::relation::bytes::Element;
use crate::relation::described::{Described, check_shape, element_product};
use crate::relation::weights::{Importance, Part, Weights};
use crate::scheme::{self, Bound, Choice, Geometry, Layout, NESTED_RUN, Scheme, Search};
use crate::tile::{Place, Tiling, least_common_multiple};

/// What stands in `search` for a packed row that is kept.
const KEPT: &str = "kept";

/// A row that can be encoded or kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Layer {
    /// Its bytes come out as they are.
    Keep,
    /// So do its codes and their parameters.
    KeepPacked(Bound),
    /// It goes through a kernel.
    Encode(Job),
}

/// How a layer is encoded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Job {
    pub(crate) bound: Bound,
    /// What its numbers are.
    pub(crate) source: Float,
    /// How they are packed: then they are read as float32.
    pub(crate) packed: Option<Bound>,
    /// The largest magnitude of all of its layer, where it is a part that needs to know it.
    pub(crate) tensor_absmax: Option<f32>,
    /// How its parameters are chosen, as it is asked.
    pub(crate) search: &'static str,
    /// Whether anything says that its values matter differently.
    is_weighed: bool,
}

impl Layer {
    pub(crate) fn job(&self) -> Option<&Job> {
        match self {
            Self::Keep | Self::KeepPacked(_) => None,
            Self::Encode(job) => Some(job),
        }
    }

    /// How its codes lie when it comes out; nothing where it comes out as numbers.
    pub(crate) fn bound(&self) -> Option<&Bound> {
        match self {
            Self::Keep => None,
            Self::KeepPacked(bound) => Some(bound),
            Self::Encode(job) => Some(&job.bound),
        }
    }

    /// The scheme's name.
    pub(crate) fn scheme(&self) -> &'static str {
        self.bound().map_or(scheme::NONE, |bound| bound.scheme.name())
    }

    /// How its parameters were chosen.
    pub(crate) fn search(&self) -> Option<&'static str> {
        match self {
            Self::Keep => None,
            Self::KeepPacked(_) => Some(KEPT),
            Self::Encode(job) => Some(job.search),
        }
    }
}

impl Job {
    /// All of it, where that is small enough for one tile and nothing must be known beforehand.
    pub(crate) fn as_tile(&self) -> Option<Place> {
        Place::whole(self.layout()).filter(|_| self.tensor_absmax.is_none())
    }

    /// Whether its groups' bounds must be known before its tiles are encoded.
    pub(crate) fn has_wide_groups(&self) -> bool {
        self.tensor_absmax.is_some() || self.tiling().has_wide_groups()
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.bound.layout
    }

    /// How its parameters are chosen.
    pub(crate) fn search(&self) -> Search {
        match Search::of(self.search) {
            Search::Weighted if !self.is_weighed => Search::Mse,
            search => search,
        }
    }

    /// The tiles that it is encoded in.
    pub(crate) fn tiling(&self) -> Tiling {
        let unit = self.packed.map_or(1, |packed| packed.layout.unit());
        match self.search() {
            Search::None => Tiling::with_unit(self.layout(), unit),
            Search::Mse | Search::Weighted => Tiling::of_whole_groups(self.layout(), unit),
        }
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
    (known_absmax, importance): (Option<f64>, Option<Importance<'_>>),
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
    let packed = match (&weights.packed, shape) {
        (Some(packed), Some(shape)) => packed.check(row, bytes, dtype, shape).transpose()?,
        _ => None,
    };
    let count = match (shape, &packed) {
        (_, Some(packed)) => packed.layout.elements(),
        (Some(shape), None) => check_shape(shape, dtype.unwrap_or(""), bytes.len())?,
        (None, None) => 0,
    };
    if let Some((first, count)) = weights.null_elements(row) {
        return Err(RowError::NullElement { first, count });
    }
    let Choice::Encode(scheme) = choice else {
        return Ok(packed.map_or(Layer::Keep, Layer::KeepPacked));
    };
    let dtype = dtype.ok_or(RowError::NullDtype)?;
    let source = Float::from_name(dtype).ok_or_else(|| not_float(dtype))?;
    if count == 0 {
        return Err(RowError::Empty);
    }
    let columns = shape.as_ref().and_then(|shape| shape.last()).map_or(1, |&last| last as usize);
    let geometry = Geometry { rows: count / columns, columns, source };
    let bound = asked.bind(scheme, &geometry)?;
    if let Some(packed) = packed.filter(|packed| packed.serves(&bound)) {
        return Ok(Layer::KeepPacked(packed));
    }
    let part = weights.part(row);
    if let Some(part) = &part {
        check_part(part, scheme, asked, &geometry, &bound.layout)?;
    }
    let tensor_absmax =
        check_fact(weights.tensor_absmax(row).or(known_absmax), part.as_ref(), &bound.layout)?;
    let source = if packed.is_some() { Float::F32 } else { source };
    let search = asked.settings().search();
    let is_weighed = Search::of(search) == Search::Weighted && {
        let (width, _) = width(weights, row);
        // One row of weights says nothing of its columns.
        let elements = part.as_ref().and_then(|part| element_product(part.layer_shape).ok());
        check_importance(importance, width)?.is_some() || elements.unwrap_or(count) > width
    };
    Ok(Layer::Encode(Job { bound, source, packed, tensor_absmax, search, is_weighed }))
}

/// Elements of a row of the layer of which row `row` is, and where in one it begins.
pub(super) fn width(weights: &Weights, row: usize) -> (usize, usize) {
    let last = |shape: &[i64]| shape.last().and_then(|&last| usize::try_from(last).ok());
    if let Some(part) = weights.part(row) {
        let width = last(part.layer_shape).unwrap_or(1).max(1);
        return (width, (part.offset % width as u64) as usize);
    }
    let (described, _) = weights.described(row);
    let shape = described.shape;
    (shape.as_ref().and_then(|shape| last(shape)).unwrap_or(1).max(1), 0)
}

/// How much each column of a layer of rows of `width` elements matters, where that is told.
pub(crate) fn check_importance<'a>(
    told: Option<Importance<'a>>,
    width: usize,
) -> Result<Option<&'a [f32]>, RowError> {
    let Some(Importance { values, null }) = told else { return Ok(None) };
    let why = if values.len() != width {
        Some(format!("has {} numbers, and the layer has {width} columns", values.len()))
    } else if let Some(at) = null {
        Some(format!("is null at column {at}"))
    } else {
        let bad = |value: &f32| !value.is_finite() || *value < 0.0;
        let at = values.iter().position(bad);
        at.map(|at| format!("is {} at column {at}", values[at]))
    };
    why.map_or(Ok(Some(values)), |why| Err(RowError::InvalidImportance(why)))
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
    if layout.has_one_scale() {
        return Ok(());
    }
    let (row, columns) = (u64::try_from(*row).unwrap_or(0), geometry.columns as u64);
    let (first, rows) = (offset / row.max(1), geometry.rows as u64);
    let all = elements(part.layer_shape).unwrap_or(u64::MAX) / row.max(1);
    let size = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
    let whole = Geometry { rows: size(all), columns: size(row), source: geometry.source };
    let whole = asked.bind(scheme, &whole)?.layout;
    let fits = |at: u64, group: usize| at.is_multiple_of(group as u64);
    let end = offset.saturating_add(rows.saturating_mul(columns));
    let run = whole.grouping.group_size * NESTED_RUN;
    if whole.is_nested && !(fits(*offset, run) && (fits(end, run) || end == all * row)) {
        return Err(RowError::TooLarge { columns: row, group_size: run as u64, cut: columns });
    }
    if whole.grouping.columns as u64 != row {
        // Blocks over the flattened matrix.
        let (size, end) = (whole.grouping.group_size, offset + rows * columns);
        let ends = fits(*offset, size) && (fits(end, size) || end == all * row);
        let cut = geometry.columns as u64;
        let too_large = RowError::TooLarge { columns: row, group_size: size as u64, cut };
        return if ends { Ok(()) } else { Err(too_large) };
    }
    let wanted = least_common_multiple(whole.grouping.group_size, whole.unit());
    let (group_rows, wanted) = (whole.group_rows as u64, wanted as u64);
    let ends = |at: u64| at.is_multiple_of(group_rows) || at == all;
    let is_cut = columns < row;
    if group_rows != 1 && (is_cut || !ends(first) || !ends(first.saturating_add(rows))) {
        return Err(RowError::PartRows { first, group_rows });
    }
    if !is_cut {
        return Ok(());
    }
    let start = offset % row;
    let ends_row = start.checked_add(columns) == Some(row);
    let fits = |at: u64| at.is_multiple_of(wanted);
    if fits(start) && (ends_row || fits(columns)) {
        debug_assert!(layout.grouping.group_size as u64 <= wanted);
        return Ok(());
    }
    Err(RowError::TooLarge { columns: row, group_size: wanted, cut: columns })
}

/// The number of elements, where that is one.
fn elements(shape: &[i64]) -> Option<u64> {
    shape.iter().try_fold(1u64, |all, &next| all.checked_mul(u64::try_from(next).ok()?))
}

/// The largest magnitude of the layer, or of those that share a scale with it, for schemes that need to
/// know it. A part of a layer must be told.
fn check_fact(
    told: Option<f64>,
    part: Option<&Part<'_>>,
    layout: &Layout,
) -> Result<Option<f32>, RowError> {
    if !layout.has_one_scale() && !layout.has_tensor_scale {
        return Ok(None);
    }
    let all = layout.elements() as u64;
    let is_whole = part.is_none_or(|part| elements(part.layer_shape) == Some(all));
    let told = match told {
        Some(told) => told,
        None if is_whole => return Ok(None),
        None => return Err(RowError::MissingFact),
    };
    let absmax = told as f32;
    if !absmax.is_finite() || absmax < 0.0 {
        return Err(RowError::InvalidFact(told.to_string()));
    }
    Ok(Some(absmax))
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
