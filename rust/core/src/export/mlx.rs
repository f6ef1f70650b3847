//! MLX: `weight`, uint32 `[rows, columns·bits/32]`, codes bit by bit, the lowest first; `scales` and, of
//! affine formats, `biases`, `[rows, groups]` at their own width. Scales of the formats of floats are
//! uint8: E8M0, or of `nvfp4` E4M3. There is no scale of the tensor.
//!
//! Source: `affine_quantize` and `fp_quantize` in
//! <https://github.com/ml-explore/mlx/blob/main/mlx/ops.cpp>.

use super::format::Format;
use super::integers::{bits, scale_bytes};
use super::matrix::Matrix;
use super::rows::Tensors;
use super::stretch::Stretch;
use crate::sink::TensorSpec;

const BITS: &[(&str, usize)] = &[
    ("mlx8", 8),
    ("mlx6", 6),
    ("mlx5", 5),
    ("mlx4", 4),
    ("mlx3", 3),
    ("mlx2", 2),
    ("mxfp8", 8),
    ("mxfp4", 4),
    ("nvfp4", 4),
];

#[derive(Debug)]
pub(super) struct Mlx;

impl Format for Mlx {
    fn name(&self) -> &'static str {
        "mlx"
    }

    fn tensors(&self, matrix: &Matrix) -> Result<Vec<TensorSpec>, String> {
        let module = matrix.module()?;
        let Some(bits) = bits(matrix, BITS) else {
            return Err(
                matrix.refuse("MLX", "mlx8, mlx6, mlx5, mlx4, mlx3, mlx2, mxfp8, mxfp4, nvfp4")
            );
        };
        if let Some(scale) = matrix.tensor_scale.filter(|&scale| scale != 1.0) {
            return Err(format!(
                "its tensor scale is {scale}, and MLX's nvfp4 has none. Quantize with --for mlx, \
                 which chooses 1, or to mxfp4 or mlx4 (--scheme)"
            ));
        }
        let (rows, groups) = (matrix.rows, matrix.groups()?);
        let has_biases = matrix.bound.layout.has_biases;
        let dtype = if has_biases { matrix.bound.layout.grouping.scale_dtype.name() } else { "U8" };
        let mut specs = vec![
            matrix.spec(matrix.name.clone(), "U32", &[rows, matrix.columns * bits / 32]),
            matrix.spec(format!("{module}.scales"), dtype, &[rows, groups]),
        ];
        if has_biases {
            specs.push(matrix.spec(format!("{module}.biases"), dtype, &[rows, groups]));
        }
        Ok(specs)
    }

    fn write(&self, stretch: &Stretch<'_, '_>, out: &mut Tensors<'_>) -> Result<(), String> {
        let matrix = stretch.matrix();
        let module = matrix.module()?;
        let bits = bits(matrix, BITS).unwrap_or(8);
        let grouping = &stretch.layout.grouping;
        let words = stretch.row * (matrix.columns * bits / 32) + stretch.column * bits / 32;
        out.push(&matrix.name, words, stretch.data.clone())?;
        if !stretch.begins_groups() {
            return Ok(());
        }
        let at = stretch.row * matrix.groups()? + stretch.first_group();
        let scales = scale_bytes(&stretch.scales, grouping.scale_dtype);
        out.push(&format!("{module}.scales"), at, scales)?;
        if stretch.layout.has_biases {
            let biases = scale_bytes(&stretch.biases, grouping.scale_dtype);
            out.push(&format!("{module}.biases"), at, biases)?;
        }
        Ok(())
    }
}
