//! bitsandbytes' four-bit weights: `weight`, uint8 `[bytes, 1]`, the first of two codes in the high half;
//! `weight.absmax`, `weight.quant_map` and `weight.quant_state.bitsandbytes__nf4` (or `fp4`), which is
//! JSON in bytes.
//!
//! Source: `QuantState.as_dict` in
//! <https://github.com/bitsandbytes-foundation/bitsandbytes/blob/main/bitsandbytes/functional.py>.

use super::format::Format;
use super::integers::scale_bytes;
use super::matrix::Matrix;
use super::rows::Tensors;
use super::stretch::Stretch;
use crate::dtype::{Float, ScaleDtype};
use crate::sink::TensorSpec;

const BLOCK: usize = 64;

#[derive(Debug)]
pub(super) struct Bitsandbytes;

/// What the state calls the scheme.
fn kind(matrix: &Matrix) -> Option<&'static str> {
    match matrix.scheme() {
        "nf4" => Some("nf4"),
        "bnb_fp4" => Some("fp4"),
        _ => None,
    }
}

/// The state as JSON.
fn state(matrix: &Matrix) -> Vec<u8> {
    let dtype = match matrix.source {
        Float::F16 => "float16",
        Float::BF16 => "bfloat16",
        _ => "float32",
    };
    // Spaced as Python's json spaces it.
    let state = format!(
        r#"{{"quant_type": "{}", "blocksize": {BLOCK}, "dtype": "{dtype}", "shape": [{}, {}]}}"#,
        kind(matrix).unwrap_or_default(),
        matrix.rows,
        matrix.columns
    );
    state.into_bytes()
}

impl Format for Bitsandbytes {
    fn name(&self) -> &'static str {
        "bitsandbytes"
    }

    fn tensors(&self, matrix: &Matrix) -> Result<Vec<TensorSpec>, String> {
        matrix.module()?;
        let Some(kind) = kind(matrix) else {
            return Err(matrix.refuse("bitsandbytes", "nf4, bnb_fp4"));
        };
        let count = matrix.rows * matrix.columns;
        let name = |suffix: &str| format!("{}{suffix}", matrix.name);
        Ok(vec![
            matrix.spec(name(""), "U8", &[count.div_ceil(2), 1]),
            matrix.spec(name(".absmax"), "F32", &[count.div_ceil(BLOCK)]),
            matrix.spec(name(".quant_map"), "F32", &[16]),
            matrix.spec(
                name(&format!(".quant_state.bitsandbytes__{kind}")),
                "U8",
                &[state(matrix).len()],
            ),
        ])
    }

    fn write(&self, stretch: &Stretch<'_>, out: &mut Tensors<'_>) -> Result<(), String> {
        let matrix = stretch.matrix();
        let name = |suffix: &str| format!("{}{suffix}", matrix.name);
        let first = stretch.row * matrix.columns + stretch.column;
        if !first.is_multiple_of(BLOCK) {
            return Err("a part begins within a block of 64. Quantize the layer with larger parts"
                .to_owned());
        }
        out.push(&name(""), first / 2, stretch.data.to_vec())?;
        let scales = scale_bytes(&stretch.scales, ScaleDtype::F32);
        out.push(&name(".absmax"), first / BLOCK, scales)?;
        if first == 0 {
            let table = matrix.bound.scheme.code_table().ok_or("there is no table of its codes")?;
            // bitsandbytes' zero has no sign.
            let table: Vec<f32> = table.iter().map(|number| number + 0.0).collect();
            out.push(&name(".quant_map"), 0, scale_bytes(&table, ScaleDtype::F32))?;
            let kind = kind(matrix).unwrap_or_default();
            let state_name = name(&format!(".quant_state.bitsandbytes__{kind}"));
            out.push(&state_name, 0, state(matrix))?;
        }
        Ok(())
    }
}
