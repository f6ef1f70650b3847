//! What a tensor means, and whether it is a stack of matrices: told by whoever knows the whole
//! checkpoint.

/// What a tensor means.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Meaning {
    /// What it is in its model.
    pub role: Option<String>,
    /// Why it is kept where nobody asks for anything else.
    pub keep_reason: Option<String>,
    /// The tensor that it belongs to.
    pub companion_of: Option<String>,
    /// Matrices that it is a stack of.
    pub stack: Option<Stack>,
}

/// A stack of matrices, as mixtures of experts have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stack {
    /// How many.
    pub count: usize,
    /// The axis of the tensor that is contracted with the input: -1, or -2, where each matrix is
    /// turned around as it is read; `None` where nobody knows, and matrices stay as they lie.
    pub axis: Option<i8>,
}
