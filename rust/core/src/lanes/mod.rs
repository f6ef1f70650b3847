//! Sixteen lanes at once, by whatever instructions the CPU has.
//!
//! The levels differ in speed only. All do the same operations in the same order, with one rounding
//! where the definition has one (emulated where there is no fused instruction), so all give the same
//! bits.

mod halves;
mod level;
mod portable;
mod vector;
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86;

pub(crate) use halves::{bf16_to_f32, f16_to_f32, narrow};
pub(crate) use level::Kind;
pub use level::Level;
pub(crate) use portable::Portable;
pub(crate) use vector::{EXPONENT, LANES, LINE, Lanes, MAGIC};
