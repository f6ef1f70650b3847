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

/// A setting that can't be, or that a scheme lacks.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("invalid setting: {0}.")]
pub struct InvalidSetting(pub String);

impl InvalidSetting {
    /// A setting that the scheme does not have.
    pub fn lacks(scheme: &str, setting: &str) -> Self {
        Self(format!(
            "scheme '{scheme}' has no {setting}. Leave it out, or choose a scheme that has it"
        ))
    }
}

impl InvalidSetting {
    /// A way of choosing parameters that the scheme does not have.
    pub(crate) fn lacks_search(scheme: &str, known: &[&str], search: &str) -> Self {
        Self(format!("search of '{scheme}' must be {}, got {search}", known.join(" or ")))
    }
}

/// Why a scheme can't be had for a matrix.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Unfit {
    /// Its shape does not fit: what the scheme asks for.
    #[error("{0}")]
    Shape(String),
    /// Its group size can't be.
    #[error(transparent)]
    GroupSize(#[from] InvalidGroupSize),
    /// A setting can't be.
    #[error(transparent)]
    Setting(#[from] InvalidSetting),
}
