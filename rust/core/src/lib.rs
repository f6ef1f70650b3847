//! Quantization of model weights, Arrow in and Arrow out.
//!
//! Weights come as record batches. [`relation::weights`] finds their columns, [`options`] resolves
//! what is asked of each row, and [`quantize`] checks it and cuts the good rows into tiles, which all
//! cores hand to a [`scheme`]. Out comes a quantized batch and, row for row beside it, an error
//! table ([`relation::quantized`], [`relation::errors`]). [`dequantize`] is the way back, [`plan`]
//! says beforehand what will happen. Before all that, [`source`] gives bytes and [`container`] makes
//! named tensors of them; after it, [`export`] gives
//! rows the layouts of runtimes, and [`sink`] writes files.
//!
//! Nothing here knows Python.

#[cfg(target_endian = "big")]
compile_error!("arrowquant's byte layouts are little-endian; big-endian hosts are not supported");

pub mod compare;
pub mod container;
pub mod content;
pub mod dequantize;
pub mod dtype;
pub mod error;
pub mod export;
mod kernel;
pub mod lanes;
mod memory;
pub mod monitor;
pub mod outline;
pub mod panics;
pub mod parts;
pub mod plan;
pub mod pool;
pub mod quantize;
pub mod relation;
pub mod role;
pub mod scheme;
mod selection;
pub mod settings;
pub mod sink;
pub mod source;
pub mod temporary;
mod tile;

pub use dequantize::Dequantizer;
pub use error::{CallError, Error, ErrorCode, RowError};
pub use monitor::Monitor;
pub use plan::{Options, Plan};
pub use quantize::Quantizer;
