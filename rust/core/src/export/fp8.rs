//! FP8 in blocks of 128 × 128, as transformers' FineGrainedFP8 and DeepSeek store it: `weight`, E4M3,
//! and `weight_scale_inv`, float32 `[rows/128, columns/128]`, which multiplies.
//!
//! Source: transformers' `integrations/finegrained_fp8.py`; `inference/fp8_cast_bf16.py` of DeepSeek-V3.

use super::format::Format;
use super::integers::scale_bytes;
use super::matrix::Matrix;
use super::rows::Tensors;
use super::stretch::Stretch;
use crate::dtype::ScaleDtype;
use crate::sink::TensorSpec;

const BLOCK: usize = 128;

#[derive(Debug)]
pub(super) struct Fp8;

impl Format for Fp8 {
    fn name(&self) -> &'static str {
        "fp8"
    }

    fn tensors(&self, matrix: &Matrix) -> Result<Vec<TensorSpec>, String> {
        let module = matrix.module()?;
        let (rows, columns) = (matrix.rows, matrix.columns);
        if matrix.scheme() != "fp8_e4m3" {
            return Err(matrix.refuse("this layout", "fp8_e4m3"));
        }
        let said = matrix.bound.layout.said;
        let block = Some(BLOCK as i64);
        if (said.group_rows, said.group_size) != (block, block) {
            return Err(
                "the layout has blocks of 128 × 128. Quantize the layer with group_size and \
                        group_rows 128"
                    .to_owned(),
            );
        }
        // Loaders find the size of blocks from the scales' shape, or refuse what isn't whole.
        if !rows.is_multiple_of(BLOCK) || !columns.is_multiple_of(BLOCK) {
            return Err(format!(
                "its shape [{rows}, {columns}] is no multiple of 128 × 128, which loaders of the \
                 layout need. Keep the layer, or write compressed-tensors"
            ));
        }
        Ok(vec![
            matrix.spec(matrix.name.clone(), "F8_E4M3", &[rows, columns]),
            matrix.spec(
                format!("{module}.weight_scale_inv"),
                "F32",
                &[rows / BLOCK, columns / BLOCK],
            ),
        ])
    }

    fn write(&self, stretch: &Stretch<'_, '_>, out: &mut Tensors<'_>) -> Result<(), String> {
        let matrix = stretch.matrix();
        let module = matrix.module()?;
        let at = stretch.row * matrix.columns + stretch.column;
        out.push(&matrix.name, at, stretch.data.clone())?;
        if !stretch.begins_groups() {
            return Ok(());
        }
        let at = stretch.row / BLOCK * (matrix.columns / BLOCK) + stretch.first_group();
        let scales = scale_bytes(&stretch.scales, ScaleDtype::F32);
        out.push(&format!("{module}.weight_scale_inv"), at, scales)
    }
}
