//! GPTQ's first format: `qweight`, int32 `[columns·bits/32, rows]`, packed along the columns; `qzeros`,
//! int32 `[groups, rows·bits/32]`, which stores zero points less one; `scales` `[groups, rows]`; `g_idx`,
//! int32 `[columns]`.
//!
//! Source: GPTQModel's `nn_modules/qlinear/torch.py`.

use super::format::Format;
use super::integers::{
    bits, check_half, check_positive, check_words, half_scales, pack_columns, push_lines,
    scale_bytes, turned,
};
use super::matrix::Matrix;
use super::rows::Tensors;
use super::stretch::Stretch;
use crate::sink::TensorSpec;

const BITS: &[(&str, usize)] = &[("int8", 8), ("int4", 4)];
const NAMES: [&str; 4] = ["qweight", "qzeros", "scales", "g_idx"];

#[derive(Debug)]
pub(super) struct Gptq;

fn bits_of(matrix: &Matrix) -> Result<usize, String> {
    bits(matrix, BITS).ok_or_else(|| matrix.refuse("GPTQ", "int8, int4"))
}

impl Format for Gptq {
    fn name(&self) -> &'static str {
        "gptq"
    }

    fn tensors(&self, matrix: &Matrix) -> Result<Vec<TensorSpec>, String> {
        let module = matrix.module()?;
        let bits = bits_of(matrix)?;
        check_positive(matrix)?;
        let (rows, columns, groups) = (matrix.rows, matrix.columns, matrix.groups()?);
        let per_word = 32 / bits;
        if !rows.is_multiple_of(per_word) || !columns.is_multiple_of(per_word) {
            return Err(format!(
                "its shape [{rows}, {columns}] is no multiple of {per_word}, of which the format \
                 has words. Keep the layer, or write compressed-tensors"
            ));
        }
        let shapes: [(&str, &[usize]); 4] = [
            ("I32", &[columns / per_word, rows]),
            ("I32", &[groups, rows / per_word]),
            (half_scales(matrix).name(), &[groups, rows]),
            ("I32", &[columns]),
        ];
        let specs = NAMES.iter().zip(shapes);
        Ok(specs
            .map(|(name, (dtype, shape))| matrix.spec(format!("{module}.{name}"), dtype, shape))
            .collect())
    }

    fn check(&self, stretch: &Stretch<'_, '_>) -> Result<(), String> {
        check_half(stretch)?;
        check_words(stretch, 32 / bits_of(stretch.matrix())?)?;
        if stretch.zero_points.contains(&0) {
            return Err(
                "it has a zero point of 0, which the format, storing one less, can't say. \
                        Quantize the layer symmetric, or write AWQ or compressed-tensors"
                    .to_owned(),
            );
        }
        Ok(())
    }

    fn write(&self, stretch: &Stretch<'_, '_>, out: &mut Tensors<'_>) -> Result<(), String> {
        let matrix = stretch.matrix();
        let module = matrix.module()?;
        let bits = bits_of(matrix)?;
        let per_word = 32 / bits;
        check_words(stretch, per_word)?;
        if stretch.width != matrix.columns {
            return Err("a part is less than a row. Quantize again with larger parts (--part-mib)"
                .to_owned());
        }
        let [codes, points, scales, order] = NAMES.map(|name| format!("{module}.{name}"));
        let (groups, dtype) = (stretch.groups(), half_scales(matrix));
        let place = (0, matrix.rows, stretch.row, stretch.rows);
        let words = turned(&stretch.data, matrix.columns / per_word, 4);
        push_lines(out, &codes, &words, place, 4)?;
        let found = turned(&scale_bytes(&stretch.scales, dtype), groups, 2);
        push_lines(out, &scales, &found, place, 2)?;
        // Symmetric codes have their middle as zero point.
        let middle = 1u8 << (bits - 1);
        let less = |at: usize| stretch.zero_points.get(at).unwrap_or(&middle).wrapping_sub(1);
        let stored: Vec<u8> = (0..stretch.rows * groups).map(less).collect();
        let words = turned(&pack_columns(&stored, groups, per_word), groups, 4);
        let rows = stretch.rows.div_ceil(per_word);
        let place = (0, matrix.rows / per_word, stretch.row / per_word, rows);
        push_lines(out, &points, &words, place, 4)?;
        if stretch.row == 0 {
            let size = matrix.bound.layout.grouping.group_size;
            let of_group = |column: usize| ((column / size) as i32).to_le_bytes();
            out.push(&order, 0, (0..matrix.columns).flat_map(of_group).collect::<Vec<_>>())?;
        }
        Ok(())
    }
}
