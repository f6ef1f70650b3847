//! What a tensor means, and whether it is a stack of matrices: told by whoever knows the whole
//! checkpoint.

use std::sync::Arc;

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
    /// Codes that it holds, of weights.
    pub packed: Option<Codes>,
    /// Its numbers come with the codes of another tensor, and it has no row.
    pub is_consumed: bool,
}

/// A tensor of codes, whose scales may be in another one.
#[derive(Clone, Debug, PartialEq)]
pub struct Codes {
    /// The scheme that reads them.
    pub scheme: String,
    /// The type of the weights that they decode to.
    pub dtype: String,
    /// Elements of a row that share a scale; -1: all.
    pub group_size: Option<i64>,
    /// Rows that share a scale; -1: all.
    pub group_rows: Option<i64>,
    /// The scales, row after row.
    pub scales: Arc<Vec<f32>>,
    /// The tensors that its numbers come from, beside its own.
    pub companions: Vec<String>,
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
