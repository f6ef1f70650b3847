//! Options that are wrong in a call, or in a row's plan.

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
