//! Loops over slices, in the sixteen lanes of [`crate::lanes::Lanes`] where the compiler needs to be
//! told how to vectorize them.
//!
//! Each is `#[inline(always)]`: [`dispatch`] compiles it for every instruction set and is the
//! only caller.

pub(crate) mod affine;
pub(crate) mod block;
pub(crate) mod convert;
pub(crate) mod dispatch;
pub(crate) mod extremes;
pub(crate) mod grouped;
pub(crate) mod measure;
pub(crate) mod metrics;
pub(crate) mod moments;
pub(crate) mod pack;
pub(crate) mod search;
pub(crate) mod spans;
pub(crate) mod squares;
pub(crate) mod stored;
pub(crate) mod stream;
pub(crate) mod survey;
pub(crate) mod tile;
pub(crate) mod together;
