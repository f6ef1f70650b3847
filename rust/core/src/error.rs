//! What can be wrong: with the call ([`CallError`]) or with one row ([`RowError`]).
//!
//! A wrong call is refused before any work. A wrong row becomes a row of the error table, with a
//! code of the closed set [`ErrorCode`]. Every message is worded here, once.

use arrow_array::RecordBatch;
use arrow_schema::ArrowError;

use crate::dtype::Float;

/// Why a row failed: the closed set of the `error_code` column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// `layer_name` is null.
    NullName,
    /// `data` is null.
    NullData,
    /// A null among the layer's elements.
    NullElement,
    /// The layer has no elements.
    Empty,
    /// The dtype is unknown, missing, contradicts the data, or no kernel reads it.
    UnsupportedDtype,
    /// The shape's product is not the number of elements.
    ShapeMismatch,
    /// The shape is null, negative, has nulls, or overflows.
    InvalidShape,
    /// NaN or infinity, also a float64 beyond float32's range.
    NonFinite,
    /// A NumPy array that is not C-contiguous.
    NotContiguous,
    /// No scheme of that name.
    UnknownScheme,
    /// The group size is neither positive nor -1.
    InvalidGroupSize,
    /// One row of the tensor exceeds the part size and can't be split.
    TooLarge,
    /// The source could not be read, or changed during the run.
    SourceUnreadable,
    /// Another part of the same layer failed.
    IncompleteLayer,
    /// A quantized row that can't be decoded.
    InvalidQuantized,
    /// A fault of arrowquant's own.
    Internal,
}

impl ErrorCode {
    /// Every code.
    pub const ALL: [ErrorCode; 16] = [
        Self::NullName,
        Self::NullData,
        Self::NullElement,
        Self::Empty,
        Self::UnsupportedDtype,
        Self::ShapeMismatch,
        Self::InvalidShape,
        Self::NonFinite,
        Self::NotContiguous,
        Self::UnknownScheme,
        Self::InvalidGroupSize,
        Self::TooLarge,
        Self::SourceUnreadable,
        Self::IncompleteLayer,
        Self::InvalidQuantized,
        Self::Internal,
    ];

    /// The code as it stands in the `error_code` column.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NullName => "null_name",
            Self::NullData => "null_data",
            Self::NullElement => "null_element",
            Self::Empty => "empty",
            Self::UnsupportedDtype => "unsupported_dtype",
            Self::ShapeMismatch => "shape_mismatch",
            Self::InvalidShape => "invalid_shape",
            Self::NonFinite => "non_finite",
            Self::NotContiguous => "not_contiguous",
            Self::UnknownScheme => "unknown_scheme",
            Self::InvalidGroupSize => "invalid_group_size",
            Self::TooLarge => "too_large",
            Self::SourceUnreadable => "source_unreadable",
            Self::IncompleteLayer => "incomplete_layer",
            Self::InvalidQuantized => "invalid_quantized",
            Self::Internal => "internal",
        }
    }
}

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
        "data has {found} bytes, no whole number of {dtype} elements ({bits} bits each). \
         Check the dtype, or supply the missing bytes."
    )]
    PartialElement {
        /// The row's dtype.
        dtype: String,
        /// Bits of one element.
        bits: u64,
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
            Self::NotFloat(_) | Self::NullDtype | Self::DtypeDisagrees { .. } => {
                ErrorCode::UnsupportedDtype
            }
            Self::ShapeMismatch { .. } | Self::PartialElement { .. } => ErrorCode::ShapeMismatch,
            Self::InvalidShape(_) => ErrorCode::InvalidShape,
            Self::NonFinite { .. } | Self::BeyondFloat32 { .. } => ErrorCode::NonFinite,
            Self::UnknownScheme(_) => ErrorCode::UnknownScheme,
            Self::InvalidGroupSize(_) => ErrorCode::InvalidGroupSize,
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
            | Self::BeyondFloat32 { first, count } => {
                (i64::try_from(*first).ok(), i64::try_from(*count).ok())
            }
            Self::Earlier { element, count, .. } => (*element, *count),
            _ => (None, None),
        }
    }

    /// The row came in failed: it is passed on, and raises nothing anew.
    pub fn is_earlier(&self) -> bool {
        matches!(self, Self::Earlier { .. })
    }
}

/// A scheme's name that is none of ours.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("unknown scheme '{name}'. Choose one of {choices}.{hint}")]
pub struct UnknownScheme {
    /// The name that was asked for.
    pub name: String,
    /// Our names, for the message.
    pub choices: String,
    /// What another tool's name is called here, or nothing.
    pub hint: String,
}

/// A group size that no row can be cut into.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error(
    "invalid group_size {0}. Use a positive number of elements that share a scale, or -1 for one \
     group a row."
)]
pub struct InvalidGroupSize(pub i64);

/// A call that can't be carried out, whatever the rows hold.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// A required column is missing.
    #[error("{relation} need a column '{column}' ({expected}); found {found}.")]
    MissingColumn {
        /// The relation that needs it.
        relation: &'static str,
        /// The column's name.
        column: &'static str,
        /// The types that it may have.
        expected: &'static str,
        /// The columns there are.
        found: String,
    },
    /// A column's type can't be what its name says.
    #[error("column '{column}' has type {found}, expected {expected}.{hint}")]
    WrongType {
        /// The column's name.
        column: String,
        /// The types that it may have.
        expected: &'static str,
        /// Its type.
        found: String,
        /// What to do, where there is something special to say.
        hint: &'static str,
    },
    /// Two columns whose names are equal without case.
    #[error("columns '{0}' and '{1}' are given twice. Rename or drop one.")]
    DuplicateColumn(String, String),
    /// A column that would be carried under one of the output's own names.
    #[error("column '{0}' has the name of an output column. Rename it or drop it.")]
    ReservedColumn(String),
    /// See [`UnknownScheme`].
    #[error(transparent)]
    UnknownScheme(#[from] UnknownScheme),
    /// See [`InvalidGroupSize`].
    #[error(transparent)]
    InvalidGroupSize(#[from] InvalidGroupSize),
    /// An option that is none of its choices.
    #[error("unknown {option} '{value}'. Choose one of {choices}.")]
    UnknownChoice {
        /// The option's name.
        option: &'static str,
        /// What was given.
        value: String,
        /// What may be given.
        choices: String,
    },
    /// A file of a newer format than this version reads.
    #[error(
        "the relation has format '{0}', newer than the '1' that this version reads. \
         Upgrade arrowquant."
    )]
    NewerFormat(String),
    /// A pattern that can't be matched.
    #[error("invalid pattern '{pattern}': {why}.")]
    InvalidPattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        why: String,
    },
    /// A thread count that no pool can have, or a pool that could not start.
    #[error("{0}")]
    Threads(String),
    /// The same layer twice, where names must be unique.
    #[error(
        "layer '{0}' comes twice, but names must be unique in {1}. Rename one, or filter it out."
    )]
    DuplicateLayer(String, &'static str),
    /// A file that can't be read or written.
    #[error("{path}: {why}")]
    File {
        /// The file.
        path: String,
        /// What is wrong with it, and what to do.
        why: String,
    },
}

/// Why a call ended without its result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The call was wrong.
    #[error(transparent)]
    Call(#[from] CallError),
    /// Rows failed and `continue_on_error` was off.
    #[error("{message}")]
    Rows {
        /// Code, layer and reason of the first failed row, and which others failed.
        message: String,
        /// The failed relation.
        failed: RecordBatch,
    },
    /// The source of the stream failed, or Arrow did.
    #[error(transparent)]
    Arrow(#[from] ArrowError),
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// Reading or writing failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}
