//! The closed set of error codes.

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
    /// A plan sets what the scheme lacks, or what can't be.
    InvalidSetting,
    /// The scheme can't be had for a matrix of this shape.
    UnsupportedShape,
    /// A magnitude whose scale the scheme can't hold.
    OutOfRange,
    /// A part lacks a fact of its whole layer that the scheme needs.
    MissingFact,
    /// A fact of the whole layer that can't be true.
    InvalidFact,
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
    pub const ALL: [ErrorCode; 21] = [
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
        Self::InvalidSetting,
        Self::UnsupportedShape,
        Self::OutOfRange,
        Self::MissingFact,
        Self::InvalidFact,
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
            Self::InvalidSetting => "invalid_setting",
            Self::UnsupportedShape => "unsupported_shape",
            Self::OutOfRange => "out_of_range",
            Self::MissingFact => "missing_fact",
            Self::InvalidFact => "invalid_fact",
            Self::TooLarge => "too_large",
            Self::SourceUnreadable => "source_unreadable",
            Self::IncompleteLayer => "incomplete_layer",
            Self::InvalidQuantized => "invalid_quantized",
            Self::Internal => "internal",
        }
    }
}
