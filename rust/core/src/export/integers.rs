//! What formats of integers share: scales at their own width, and words packed along rows.

use super::matrix::Matrix;
use super::rows::Tensors;
use super::stretch::Stretch;
use crate::dtype::{Float, ScaleDtype};
use crate::kernel::dispatch;
use crate::lanes::Level;

/// Bits of a word.
const WORD: usize = 32;

/// The bits of a code, of the schemes of integers that a format has.
pub(super) fn bits(matrix: &Matrix, known: &[(&str, usize)]) -> Option<usize> {
    known.iter().find(|(scheme, _)| *scheme == matrix.scheme()).map(|(_, bits)| *bits)
}

/// Scales, which are rounded to that type already, at its width.
pub(super) fn scale_bytes(scales: &[f32], dtype: ScaleDtype) -> Vec<u8> {
    match dtype {
        ScaleDtype::F32 => scales.iter().flat_map(|scale| scale.to_le_bytes()).collect(),
        ScaleDtype::F16 => {
            scales.iter().flat_map(|scale| half::f16::from_f32(*scale).to_le_bytes()).collect()
        }
        ScaleDtype::BF16 => {
            scales.iter().flat_map(|scale| half::bf16::from_f32(*scale).to_le_bytes()).collect()
        }
        ScaleDtype::F8E4M3 => {
            let mut bytes = vec![0; scales.len()];
            dispatch::from_f32(Level::best(), Float::F8E4M3, scales, &mut bytes);
            bytes
        }
        // Zero exponents are float32's subnormal 2⁻¹²⁷.
        ScaleDtype::F8E8M0 => scales.iter().map(|scale| (scale.to_bits() >> 23) as u8).collect(),
    }
}

/// A matrix of codes, `columns` wide, packed along its first dimension: `per_word` rows a word, the
/// first in the lowest bits, padded with zero bits.
pub(super) fn pack_columns(codes: &[u8], columns: usize, per_word: usize) -> Vec<u8> {
    let bits = WORD / per_word;
    let mut words = vec![0u32; codes.len().div_ceil(columns * per_word) * columns];
    for (row, codes) in codes.chunks_exact(columns).enumerate() {
        let at = row / per_word * columns;
        for (word, &code) in words[at..at + columns].iter_mut().zip(codes) {
            *word |= u32::from(code) << (row % per_word * bits);
        }
    }
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Rows of `columns` numbers of some bytes each, turned around.
pub(super) fn turned(numbers: &[u8], columns: usize, width: usize) -> Vec<u8> {
    crate::container::transpose(numbers, numbers.len() / (columns * width).max(1), columns, width)
}

/// Write lines of a turned tensor: of each, `run` bytes' worth of elements begin at element `first`.
pub(super) fn push_lines(
    out: &mut Tensors<'_>,
    name: &str,
    lines: &[u8],
    (first_line, line, first, run): (usize, usize, usize, usize),
    width: usize,
) -> Result<(), String> {
    if first == 0 && run == line {
        return out.push(name, first_line * line, lines.to_vec());
    }
    for (at, bytes) in lines.chunks_exact(run * width).enumerate() {
        out.push(name, (first_line + at) * line + first, bytes.to_vec())?;
    }
    Ok(())
}

/// That words which hold several rows' numbers don't begin before the stretch.
pub(super) fn check_words(stretch: &Stretch<'_, '_>, per_word: usize) -> Result<(), String> {
    let is_last = stretch.row + stretch.rows == stretch.matrix().rows;
    if stretch.row.is_multiple_of(per_word) && (is_last || stretch.rows.is_multiple_of(per_word)) {
        return Ok(());
    }
    Err("a part begins within a word of packed rows. Quantize again with larger parts \
         (--part-mib)"
        .into())
}

/// That nobody says of scales that they may be negative. vLLM's Marlin multiplies by negative ones, but with
/// activations of 8 bits it divides all scales by the largest one, not by the largest magnitude.
///
/// Source: `marlin_act_int8_process_scales` in vLLM's `quantization/utils/marlin_utils.py`.
pub(super) fn check_positive(matrix: &Matrix) -> Result<(), String> {
    if !matrix.bound.layout.has_signed_scales() {
        return Ok(());
    }
    Err("it has signed_scales, and not all kernels that load the format take negative scales. Quantize the \
         layer with signed_scales false (--no-signed-scales)"
        .to_owned())
}

/// What scales of float32 are written as: float16 numbers, or bfloat16 where they are that already.
pub(super) fn half_scales(matrix: &Matrix) -> ScaleDtype {
    match matrix.bound.layout.grouping.scale_dtype {
        ScaleDtype::BF16 => ScaleDtype::BF16,
        _ => ScaleDtype::F16,
    }
}

/// That scales are numbers of the type as which they are written.
pub(super) fn check_half(stretch: &Stretch<'_, '_>) -> Result<(), String> {
    let dtype = half_scales(stretch.matrix());
    let changes = |scale: &&f32| match dtype {
        ScaleDtype::F16 => half::f16::from_f32(**scale).to_f32() != **scale,
        _ => half::bf16::from_f32(**scale).to_f32() != **scale,
    };
    match stretch.scales.iter().find(changes) {
        None => Ok(()),
        Some(scale) => Err(format!(
            "its scale {scale} is no {} number, which the format has. Quantize the layer with \
             scale_dtype F16 or BF16",
            dtype.name()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_points_are_packed_along_rows() {
        // Nine rows of two groups at four bits: eight rows in the first words, one in the next.
        let codes: Vec<u8> = (0..18).map(|at| at % 16).collect();
        let words = pack_columns(&codes, 2, 8);
        let words: Vec<u32> =
            words.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
        assert_eq!(words, [0xECA8_6420, 0xFDB9_7531, 0, 1]);
    }
}
