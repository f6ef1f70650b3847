//! Loops over slices, written so that the compiler vectorizes them.
//!
//! Each is `#[inline(always)]`: [`crate::simd`] compiles it for every instruction set and is the
//! only caller.

pub(crate) mod affine;
pub(crate) mod convert;
pub(crate) mod metrics;
pub(crate) mod pack;
pub(crate) mod range;
