//! compressed-tensors, as vLLM and transformers load it.
//!
//! For a matrix `[rows, columns]`:
//! - `int4`, `int8` (`pack-quantized`): `weight_packed`, int32 `[rows, ceil(columns·bits/32)]`, whose
//!   bytes are those of `data`; `weight_scale`, `[rows, groups]` at the scales' own width;
//!   `weight_zero_point`, int32 `[ceil(rows·bits/32), groups]`, packed along dimension 0, where the
//!   layer is asymmetric; `weight_shape`, int64 `[2]`. Codes and zero points are stored with 2^(bits−1)
//!   added to the signed ones, which are our unsigned ones.
//! - `fp8_e4m3` (`float-quantized`): `weight`, `weight_scale` of shape `[1]`, `[rows, 1]` or one for
//!   each block.
//! - `nvfp4` (`nvfp4-pack-quantized`): `weight_packed`, uint8, the first of two codes in the low half;
//!   `weight_scale`, E4M3; `weight_global_scale`, float32 `[1]`, which divides.
//! - `mxfp4` (`mxfp4-pack-quantized`), `mxfp8` (`mxfp8-quantized`): `weight_packed` or `weight`, and
//!   `weight_scale` of E8M0 bytes.
//!
//! Source: `compressors/` in <https://github.com/vllm-project/compressed-tensors>.

use super::format::Format;
use super::integers::{bits, check_positive, check_words, pack_columns, scale_bytes};
use super::matrix::Matrix;
use super::rows::Tensors;
use super::stretch::Stretch;
use crate::dtype::ScaleDtype;
use crate::sink::TensorSpec;

const INTEGERS: &[(&str, usize)] = &[("int4", 4), ("int8", 8)];
const BLOCK: i64 = 128;

#[derive(Debug)]
pub(super) struct CompressedTensors;

impl Format for CompressedTensors {
    fn name(&self) -> &'static str {
        "compressed-tensors"
    }

    fn tensors(&self, matrix: &Matrix) -> Result<Vec<TensorSpec>, String> {
        let module = matrix.module()?;
        let name = |suffix: &str| format!("{module}.weight{suffix}");
        let (rows, columns) = (matrix.rows, matrix.columns);
        let layout = &matrix.bound.layout;
        let dtype = layout.grouping.scale_dtype.name();
        if let Some(bits) = bits(matrix, INTEGERS) {
            check_positive(matrix)?;
            let groups = matrix.groups()?;
            let words = |count: usize| (count * bits).div_ceil(32);
            let mut specs = vec![
                matrix.spec(name("_packed"), "I32", &[rows, words(columns)]),
                matrix.spec(name("_scale"), dtype, &[rows, groups]),
                matrix.spec(name("_shape"), "I64", &[2]),
            ];
            if layout.zero_point_bits.is_some() {
                specs.push(matrix.spec(name("_zero_point"), "I32", &[words(rows), groups]));
            }
            return Ok(specs);
        }
        Ok(match matrix.scheme() {
            "fp8_e4m3" => {
                let shape = match (layout.said.group_rows.unwrap_or(1), layout.said.group_size) {
                    (-1, Some(-1)) => vec![1],
                    (1, Some(-1)) => vec![rows, 1],
                    (BLOCK, Some(BLOCK)) => vec![layout.scale_rows(), layout.grouping.groups()],
                    _ => {
                        return Err("loaders take FP8 with a scale for all, for each row or for \
                                    blocks of 128 × 128. Quantize the layer with one of them"
                            .to_owned());
                    }
                };
                vec![
                    matrix.spec(name(""), "F8_E4M3", &[rows, columns]),
                    matrix.spec(name("_scale"), dtype, &shape),
                ]
            }
            "nvfp4" => {
                check_reciprocal(matrix)?;
                vec![
                    matrix.spec(name("_packed"), "U8", &[rows, columns / 2]),
                    matrix.spec(name("_scale"), "F8_E4M3", &[rows, matrix.groups()?]),
                    matrix.spec(name("_global_scale"), "F32", &[1]),
                ]
            }
            "mxfp4" => vec![
                matrix.spec(name("_packed"), "U8", &[rows, columns / 2]),
                matrix.spec(name("_scale"), "U8", &[rows, matrix.groups()?]),
            ],
            "mxfp8" => vec![
                matrix.spec(name(""), "F8_E4M3", &[rows, columns]),
                matrix.spec(name("_scale"), "U8", &[rows, matrix.groups()?]),
            ],
            _ => {
                return Err(matrix
                    .refuse("compressed-tensors", "int4, int8, fp8_e4m3, nvfp4, mxfp4, mxfp8"));
            }
        })
    }

    /// Words of zero points hold several rows.
    fn check(&self, stretch: &Stretch<'_, '_>) -> Result<(), String> {
        match stretch.layout.zero_point_bits {
            Some(_) => check_words(stretch, stretch.layout.block.0),
            None => Ok(()),
        }
    }

    fn write(&self, stretch: &Stretch<'_, '_>, out: &mut Tensors<'_>) -> Result<(), String> {
        let matrix = stretch.matrix();
        let module = matrix.module()?;
        let name = |suffix: &str| format!("{module}.weight{suffix}");
        let layout = &stretch.layout;
        let whole = &matrix.bound.layout;
        let (row, groups) = (stretch.row, whole.grouping.groups());
        let scales = scale_bytes(&stretch.scales, layout.grouping.scale_dtype);
        let data = stretch.data.clone();
        let scales_at = row * groups + stretch.first_group();
        if bits(matrix, INTEGERS).is_some() {
            let (per_word, word) = layout.block;
            let asymmetric = layout.zero_point_bits.is_some();
            if asymmetric {
                check_words(stretch, per_word)?;
            }
            out.push(&name("_packed"), stretch.at(whole.row_bytes / word, per_word), data)?;
            if stretch.begins_groups() {
                out.push(&name("_scale"), scales_at, scales)?;
            }
            if row == 0 && stretch.column == 0 {
                let shape = [matrix.rows as i64, matrix.columns as i64];
                let shape: Vec<u8> = shape.iter().flat_map(|size| size.to_le_bytes()).collect();
                out.push(&name("_shape"), 0, shape)?;
            }
            if asymmetric && stretch.begins_groups() {
                let words = pack_columns(&stretch.zero_points, groups, per_word);
                out.push(&name("_zero_point"), row / per_word * groups, words)?;
            }
            return Ok(());
        }
        let is_first = row == 0 && stretch.column == 0;
        match matrix.scheme() {
            "fp8_e4m3" => {
                out.push(&name(""), row * matrix.columns + stretch.column, data)?;
                if layout.has_one_scale() {
                    return if is_first { out.push(&name("_scale"), 0, scales) } else { Ok(()) };
                }
                let at = row / whole.group_rows * groups + stretch.first_group();
                match stretch.begins_groups() {
                    true => out.push(&name("_scale"), at, scales),
                    false => Ok(()),
                }
            }
            "mxfp8" => {
                out.push(&name(""), row * matrix.columns + stretch.column, data)?;
                out.push(&name("_scale"), scales_at, scales)
            }
            _ => {
                out.push(&name("_packed"), stretch.at(matrix.columns / 2, 2), data)?;
                out.push(&name("_scale"), scales_at, scales)?;
                if is_first && matrix.tensor_scale.is_some() {
                    let divisor = scale_bytes(&[1.0 / stretch.tensor_scale], ScaleDtype::F32);
                    out.push(&name("_global_scale"), 0, divisor)?;
                }
                Ok(())
            }
        }
    }
}

/// compressed-tensors stores the reciprocal, and divides by it.
fn check_reciprocal(matrix: &Matrix) -> Result<(), String> {
    let scale = matrix.tensor_scale.unwrap_or(1.0);
    // A power of two, whose reciprocal is one, too.
    if scale.is_normal() && scale.to_bits().trailing_zeros() >= 23 && (1.0 / scale).is_normal() {
        return Ok(());
    }
    Err(format!(
        "its tensor scale {scale} has no exact reciprocal, which the format stores. Quantize the \
         layer again (--scheme nvfp4), or write modelopt's layout"
    ))
}
