//! What a format says.

use std::fmt::Debug;

use super::matrix::Matrix;
use super::rows::Tensors;
use super::stretch::Stretch;
use crate::sink::TensorSpec;

/// How a runtime stores quantized matrices.
pub trait Format: Debug + Send + Sync {
    /// What it is called.
    fn name(&self) -> &'static str;

    /// The tensors of a matrix; or why it can't be said, and what to do.
    ///
    /// # Errors
    /// As the text says.
    fn tensors(&self, matrix: &Matrix) -> Result<Vec<TensorSpec>, String>;

    /// Whether the parameters of some rows can be said; their codes are not looked at.
    ///
    /// # Errors
    /// They can't; the text says why, and what to do.
    fn check(&self, stretch: &Stretch<'_, '_>) -> Result<(), String> {
        let _ = stretch;
        Ok(())
    }

    /// Write some rows.
    ///
    /// # Errors
    /// The stretch begins where the format's words don't.
    fn write(&self, stretch: &Stretch<'_, '_>, out: &mut Tensors<'_>) -> Result<(), String>;
}
