//! What a tensor means, and whether it is a stack of matrices: told by whoever knows the whole
//! checkpoint.

use super::tensors::TensorFile;

/// What a tensor means.
#[derive(Clone, Debug, Default)]
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

/// A tensor of codes with others that belong to it, as another tool stores weights.
#[derive(Clone, Debug, Default)]
pub struct Codes {
    /// How: one of the formats that are known.
    pub format: String,
    /// The name of the layer that they make.
    pub layer: String,
    /// The type of the weights that they decode to.
    pub dtype: String,
    /// What is said of them, such as `bits`.
    pub numbers: Vec<(String, i64)>,
    /// The tensors that belong to them: what each is, its file and its name.
    pub sides: Vec<(String, TensorFile, String)>,
    /// The tensors that they are made of, beside one that is called as the layer is.
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

impl Stack {
    /// Whether it is but a matrix that is turned around, which keeps its name.
    pub fn is_one_matrix(&self, shape: &[i64]) -> bool {
        self.count == 1 && shape.len() == 2 && self.axis == Some(-2)
    }
}
