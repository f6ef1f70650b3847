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
use crate::scheme::{NESTED_MAP, NESTED_RUN, nested_code};
use crate::sink::TensorSpec;

const BLOCK: usize = 64;

#[derive(Debug)]
pub(super) struct Bitsandbytes;

/// What the state calls the scheme.
fn kind(matrix: &Matrix) -> Option<&'static str> {
    match matrix.scheme() {
        "nf4" | "nf4_dq" => Some("nf4"),
        "bnb_fp4" | "bnb_fp4_dq" => Some("fp4"),
        _ => None,
    }
}

/// Whether scales are codes themselves.
fn is_nested(matrix: &Matrix) -> bool {
    matrix.bound.layout.is_nested
}

/// The largest of each run of scales.
fn largest(scales: &[f32]) -> impl Iterator<Item = f32> {
    scales.chunks(NESTED_RUN).map(|run| run.iter().fold(0.0f32, |most, scale| most.max(*scale)))
}

/// The state as JSON.
fn state(matrix: &Matrix) -> Vec<u8> {
    let dtype = match matrix.source {
        Float::F16 => "float16",
        Float::BF16 => "bfloat16",
        _ => "float32",
    };
    let nested = match is_nested(matrix) {
        true => format!(
            r#", "nested_blocksize": {NESTED_RUN}, "nested_dtype": "float32", "nested_offset": 0.0"#
        ),
        false => String::new(),
    };
    // Spaced as Python's json spaces it.
    let state = format!(
        r#"{{"quant_type": "{}", "blocksize": {BLOCK}, "dtype": "{dtype}", "shape": [{}, {}]{nested}}}"#,
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
            return Err(matrix.refuse("bitsandbytes", "nf4, bnb_fp4, nf4_dq, bnb_fp4_dq"));
        };
        let count = matrix.rows * matrix.columns;
        let name = |suffix: &str| format!("{}{suffix}", matrix.name);
        let blocks = count.div_ceil(BLOCK);
        let dtype = if is_nested(matrix) { "U8" } else { "F32" };
        let mut specs = vec![
            matrix.spec(name(""), "U8", &[count.div_ceil(2), 1]),
            matrix.spec(name(".absmax"), dtype, &[blocks]),
            matrix.spec(name(".quant_map"), "F32", &[16]),
            matrix.spec(
                name(&format!(".quant_state.bitsandbytes__{kind}")),
                "U8",
                &[state(matrix).len()],
            ),
        ];
        if is_nested(matrix) {
            specs.push(matrix.spec(name(".nested_absmax"), "F32", &[blocks.div_ceil(NESTED_RUN)]));
            specs.push(matrix.spec(name(".nested_quant_map"), "F32", &[NESTED_MAP.len()]));
        }
        Ok(specs)
    }

    /// Scales must be what their codes decode to.
    fn check(&self, stretch: &Stretch<'_, '_>) -> Result<(), String> {
        if !is_nested(stretch.matrix()) {
            return Ok(());
        }
        for (run, most) in stretch.scales.chunks(NESTED_RUN).zip(largest(&stretch.scales)) {
            let stored = |scale: f32| NESTED_MAP[nested_code(scale, most)] * most;
            if let Some(scale) = run.iter().find(|scale| stored(**scale) != **scale) {
                return Err(format!(
                    "its scale {scale} is none that a code of eight bits says. Quantize the layer \
                     again, or to the scheme without double quantization"
                ));
            }
        }
        Ok(())
    }

    fn write(&self, stretch: &Stretch<'_, '_>, out: &mut Tensors<'_>) -> Result<(), String> {
        let matrix = stretch.matrix();
        let name = |suffix: &str| format!("{}{suffix}", matrix.name);
        let first = stretch.row * matrix.columns + stretch.column;
        let unit = if is_nested(matrix) { BLOCK * NESTED_RUN } else { BLOCK };
        if !first.is_multiple_of(unit) {
            return Err(format!(
                "a part begins within a block of {unit}. Quantize again with larger parts (--part-mib)"
            ));
        }
        out.push(&name(""), first / 2, stretch.data.clone())?;
        if is_nested(matrix) {
            let most: Vec<f32> = largest(&stretch.scales).collect();
            let runs = stretch.scales.chunks(NESTED_RUN).zip(&most);
            let codes = runs
                .flat_map(|(run, most)| run.iter().map(|scale| nested_code(*scale, *most) as u8));
            out.push(&name(".absmax"), first / BLOCK, codes.collect::<Vec<_>>())?;
            let at = first / BLOCK / NESTED_RUN;
            out.push(&name(".nested_absmax"), at, scale_bytes(&most, ScaleDtype::F32))?;
            if first == 0 {
                let map = scale_bytes(&NESTED_MAP, ScaleDtype::F32);
                out.push(&name(".nested_quant_map"), 0, map)?;
            }
        } else {
            let scales = scale_bytes(&stretch.scales, ScaleDtype::F32);
            out.push(&name(".absmax"), first / BLOCK, scales)?;
        }
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
