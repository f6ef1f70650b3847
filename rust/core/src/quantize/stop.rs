//! Why a piece of work was not finished.

use crate::error::RowError;

/// Why a piece was not finished.
pub(super) enum Stop {
    Row(RowError),
    /// A value can't be a finite float32; where they all are is found out once for the row.
    NotFinite,
    /// A magnitude is above the codec's limit; where they all are, likewise.
    OutOfRange,
    /// A scale would be infinite in the scale dtype: the layer takes F32.
    ScaleOverflow,
    /// Nobody needs it any more.
    Skipped,
}
