//! A matrix of a runtime's files.

use crate::dtype::Float;
use crate::scheme::Bound;
use crate::sink::TensorSpec;

/// A matrix as it will be in the runtime's files.
#[derive(Clone, Debug)]
pub struct Matrix {
    /// The name of its parameter.
    pub name: String,
    /// Its rows.
    pub rows: usize,
    /// Elements of a row.
    pub columns: usize,
    /// What its codes decode to.
    pub source: Float,
    /// Its scheme and layout.
    pub bound: Bound,
    /// The scale of the whole tensor, where its scheme has one.
    pub tensor_scale: Option<f32>,
    /// Whether it is one of a stack.
    pub is_stacked: bool,
}

impl Matrix {
    /// The module whose parameter `weight` it is.
    ///
    /// # Errors
    /// It is none.
    pub fn module(&self) -> Result<&str, String> {
        self.name.strip_suffix(WEIGHT).ok_or_else(|| {
            "the format quantizes the parameter 'weight' of a module. Keep the layer, or write it \
             decoded"
                .to_owned()
        })
    }

    /// The scheme's name.
    pub fn scheme(&self) -> &'static str {
        self.bound.scheme.name()
    }

    /// Groups of a row, of a scheme whose groups divide it.
    ///
    /// # Errors
    /// They don't.
    pub fn groups(&self) -> Result<usize, String> {
        let size = self.bound.layout.grouping.group_size;
        if self.columns.is_multiple_of(size) {
            return Ok(self.columns / size);
        }
        Err(format!(
            "its rows of {} are no multiple of the group size {size}. Quantize the layer with a \
             group size that divides them, or -1",
            self.columns
        ))
    }

    /// A tensor of the format.
    pub(super) fn spec(&self, name: String, dtype: &str, shape: &[usize]) -> TensorSpec {
        let shape = shape.iter().map(|&size| size as i64).collect();
        TensorSpec { name, dtype: dtype.to_owned(), shape }
    }

    /// That the format has nothing for the scheme.
    pub(super) fn refuse(&self, format: &str, schemes: &str) -> String {
        format!(
            "scheme '{}' is none of those that {format} has: {schemes}. Quantize the layer to one \
             of them, or keep it",
            self.scheme()
        )
    }
}

const WEIGHT: &str = ".weight";
