//! ONNX Runtime's operators that take weights quantized, and ONNX's own.
//!
//! `MatMulNBits` for integers: codes, uint8 `[rows, blocks, bytes of a block]`, the first code in the
//! lowest bits; scales and zero points `[rows, blocks]`, zero points packed as codes are, each row from a
//! byte of its own. `MatMulBnb4` for bitsandbytes' types: codes and scales of the matrix as one line.
//! `DequantizeLinear` for FP8, and in the second layout for integers: codes `[columns, rows]`, scales
//! `[columns of blocks, rows]`.
//!
//! Sources: <https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md>,
//! <https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html>. Names of tensors are those that ONNX
//! Runtime's own quantizer gives.

use super::format::Format;
use super::integers::{bits, check_words, push_lines, scale_bytes, turned};
use super::matrix::Matrix;
use super::rows::Tensors;
use super::stretch::Stretch;
use crate::dtype::{Float, ScaleDtype};
use crate::sink::TensorSpec;

const BITS: &[(&str, usize)] = &[("int8", 8), ("int4", 4), ("int2", 2)];
/// Sizes of blocks that `MatMulNBits` has.
const BLOCKS: [usize; 5] = [16, 32, 64, 128, 256];
/// The one that `MatMulBnb4` has in common with bitsandbytes.
const BNB_BLOCK: usize = 64;

/// A layout of ONNX.
#[derive(Debug)]
pub(super) struct Onnx {
    /// Whether all weights go through `DequantizeLinear`.
    pub(super) is_qdq: bool,
}

/// The operator that takes a matrix.
enum Operator {
    NBits(usize),
    Bnb4,
    Dequantize(usize),
}

impl Onnx {
    fn operator(&self, matrix: &Matrix) -> Result<Operator, String> {
        match (matrix.scheme(), bits(matrix, BITS)) {
            ("fp8_e4m3", _) => Ok(Operator::Dequantize(8)),
            (_, Some(bits)) if self.is_qdq && bits > 2 => Ok(Operator::Dequantize(bits)),
            _ if self.is_qdq => Err(matrix.refuse("this layout", "int8, int4, fp8_e4m3")),
            (_, Some(bits)) => Ok(Operator::NBits(bits)),
            ("nf4" | "bnb_fp4", _) => Ok(Operator::Bnb4),
            _ => {
                let known = "int8, int4, int2, nf4, bnb_fp4, fp8_e4m3";
                Err(matrix.refuse("ONNX Runtime", known))
            }
        }
    }
}

/// The type of scales: that of the numbers which the matrix is multiplied by.
fn scale_dtype(matrix: &Matrix) -> Result<ScaleDtype, String> {
    match matrix.source {
        Float::F32 => Ok(ScaleDtype::F32),
        Float::F16 => Ok(ScaleDtype::F16),
        Float::BF16 => Ok(ScaleDtype::BF16),
        other => Err(format!("its type {} is none that the operators multiply by", other.name())),
    }
}

fn width(dtype: ScaleDtype) -> usize {
    match dtype {
        ScaleDtype::F32 => 4,
        _ => 2,
    }
}

/// The size of `MatMulNBits`'s blocks; a row that is one group is one block, filled up.
fn block_size(matrix: &Matrix) -> Result<usize, String> {
    let size = matrix.bound.layout.grouping.group_size;
    let fits = |block: &&usize| **block == size || (size == matrix.columns && **block > size);
    BLOCKS.iter().find(fits).copied().ok_or_else(|| {
        format!(
            "its group size is {size}, and MatMulNBits has 16, 32, 64, 128 and 256. Quantize the \
             layer with one of these"
        )
    })
}

/// The middle of codes, which is a symmetric layer's zero point.
fn middle(bits: usize) -> u8 {
    1 << (bits - 1)
}

fn is_symmetric(matrix: &Matrix) -> bool {
    matrix.bound.layout.zero_point_bits.is_none()
}

/// Numbers of a few bits, packed line after line, the first in the lowest bits; each line begins a byte.
fn pack(numbers: &[u8], line: usize, bits: usize) -> Vec<u8> {
    let per_byte = 8 / bits;
    let of_byte = |numbers: &[u8]| {
        numbers.iter().enumerate().fold(0, |byte, (at, number)| byte | number << (at * bits))
    };
    numbers.chunks(line.max(1)).flat_map(|line| line.chunks(per_byte).map(of_byte)).collect()
}

/// The codes of rows of so many columns and bytes that are packed so, each in a byte.
fn unpack(data: &[u8], [columns, row_bytes]: [usize; 2], bits: usize) -> Vec<u8> {
    let per_byte = 8 / bits;
    let mask = u8::MAX >> (8 - bits);
    let codes = |row: &'_ [u8]| -> Vec<u8> {
        let code = |at: usize| row[at / per_byte] >> (at % per_byte * bits) & mask;
        (0..columns).map(code).collect()
    };
    data.chunks_exact(row_bytes).flat_map(codes).collect()
}

impl Format for Onnx {
    fn name(&self) -> &'static str {
        if self.is_qdq { "onnx-qdq" } else { "onnx" }
    }

    fn tensors(&self, matrix: &Matrix) -> Result<Vec<TensorSpec>, String> {
        let operator = self.operator(matrix)?;
        let dtype = scale_dtype(matrix)?.name();
        let (rows, columns) = (matrix.rows, matrix.columns);
        let layout = &matrix.bound.layout;
        let spec = |suffix: &str, dtype: &str, shape: &[usize]| {
            matrix.spec(format!("{}{suffix}", matrix.name), dtype, shape)
        };
        match operator {
            Operator::NBits(bits) => {
                let size = block_size(matrix)?;
                let blocks = columns.div_ceil(size);
                let mut found = vec![
                    spec(&format!("_Q{bits}"), "U8", &[rows, blocks, size * bits / 8]),
                    spec("_scales", dtype, &[rows, blocks]),
                ];
                if !is_symmetric(matrix) {
                    let bytes = (blocks * bits).div_ceil(8);
                    found.push(spec("_zero_points", "U8", &[rows, bytes]));
                }
                Ok(found)
            }
            Operator::Bnb4 => {
                let count = rows * columns;
                Ok(vec![
                    spec("_Bnb4", "U8", &[count.div_ceil(2)]),
                    spec("_absmax", dtype, &[count.div_ceil(BNB_BLOCK)]),
                ])
            }
            Operator::Dequantize(bits) => {
                let groups = matrix.groups()?;
                let per_byte = 8 / bits;
                if !rows.is_multiple_of(per_byte) {
                    return Err(format!(
                        "it has {rows} outputs, of which two codes share a byte. Keep the layer, or \
                         write onnx"
                    ));
                }
                let scales = match (layout.has_one_scale(), groups) {
                    (true, _) => vec![],
                    (false, 1) => vec![rows],
                    (false, _) => vec![groups, rows],
                };
                let mut found = vec![
                    spec("_quantized", "U8", &[columns, rows / per_byte]),
                    spec("_scale", dtype, &scales),
                ];
                if layout.zero_point_bits.is_some() {
                    let line = rows / per_byte;
                    let points = if groups == 1 { vec![line] } else { vec![groups, line] };
                    found.push(spec("_zero_point", "U8", &points));
                }
                Ok(found)
            }
        }
    }

    fn check(&self, stretch: &Stretch<'_, '_>) -> Result<(), String> {
        let dtype = scale_dtype(stretch.matrix())?;
        let is_changed = |scale: &&f32| match dtype {
            ScaleDtype::F16 => half::f16::from_f32(**scale).to_f32() != **scale,
            ScaleDtype::BF16 => half::bf16::from_f32(**scale).to_f32() != **scale,
            _ => false,
        };
        match stretch.scales.iter().find(is_changed) {
            None => Ok(()),
            Some(scale) => Err(format!(
                "its scale {scale} is no {} number, as which the operators take scales of such \
                 weights. Quantize the layer with scale_dtype {0}",
                dtype.name()
            )),
        }
    }

    fn write(&self, stretch: &Stretch<'_, '_>, out: &mut Tensors<'_>) -> Result<(), String> {
        let matrix = stretch.matrix();
        let operator = self.operator(matrix)?;
        let dtype = scale_dtype(matrix)?;
        self.check(stretch)?;
        let name = |suffix: &str| format!("{}{suffix}", matrix.name);
        if matches!(operator, Operator::Bnb4) {
            let first = stretch.row * matrix.columns + stretch.column;
            if !first.is_multiple_of(BNB_BLOCK) {
                return Err(format!(
                    "a part begins within a block of {BNB_BLOCK}. Quantize again with larger parts \
                     (--part-mib)"
                ));
            }
            out.push(&name("_Bnb4"), first / 2, stretch.data.clone())?;
            let scales = scale_bytes(&stretch.scales, dtype);
            return out.push(&name("_absmax"), first / BNB_BLOCK, scales);
        }
        if stretch.width != matrix.columns {
            return Err("a part is less than a row. Quantize again with larger parts (--part-mib)"
                .to_owned());
        }
        match operator {
            Operator::NBits(bits) => by_blocks(stretch, bits, dtype, out),
            Operator::Dequantize(bits) => turned_around(stretch, bits, dtype, out),
            Operator::Bnb4 => Ok(()),
        }
    }
}

/// Rows for `MatMulNBits`.
fn by_blocks(
    stretch: &Stretch<'_, '_>,
    bits: usize,
    dtype: ScaleDtype,
    out: &mut Tensors<'_>,
) -> Result<(), String> {
    let matrix = stretch.matrix();
    let name = |suffix: &str| format!("{}{suffix}", matrix.name);
    let size = block_size(matrix)?;
    let blocks = matrix.columns.div_ceil(size);
    let row_bytes = blocks * size * bits / 8;
    let own = stretch.layout.row_bytes;
    let codes = if own == row_bytes {
        stretch.data.clone()
    } else {
        // The last block is filled up.
        let mut codes = vec![0; stretch.rows * row_bytes];
        let rows = codes.chunks_exact_mut(row_bytes).zip(stretch.data.chunks_exact(own));
        for (row, data) in rows {
            row[..own].copy_from_slice(data);
        }
        codes.into()
    };
    out.push(&name(&format!("_Q{bits}")), stretch.row * row_bytes, codes)?;
    let scales = scale_bytes(&stretch.scales, dtype);
    out.push(&name("_scales"), stretch.row * blocks, scales)?;
    if is_symmetric(matrix) {
        return Ok(());
    }
    let points = pack(&stretch.zero_points, blocks, bits);
    out.push(&name("_zero_points"), stretch.row * (blocks * bits).div_ceil(8), points)
}

/// Rows for `DequantizeLinear`, which become columns.
fn turned_around(
    stretch: &Stretch<'_, '_>,
    bits: usize,
    dtype: ScaleDtype,
    out: &mut Tensors<'_>,
) -> Result<(), String> {
    let matrix = stretch.matrix();
    let layout = &matrix.bound.layout;
    let name = |suffix: &str| format!("{}{suffix}", matrix.name);
    let per_byte = 8 / bits;
    check_words(stretch, per_byte)?;
    let (rows, groups) = (stretch.rows, stretch.groups());
    // Integers with their middle as zero point are written as signed ones.
    let flip = match matrix.scheme() {
        "fp8_e4m3" => 0,
        _ if layout.zero_point_bits.is_some() => 0,
        _ => middle(bits),
    };
    let mut codes = unpack(&stretch.data, [matrix.columns, stretch.layout.row_bytes], bits);
    codes.iter_mut().for_each(|code| *code ^= flip);
    let lines = pack(&turned(&codes, matrix.columns, 1), rows, bits);
    let place = (0, matrix.rows / per_byte, stretch.row / per_byte, rows / per_byte);
    push_lines(out, &name("_quantized"), &lines, place, 1)?;
    if layout.has_one_scale() {
        let scale = scale_bytes(&stretch.scales[..1], dtype);
        return if stretch.row == 0 { out.push(&name("_scale"), 0, scale) } else { Ok(()) };
    }
    // A row of each block of rows has the block's scales.
    let first = stretch.row / layout.group_rows;
    let of_row = |row: usize| {
        let block = (stretch.row + row) / layout.group_rows - first;
        stretch.scales[block * groups..][..groups].iter().copied()
    };
    let scales: Vec<f32> = (0..rows).flat_map(of_row).collect();
    let scales = turned(&scale_bytes(&scales, dtype), groups, width(dtype));
    let place = (0, matrix.rows, stretch.row, rows);
    push_lines(out, &name("_scale"), &scales, place, width(dtype))?;
    if layout.zero_point_bits.is_none() {
        return Ok(());
    }
    let points = pack(&turned(&stretch.zero_points, groups, 1), rows, bits);
    let place = (0, matrix.rows / per_byte, stretch.row / per_byte, rows / per_byte);
    push_lines(out, &name("_zero_point"), &points, place, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_packed_line_by_line_and_taken_apart() {
        let codes = [1, 2, 3, 15, 0, 7];
        assert_eq!(pack(&codes, 3, 4), [0x21, 0x03, 0x0F, 0x07]);
        assert_eq!(unpack(&pack(&codes, 3, 4), [3, 2], 4), codes);
        assert_eq!(pack(&[1, 2, 3, 0, 1], 5, 2), [0b0011_1001, 1]);
    }
}
