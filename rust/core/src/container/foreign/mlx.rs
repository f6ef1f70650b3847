//! MLX's affine weights: `weight` of uint32, `scales` and `biases`. The codes lie as ours do.
//!
//! Source: mlx-lm's `utils.py`, and `affine_dequantize` in
//! <https://github.com/ml-explore/mlx/blob/main/mlx/ops.cpp>.

use std::io;

use super::side::Side;
use super::{Cut, Data, Foreign, Outline, Parameters, Place, Tensors, expect, with_scale_dtype};
use crate::settings::{GROUP_SIZE, Settings, Value};

#[derive(Debug)]
pub(super) struct Mlx {
    outline: Outline,
    weight: Side,
    scales: Side,
    biases: Side,
    row_bytes: usize,
    row_groups: usize,
}

impl Mlx {
    pub(super) fn open(tensors: &Tensors<'_>) -> Result<Self, String> {
        let (weight, scales) = (tensors.main.clone(), tensors.required("scales")?);
        let biases = tensors.required("biases")?;
        scales.of_floats()?;
        biases.of_floats()?;
        weight.of_words()?;
        let bits = tensors.number("bits").ok_or("there is no number of bits")?;
        let size = tensors.number("group_size").ok_or("there is no group size")?;
        let [rows, row_groups] = scales.matrix()?;
        expect("biases", biases.elements(), scales.elements())?;
        let size_of = usize::try_from(size).map_err(|_| format!("group size {size}"))?;
        let columns = row_groups.checked_mul(size_of).ok_or("the shape overflows")?;
        let settings = Settings::default().with(GROUP_SIZE, Value::Integer(size));
        let settings = with_scale_dtype(settings, &scales);
        let name = format!("mlx{bits}");
        let outline = tensors.outline([rows, columns], &name, settings, Cut::Rows(1))?;
        let row_bytes = outline.codes.as_ref().map_or(0, |(bound, _)| bound.layout.row_bytes);
        expect("bytes of codes", Some(weight.byte_count()), rows.checked_mul(row_bytes))?;
        Ok(Self { outline, weight, scales, biases, row_bytes, row_groups })
    }
}

impl Foreign for Mlx {
    fn outline(&self) -> &Outline {
        &self.outline
    }

    fn data(&self, Place { row, rows, .. }: Place) -> Data {
        let start = self.weight.start() + (row * self.row_bytes) as u64;
        Data::Plain(start..start + (rows * self.row_bytes) as u64)
    }

    fn parameters(&self, Place { row, rows, .. }: Place) -> io::Result<Parameters> {
        let groups = row * self.row_groups..(row + rows) * self.row_groups;
        Ok(Parameters {
            scales: Some(self.scales.floats(groups.clone())?),
            biases: Some(self.biases.floats(groups)?),
            ..Parameters::default()
        })
    }
}
