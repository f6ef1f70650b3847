//! ggml's blocks, for GGUF: `data` as it is, and MXFP4 and NVFP4 put together of codes and scales.
//!
//! Source: `block_mxfp4` and `block_nvfp4` in
//! <https://github.com/ggml-org/llama.cpp/blob/master/ggml/src/ggml-common.h>: the scales of a block,
//! then its codes in halves: byte `j` of a group has the codes `j` and `j + half`.

use super::format::Format;
use super::integers::scale_bytes;
use super::matrix::Matrix;
use super::rows::Tensors;
use super::stretch::Stretch;
use crate::dtype::{self, ScaleDtype};
use crate::sink::TensorSpec;

#[derive(Debug)]
pub(super) struct Ggml;

/// The tensor that multiplies what the blocks decode to, of layers for which llama.cpp looks for one.
fn scale_name(matrix: &Matrix) -> Option<String> {
    let module = matrix.name.strip_suffix(".weight")?;
    module.starts_with("blk.").then(|| format!("{module}.scale"))
}

/// The scale of the tensor, where it is to be written; all matrices of a stack have theirs.
fn tensor_scale(matrix: &Matrix) -> Option<f32> {
    matrix.tensor_scale.filter(|&scale| scale != 1.0 || matrix.is_stacked)
}

impl Format for Ggml {
    fn name(&self) -> &'static str {
        "gguf"
    }

    fn tensors(&self, matrix: &Matrix) -> Result<Vec<TensorSpec>, String> {
        let dtype = matrix.scheme().to_ascii_uppercase();
        let block =
            dtype::block(&dtype).filter(|_| dtype::is_of_blocks(&dtype)).ok_or_else(|| {
                matrix.refuse(
                    "GGUF",
                    "q8_0, q6_k, q5_k, q5_1, q5_0, q4_k, q4_1, q4_0, iq4_nl, iq4_xs, \
                                   q3_k, q2_k, mxfp4, nvfp4",
                )
            })?;
        if !matrix.columns.is_multiple_of(block.elements as usize) {
            return Err(format!(
                "its rows of {} are no multiple of the {} weights of a block of {dtype}. Quantize \
                 the layer to a type with smaller blocks",
                matrix.columns, block.elements
            ));
        }
        let shape = [matrix.rows, matrix.columns];
        let mut specs = vec![matrix.spec(matrix.name.clone(), &dtype, &shape)];
        if let Some(scale) = tensor_scale(matrix) {
            let name = scale_name(matrix).ok_or_else(|| {
                format!(
                    "its tensor scale is {scale}, and llama.cpp has one for the layers of blocks \
                     only. Quantize the layer to another type"
                )
            })?;
            specs.push(matrix.spec(name, "F32", &[]));
        }
        Ok(specs)
    }

    fn write(&self, stretch: &Stretch<'_, '_>, out: &mut Tensors<'_>) -> Result<(), String> {
        let matrix = stretch.matrix();
        let at = stretch.row * matrix.columns + stretch.column;
        let (scales, half) = match matrix.scheme() {
            "mxfp4" => (1, 16),
            "nvfp4" => (4, 8),
            _ => return out.push(&matrix.name, at, stretch.data.clone()),
        };
        let bytes = scale_bytes(&stretch.scales, stretch.layout.grouping.scale_dtype);
        let mut blocks = Vec::with_capacity(stretch.data.len() + bytes.len());
        let groups: Vec<&[u8]> = stretch.data.chunks_exact(half).collect();
        for (scales, groups) in bytes.chunks_exact(scales).zip(groups.chunks_exact(scales)) {
            blocks.extend_from_slice(scales);
            for group in groups {
                let code = |at: usize| (group[at / 2] >> (at % 2 * 4)) & 15;
                blocks.extend((0..half).map(|at| code(at) | (code(at + half) << 4)));
            }
        }
        out.push(&matrix.name, at, blocks)?;
        if let (0, Some(scale), Some(name)) = (at, tensor_scale(matrix), scale_name(matrix)) {
            out.push(&name, 0, scale_bytes(&[scale], ScaleDtype::F32))?;
        }
        Ok(())
    }
}
