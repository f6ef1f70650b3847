//! What can be wrong: with the call ([`CallError`]) or with one row ([`RowError`]).
//!
//! A wrong call is refused before any work. A wrong row becomes a row of the error table, with a
//! code of the closed set [`ErrorCode`]. Every message is worded here, once.

mod call;
mod code;
mod option;
mod row;

use arrow_array::RecordBatch;
use arrow_schema::ArrowError;

pub use call::CallError;
pub use code::ErrorCode;
pub use option::{InvalidGroupSize, InvalidSetting, Unfit, UnknownScheme};
pub use row::RowError;

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
    Arrow(ArrowError),
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// Reading or writing failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// A wrong call that is found out where Arrow's errors are expected.
impl From<CallError> for ArrowError {
    fn from(error: CallError) -> Self {
        Self::ExternalError(Box::new(error))
    }
}

impl From<ArrowError> for Error {
    fn from(error: ArrowError) -> Self {
        match error {
            ArrowError::ExternalError(source) => match source.downcast::<CallError>() {
                Ok(error) => Self::Call(*error),
                Err(source) => Self::Arrow(ArrowError::ExternalError(source)),
            },
            other => Self::Arrow(other),
        }
    }
}
