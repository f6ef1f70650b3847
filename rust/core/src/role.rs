//! What a tensor is in its model: the closed set of the `role` column.
//!
//! Roles are found by whoever knows names and configurations; here is what follows from them.

/// How the reason begins of what is kept since another tool has quantized it.
pub(crate) const ALREADY: &str = "already_quantized";

/// How the reason begins of numbers that another tool's codes stood for: they are kept unless a scheme is
/// asked for.
pub(crate) const DECODED: &str = "decoded";

/// What a tensor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A matrix that a linear layer multiplies by.
    Weight,
    /// A table of embeddings.
    Embedding,
    /// The output head.
    Head,
    /// What chooses experts, or gates a shared one.
    Router,
    /// A normalization's scale or shift.
    Norm,
    /// A bias, also one a row of a stack of experts.
    Bias,
    /// A convolution's kernel.
    Conv,
    /// Positions, tokens of a class, time mixes, attention biases by distance.
    Position,
    /// What picks the tokens of sparse attention.
    Indexer,
    /// A vision tower, or its projector.
    Vision,
    /// An audio tower, or its projector.
    Audio,
    /// A layer that predicts further tokens.
    Mtp,
    /// Scales and the like of a tensor that is quantized already.
    Companion,
    /// Anything else that is kept: adapters, buffers.
    Other,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 14] = [
        Self::Weight,
        Self::Embedding,
        Self::Head,
        Self::Router,
        Self::Norm,
        Self::Bias,
        Self::Conv,
        Self::Position,
        Self::Indexer,
        Self::Vision,
        Self::Audio,
        Self::Mtp,
        Self::Companion,
        Self::Other,
    ];

    /// The role as it stands in the column.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Weight => "weight",
            Self::Embedding => "embedding",
            Self::Head => "head",
            Self::Router => "router",
            Self::Norm => "norm",
            Self::Bias => "bias",
            Self::Conv => "conv",
            Self::Position => "position",
            Self::Indexer => "indexer",
            Self::Vision => "vision",
            Self::Audio => "audio",
            Self::Mtp => "mtp",
            Self::Companion => "companion",
            Self::Other => "other",
        }
    }

    /// The role of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }

    /// Whether such a tensor is quantized where nothing else is said of it. Runtimes don't take the
    /// others quantized, or lose too much by it.
    pub const fn is_quantized(self) -> bool {
        matches!(self, Self::Weight)
    }
}
