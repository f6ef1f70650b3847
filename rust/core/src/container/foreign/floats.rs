//! Floats of four and eight bits with a scale for each group: NVFP4 of compressed-tensors, ModelOpt and MLX;
//! MXFP4 and MXFP8 of compressed-tensors and MLX; gpt-oss' MXFP4, which are stacks of experts.
//!
//! All of them have codes in pairs, the first in the low half of a byte, as we do. Sources:
//! compressed-tensors' `compressors/nvfp4`, `mxfp_utils.py`; ModelOpt's `qtensor/nvfp4_tensor.py`; MLX's
//! `fp_quantized`; transformers' `integrations/mxfp4.py`.

use std::io;

use super::side::Side;
use super::{Cut, Data, Foreign, Outline, Parameters, Place, Tensors, bind, expect};
use crate::settings::Settings;

#[derive(Debug)]
pub(super) struct Floats {
    outline: Outline,
    weight: Side,
    scales: Side,
    /// Rows of each matrix, bytes of a row's codes, and its scales.
    rows: usize,
    row_bytes: usize,
    row_scales: usize,
    tensor_scale: Option<f32>,
}

impl Floats {
    pub(super) fn open(tensors: &Tensors<'_>, scheme: &str) -> Result<Self, String> {
        let (weight, scales) = (tensors.main.clone(), tensors.required("scale")?);
        let (group, bits) = match scheme {
            "nvfp4" => (16, 4),
            "mxfp4" => (32, 4),
            _ => (32, 8),
        };
        let shape = scales.shape();
        let is_stack = tensors.number("is_stack") == Some(1);
        let (count, rows, row_scales) = match (shape.as_slice(), is_stack) {
            (&[rows, groups], false) => (1, rows, groups),
            (&[count, rows, groups], true) => (count, rows, groups),
            _ => return Err(format!("scales {shape:?} are of no matrix")),
        };
        if count == 0 {
            return Err("it has no matrices".to_owned());
        }
        if is_stack && weight.shape().last() != Some(&(group * bits / 8)) {
            return Err(format!("blocks of {:?} are not of {group} codes", weight.shape().last()));
        }
        let columns = row_scales.checked_mul(group).ok_or("the shape overflows")?;
        let row_bytes = columns / 8 * bits;
        let all = count.checked_mul(rows).and_then(|rows| rows.checked_mul(row_bytes));
        expect("bytes of codes", Some(weight.byte_count()), all)?;
        expect("bytes of scales", Some(scales.byte_count()), scales.elements())?;
        let outline =
            tensors.outline([rows, columns], scheme, Settings::default(), Cut::Rows(1))?;
        let outline = Outline {
            stack: is_stack.then(|| {
                // As the decoded parameter is: each matrix turned around.
                (count, [count, columns, rows].map(|size| size as i64).to_vec(), -2)
            }),
            ..outline
        };
        let tensor_scale = if scheme == "nvfp4" { Some(tensor_scale(tensors)?) } else { None };
        bind(scheme, [rows, columns], outline.dtype, Settings::default())?;
        Ok(Self { outline, weight, scales, rows, row_bytes, row_scales, tensor_scale })
    }
}

/// The scale of the tensor; some store what it is divided by.
pub(super) fn tensor_scale(tensors: &Tensors<'_>) -> Result<f32, String> {
    let read = |role: &str| -> Result<Option<f32>, String> {
        let Some(side) = tensors.side(role)? else { return Ok(None) };
        expect("scales of the tensor", side.of_floats()?.elements(), Some(1))?;
        side.floats(0..1).map(|scale| Some(scale[0])).map_err(|error| error.to_string())
    };
    let scale = match (read("divisor")?, read("multiplier")?) {
        (Some(divisor), _) => 1.0 / divisor,
        (None, Some(scale)) => scale,
        (None, None) => 1.0,
    };
    let is_one = scale.is_finite() && scale > 0.0;
    if is_one { Ok(scale) } else { Err(format!("the scale of the tensor is {scale}")) }
}

impl Foreign for Floats {
    fn outline(&self) -> &Outline {
        &self.outline
    }

    fn data(&self, Place { matrix, row, rows, .. }: Place) -> Data {
        let first = ((matrix * self.rows + row) * self.row_bytes) as u64;
        let start = self.weight.start() + first;
        Data::Plain(start..start + (rows * self.row_bytes) as u64)
    }

    fn parameters(&self, Place { matrix, row, rows, .. }: Place) -> io::Result<Parameters> {
        let first = (matrix * self.rows + row) * self.row_scales;
        let range = first..first + rows * self.row_scales;
        let scales = match self.tensor_scale {
            Some(_) => self.scales.e4m3(range)?,
            None => self.scales.e8m0(range)?,
        };
        let tensor_scale = self.tensor_scale;
        Ok(Parameters { scales: Some(scales), tensor_scale, ..Parameters::default() })
    }
}
