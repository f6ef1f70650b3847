//! NVFP4 as NVIDIA's Model Optimizer stores it, weights alone: `weight`, uint8, the first of two codes in
//! the low half; `weight_scale`, E4M3; `weight_scale_2`, a float32 number, which multiplies.
//!
//! Source: `modelopt/torch/quantization/qtensor/nvfp4_tensor.py` in
//! <https://github.com/NVIDIA/Model-Optimizer>.

use super::format::Format;
use super::integers::scale_bytes;
use super::matrix::Matrix;
use super::rows::Tensors;
use super::stretch::Stretch;
use crate::dtype::ScaleDtype;
use crate::sink::TensorSpec;

#[derive(Debug)]
pub(super) struct ModelOpt;

impl Format for ModelOpt {
    fn name(&self) -> &'static str {
        "modelopt"
    }

    fn tensors(&self, matrix: &Matrix) -> Result<Vec<TensorSpec>, String> {
        let module = matrix.module()?;
        if matrix.scheme() != "nvfp4" {
            return Err(matrix.refuse("the layout", "nvfp4"));
        }
        let (rows, columns) = (matrix.rows, matrix.columns);
        Ok(vec![
            matrix.spec(matrix.name.clone(), "U8", &[rows, columns / 2]),
            matrix.spec(format!("{module}.weight_scale"), "F8_E4M3", &[rows, matrix.groups()?]),
            matrix.spec(format!("{module}.weight_scale_2"), "F32", &[]),
        ])
    }

    fn write(&self, stretch: &Stretch<'_, '_>, out: &mut Tensors<'_>) -> Result<(), String> {
        let matrix = stretch.matrix();
        let module = matrix.module()?;
        let grouping = &stretch.layout.grouping;
        out.push(&matrix.name, stretch.at(matrix.columns / 2, 2), stretch.data.clone())?;
        let at = stretch.row * matrix.groups()? + stretch.first_group();
        let scales = scale_bytes(&stretch.scales, grouping.scale_dtype);
        out.push(&format!("{module}.weight_scale"), at, scales)?;
        if stretch.row == 0 && stretch.column == 0 {
            let scale = scale_bytes(&[stretch.tensor_scale], ScaleDtype::F32);
            out.push(&format!("{module}.weight_scale_2"), 0, scale)?;
        }
        Ok(())
    }
}
