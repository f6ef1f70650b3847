//! What is done with a layer that nobody has said anything of: neither its row, nor a plan, nor a
//! rule.

use std::borrow::Cow;

use super::asked::Asked;
use super::options::Options;
use super::table::{Plan, PlanRow};
use crate::dtype::{self, Float};
use crate::error::RowError;
use crate::relation::described::{Described, Shape, element_product};
use crate::relation::weights::Weights;
use crate::role::{ALREADY, DECODED, Role};
use crate::scheme::{self, Bound, Choice, Geometry, Scheme};
use crate::settings::SEARCH;

/// A last dimension below this is no matrix worth quantizing.
const SMALLEST_ROW: usize = 32;

/// Why a layer is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason<'a> {
    OneDimensional,
    NotFloat,
    NoGain,
    UnsupportedShape,
    KeptByUser,
    KeptByRole,
    /// By the scheme of its codes.
    AlreadyQuantized(&'a str),
    /// What the relation itself says.
    Said(&'a str),
}

impl<'a> Reason<'a> {
    /// The reason as it stands in a plan.
    pub(crate) fn text(self) -> Cow<'a, str> {
        Cow::Borrowed(match self {
            Self::OneDimensional => "one_dimensional",
            Self::NotFloat => "not_float",
            Self::NoGain => "no_gain",
            Self::UnsupportedShape => "unsupported_shape",
            Self::KeptByUser => "kept_by_user",
            Self::KeptByRole => "kept_by_role",
            Self::AlreadyQuantized(scheme) => {
                return format!("{ALREADY} ({scheme})").into();
            }
            Self::Said(reason) => reason,
        })
    }
}

/// What a row says of its layer; of a part, what it says of the whole.
pub(crate) fn whole_layer(weights: &Weights, row: usize) -> Described<'_> {
    let (mut described, _) = weights.described(row);
    if let Some(part) = weights.part(row) {
        described.shape = Some(Shape::Given(part.layer_shape));
    }
    described
}

/// The number of elements, where the shape is known and can be one.
pub(crate) fn element_count(described: &Described<'_>) -> Option<usize> {
    described.shape.as_deref().and_then(|shape| element_product(shape).ok())
}

/// Bytes of the layer as it is; `None` where its dtype or shape doesn't tell.
pub(crate) fn source_bytes(
    weights: &Weights,
    row: usize,
    described: &Described<'_>,
) -> Option<i64> {
    let count = element_count(described)?;
    if let Some(packed) = weights.packed.as_ref().and_then(|packed| packed.get(row)) {
        let columns = described.shape.as_deref()?.last().map_or(1, |&last| last as usize);
        let source = Float::from_name(described.dtype?)?;
        let geometry = Geometry { rows: count.checked_div(columns)?, columns, source };
        let bits = packed.bind(row, &geometry).ok()?.layout.bits()?;
        return i64::try_from(bits.div_ceil(8)).ok();
    }
    i64::try_from(dtype::block(described.dtype?)?.bytes_of(count as u64)?).ok()
}

/// Bytes of a layer that is encoded as asked; `None` where it can't be.
pub(crate) fn encoded_bytes(asked: &Asked, described: &Described<'_>) -> Option<i64> {
    let Ok(Choice::Encode(scheme)) = asked.choice() else {
        return None;
    };
    bytes_of(&asked.bind(scheme, &geometry(described)?).ok()?)
}

/// How a row is encoded as asked; nothing where it is kept, or can't be.
pub(crate) fn bound(weights: &Weights, row: usize, asked: &Asked) -> Option<Bound> {
    let Ok(Choice::Encode(scheme)) = asked.choice() else {
        return None;
    };
    let (described, _) = weights.described(row);
    let geometry = geometry(&described)?;
    let bound = asked.bind(scheme, &geometry).ok()?;
    let packed = weights.packed.as_ref().and_then(|packed| packed.get(row));
    let is_kept = packed.is_some_and(|packed| {
        packed.bind(row, &geometry).is_ok_and(|packed| packed.serves(&bound))
    });
    (!is_kept).then_some(bound)
}

fn bytes_of(bound: &Bound) -> Option<i64> {
    i64::try_from(bound.layout.bits()?.div_ceil(8)).ok()
}

/// The matrix that a layer is; `None` where its dtype or shape doesn't tell.
fn geometry(described: &Described<'_>) -> Option<Geometry> {
    let source = Float::from_name(described.dtype?)?;
    let columns = described.shape.as_deref()?.last().map_or(1, |&last| last as usize);
    let count = element_count(described).filter(|&count| count > 0)?;
    Some(Geometry { rows: count / columns, columns, source })
}

/// What is decided of a layer that is quantized.
pub(crate) struct Decided {
    /// What is asked of it.
    pub(crate) asked: Asked,
    /// Its bytes, where these can be told.
    pub(crate) bytes: Option<i64>,
    /// The scheme that was to be taken, where its shape does not fit and another one is.
    pub(crate) instead_of: Option<&'static str>,
}

impl Decided {
    /// Of a layer that will fail.
    fn failing(asked: Asked) -> Self {
        Self { asked, bytes: None, instead_of: None }
    }
}

/// What is done with a layer that is quantized; or why it is kept. With `included`, its role does not
/// keep it.
///
/// A layer of a dtype that nobody knows is not kept in silence, and neither is one whose settings can't
/// be: it is asked for, and fails.
pub(crate) fn decide<'a>(
    weights: &'a Weights,
    row: usize,
    described: &Described<'_>,
    options: &Options,
    included: bool,
) -> Result<Decided, Reason<'a>> {
    if let Some(reason) = weights.keep_reason(row)
        && !(reason.starts_with(DECODED) && options.is_said)
    {
        return Err(Reason::Said(reason));
    }
    let packed = weights.packed_scheme(row);
    if let Some(scheme) = packed.filter(|_| !options.is_said) {
        return Err(Reason::AlreadyQuantized(scheme));
    }
    let asked = Asked::of(weights, row, &PlanRow::empty(), options);
    let name = described.dtype.unwrap_or("");
    if weights.earlier(row).is_some() || dtype::canonical(name).is_none() {
        return match asked.choice() {
            Ok(Choice::Keep) => Err(Reason::KeptByUser),
            _ => Ok(Decided::failing(asked)),
        };
    }
    Float::from_name(name)
        .filter(|float| packed.is_some() || !matches!(float, Float::F8E4M3 | Float::F8E5M2))
        .ok_or(Reason::NotFloat)?;
    let shape = described.shape.as_deref().unwrap_or(&[]);
    let last = match shape.iter().position(|&dimension| dimension != 1).map(|at| &shape[at..]) {
        Some([_, .., last]) => *last,
        _ => return Err(Reason::OneDimensional),
    };
    let role = weights.role(row).and_then(Role::from_name);
    if !included && role.is_some_and(|role| !role.is_quantized()) {
        return Err(Reason::KeptByRole);
    }
    let columns = usize::try_from(last).unwrap_or(0);
    let count = element_count(described);
    count.filter(|&count| count > 0 && columns >= SMALLEST_ROW).ok_or(Reason::NoGain)?;
    let scheme = match asked.choice() {
        Ok(Choice::Encode(scheme)) => scheme,
        Ok(Choice::Keep) => return Err(Reason::KeptByUser),
        Err(_) => return Ok(Decided::failing(asked)),
    };
    let geometry = geometry(described).ok_or(Reason::NoGain)?;
    let (asked, bound, instead_of) = match asked.bind(scheme, &geometry) {
        Ok(bound) => (asked, bound, None),
        Err(RowError::UnsupportedShape { .. }) => {
            let (asked, bound) =
                fall_back(scheme, &asked, &geometry, options).ok_or(Reason::UnsupportedShape)?;
            (asked, bound, Some(scheme.name()))
        }
        Err(_) => return Ok(Decided::failing(asked)),
    };
    let bytes = bytes_of(&bound).ok_or(Reason::NoGain)?;
    // Codes in another format serve another runtime, whatever their size.
    match source_bytes(weights, row, described) {
        Some(source) if bytes >= source && packed.is_none() => Err(Reason::NoGain),
        _ => Ok(Decided { asked, bytes: Some(bytes), instead_of }),
    }
}

/// The first scheme that takes a matrix which does not fit the one that was asked for: of those that the
/// call names, else of the scheme's own, one after the other.
fn fall_back(
    scheme: &'static dyn Scheme,
    asked: &Asked,
    geometry: &Geometry,
    options: &Options,
) -> Option<(Asked, Bound)> {
    let own = std::iter::successors(scheme.fallback(), |name| match scheme::find(name) {
        Ok(Choice::Encode(next)) => next.fallback(),
        _ => None,
    });
    let named = options.fallback.iter().flatten().copied();
    let names = named.chain(own.take_while(|_| options.fallback.is_none()));
    let bind = |name: &'static str| {
        let Ok(Choice::Encode(next)) = scheme::find(name) else { return None };
        let mut settings = asked.settings().only(&next.defaults());
        if !next.searches().contains(&settings.search()) {
            settings.set(SEARCH, None);
        }
        let asked = Asked::to_encode(name, settings);
        let bound = asked.bind(next, geometry).ok()?;
        Some((asked, bound))
    };
    names.into_iter().find_map(bind)
}

/// What is asked of row `row`. Of one that has a role, and of which nothing is said, the default for
/// such layers.
pub(crate) fn resolve(weights: &Weights, row: usize, plan: &Plan, options: &Options) -> Asked {
    let planned = weights.name(row).and_then(|name| plan.find(name));
    let has_role = weights.role(row).and_then(Role::from_name).is_some();
    let stays = weights.packed_scheme(row).is_some() && !options.is_said;
    if stays && planned.is_none() && weights.plan(row).0.is_none() {
        return Asked::keep();
    }
    if has_role && planned.is_none() && weights.plan(row).0.is_none() {
        let layer = whole_layer(weights, row);
        return match decide(weights, row, &layer, options, false) {
            Ok(decided) => decided.asked,
            Err(_) => Asked::keep(),
        };
    }
    match planned {
        Some((_, planned)) => Asked::of(weights, row, planned, options),
        None => Asked::of(weights, row, &PlanRow::empty(), options),
    }
}
