//! What is wrong with a row: typed, with positions, worded once.

use super::code::ErrorCode;
use super::option::{InvalidGroupSize, InvalidSetting, UnknownScheme};
use crate::dtype::{Block, Float};

/// What is wrong with one row, with what was found and where.
///
/// `Display` gives the reason and what to do, without the layer's name.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RowError {
    /// See [`ErrorCode::NullName`].
    #[error("layer_name is null. Give every row a name.")]
    NullName,
    /// See [`ErrorCode::NullData`].
    #[error("data is null. Supply the weights, or filter the row out.")]
    NullData,
    /// See [`ErrorCode::NullElement`].
    #[error("null at element {first} ({count} in all). Fill the nulls, or filter the row out.")]
    NullElement {
        /// Flat index of the first null.
        first: u64,
        /// How many nulls there are.
        count: u64,
    },
    /// See [`ErrorCode::Empty`].
    #[error("no elements. Keep the layer with scheme 'none', or filter the row out.")]
    Empty,
    /// A dtype that no kernel reads.
    #[error(
        "dtype '{0}' can't be quantized; {list} can. Keep the layer with scheme 'none', or \
         convert it.",
        list = float_names()
    )]
    NotFloat(String),
    /// A dtype that nobody knows.
    #[error(
        "dtype '{0}' is unknown. Correct the dtype column: names of safetensors (F32, BF16), torch \
         and NumPy are understood. Or keep the layer with scheme 'none'."
    )]
    UnknownDtype(String),
    /// Binary data without its dtype.
    #[error(
        "dtype is null, but binary data needs one of safetensors' names, such as F32 or BF16. \
         Fill the dtype column."
    )]
    NullDtype,
    /// A dtype column that contradicts a list's type.
    #[error(
        "dtype says '{said}', but data is a list of {found}. Correct the dtype column, or leave \
         it null."
    )]
    DtypeDisagrees {
        /// The dtype column's value.
        said: String,
        /// The list's own type.
        found: Float,
    },
    /// See [`ErrorCode::ShapeMismatch`].
    #[error("shape {shape:?} has {expected} elements, but data has {found}. {FIX_SHAPE}")]
    ShapeMismatch {
        /// The shape given.
        shape: Vec<i64>,
        /// Elements of such a tensor.
        expected: u64,
        /// Elements that the data has.
        found: u64,
    },
    /// Bytes that are no whole number of elements.
    #[error(
        "data has {found} bytes, no whole number of {dtype} elements ({block}). Check the dtype \
         and the shape, or supply the missing bytes."
    )]
    PartialElement {
        /// The row's dtype.
        dtype: String,
        /// How its elements are stored.
        block: Block,
        /// Bytes that were found.
        found: u64,
    },
    /// See [`ErrorCode::InvalidShape`].
    #[error("shape is invalid: {0}. {FIX_SHAPE}")]
    InvalidShape(String),
    /// See [`ErrorCode::NonFinite`].
    #[error(
        "NaN or Inf at element {first} ({count} in all). Clean the data, or keep the layer with \
         scheme 'none'."
    )]
    NonFinite {
        /// Flat index of the first such element.
        first: u64,
        /// How many there are.
        count: u64,
    },
    /// A finite float64 that becomes infinite as a float32.
    #[error(
        "value beyond float32's range at element {first} ({count} in all). Scale the data down, \
         or keep the layer with scheme 'none'."
    )]
    BeyondFloat32 {
        /// Flat index of the first such element.
        first: u64,
        /// How many elements are beyond the range, NaN or infinite.
        count: u64,
    },
    /// See [`ErrorCode::UnknownScheme`].
    #[error("{0}")]
    UnknownScheme(UnknownScheme),
    /// See [`ErrorCode::InvalidGroupSize`].
    #[error("{0}")]
    InvalidGroupSize(InvalidGroupSize),
    /// See [`ErrorCode::InvalidSetting`].
    #[error("{0}")]
    InvalidSetting(InvalidSetting),
    /// See [`ErrorCode::UnsupportedShape`].
    #[error("{why}. Schemes that fit: {fits}.")]
    UnsupportedShape {
        /// What the scheme asks for.
        why: String,
        /// The schemes that take such a matrix.
        fits: String,
    },
    /// See [`ErrorCode::OutOfRange`].
    #[error(
        "a magnitude above {limit} at element {first} ({count} in all), whose scale the scheme \
         can't hold. Choose a scheme with float32 scales, scale the data down, or keep the layer \
         with scheme 'none'."
    )]
    OutOfRange {
        /// The largest magnitude that the scheme can encode.
        limit: f32,
        /// Flat index of the first such element.
        first: u64,
        /// How many there are.
        count: u64,
    },
    /// See [`ErrorCode::MissingFact`].
    #[error(
        "the row is a part of a layer, and one scale for all of it needs the layer's largest \
         magnitude. Fill the column tensor_absmax, or choose rows or blocks that share a scale."
    )]
    MissingFact,
    /// See [`ErrorCode::InvalidFact`].
    #[error(
        "tensor_absmax is {0}, but no magnitude of the layer may be above it. Correct it, or leave \
         it out for a whole layer."
    )]
    InvalidFact(String),
    /// See [`ErrorCode::InvalidFact`].
    #[error(
        "importance {0}. Give a number of at least zero for each column of the layer, or null for a \
         layer of which nothing is known."
    )]
    InvalidImportance(String),
    /// See [`ErrorCode::TooLarge`].
    #[error(
        "one row of {columns} elements exceeds the size of a part, and its groups of {group_size} \
         don't end where it is cut, at multiples of {cut}. Choose a group size that divides that, \
         or larger parts."
    )]
    TooLarge {
        /// The length of the layer's rows.
        columns: u64,
        /// Elements that share a scale.
        group_size: u64,
        /// The length of this part of a row.
        cut: u64,
    },
    /// See [`ErrorCode::TooLarge`].
    #[error(
        "this part of the layer begins at row {first}, and {group_rows} rows share a scale. Choose \
         group_rows that divides that, or larger parts."
    )]
    PartRows {
        /// The part's first row in its layer.
        first: u64,
        /// Rows that share a scale.
        group_rows: u64,
    },
    /// See [`ErrorCode::InvalidQuantized`].
    #[error("can't be decoded: {0}. Quantize the layer again from its source.")]
    InvalidQuantized(String),
    /// See [`ErrorCode::Internal`].
    #[error("a fault of arrowquant's own: {0}. Please report it with the layer's dtype and shape.")]
    Internal(String),
    /// A row that came in with an error of an earlier step.
    #[error("{message}")]
    Earlier {
        /// Its `error_code`.
        code: String,
        /// Its `error_message`, whole.
        message: String,
        /// Its `error_element`.
        element: Option<i64>,
        /// Its `error_count`.
        count: Option<i64>,
        /// Whether nobody has been told of it yet.
        is_new: bool,
    },
}

const FIX_SHAPE: &str =
    "Correct the shape column, or leave the column out for one-dimensional layers.";

fn float_names() -> String {
    Float::ALL.map(Float::name).join(", ")
}

impl RowError {
    /// The code for the `error_code` column.
    pub fn code(&self) -> &str {
        let code = match self {
            Self::NullName => ErrorCode::NullName,
            Self::NullData => ErrorCode::NullData,
            Self::NullElement { .. } => ErrorCode::NullElement,
            Self::Empty => ErrorCode::Empty,
            Self::NotFloat(_)
            | Self::UnknownDtype(_)
            | Self::NullDtype
            | Self::DtypeDisagrees { .. } => ErrorCode::UnsupportedDtype,
            Self::ShapeMismatch { .. } | Self::PartialElement { .. } => ErrorCode::ShapeMismatch,
            Self::InvalidShape(_) => ErrorCode::InvalidShape,
            Self::NonFinite { .. } | Self::BeyondFloat32 { .. } => ErrorCode::NonFinite,
            Self::UnknownScheme(_) => ErrorCode::UnknownScheme,
            Self::InvalidGroupSize(_) => ErrorCode::InvalidGroupSize,
            Self::InvalidSetting(_) => ErrorCode::InvalidSetting,
            Self::UnsupportedShape { .. } => ErrorCode::UnsupportedShape,
            Self::OutOfRange { .. } => ErrorCode::OutOfRange,
            Self::MissingFact => ErrorCode::MissingFact,
            Self::InvalidFact(_) | Self::InvalidImportance(_) => ErrorCode::InvalidFact,
            Self::TooLarge { .. } | Self::PartRows { .. } => ErrorCode::TooLarge,
            Self::InvalidQuantized(_) => ErrorCode::InvalidQuantized,
            Self::Internal(_) => ErrorCode::Internal,
            Self::Earlier { code, .. } => return code,
        };
        code.as_str()
    }

    /// Flat index of the first offending element and how many offend, where elements do.
    pub fn position(&self) -> (Option<i64>, Option<i64>) {
        match self {
            Self::NullElement { first, count }
            | Self::NonFinite { first, count }
            | Self::BeyondFloat32 { first, count }
            | Self::OutOfRange { first, count, .. } => {
                (i64::try_from(*first).ok(), i64::try_from(*count).ok())
            }
            Self::Earlier { element, count, .. } => (*element, *count),
            _ => (None, None),
        }
    }

    /// The row came in failed: its error is passed on as it is.
    pub fn is_earlier(&self) -> bool {
        matches!(self, Self::Earlier { .. })
    }

    /// The error is reported by an exception where rows must not fail. One of an earlier step was
    /// reported there; but a source that can't be read, or a value that is no weights, is met here
    /// for the first time.
    pub fn raises(&self) -> bool {
        match self {
            Self::Earlier { code, is_new, .. } => {
                *is_new || code == ErrorCode::SourceUnreadable.as_str()
            }
            _ => true,
        }
    }

    /// The same error of a part that begins at element `offset` of its layer: positions are those
    /// in the layer.
    #[must_use]
    pub fn in_layer(self, offset: u64) -> Self {
        let at = |first: u64| first.saturating_add(offset);
        match self {
            Self::NullElement { first, count } => Self::NullElement { first: at(first), count },
            Self::NonFinite { first, count } => Self::NonFinite { first: at(first), count },
            Self::BeyondFloat32 { first, count } => Self::BeyondFloat32 { first: at(first), count },
            Self::OutOfRange { limit, first, count } => {
                Self::OutOfRange { limit, first: at(first), count }
            }
            other => other,
        }
    }
}
