//! ggml's blocks, in GGUF files: most are schemes of ours as they are; those of MXFP4 and NVFP4 are taken
//! apart into codes and scales.
//!
//! Source: `block_mxfp4` and `block_nvfp4` in
//! <https://github.com/ggml-org/llama.cpp/blob/master/ggml/src/ggml-common.h>. A scale of NVFP4 has no sign, and
//! its byte 0x7f is zero.

use std::io;
use std::sync::Arc;

use super::side::{Side, power_of_two};
use super::{Cut, Data, Foreign, Outline, Parameters, Place, Tensors, bind};
use crate::dtype::{self, Block, Float};
use crate::kernel::convert::f8_e4m3_to_f32;
use crate::settings::Settings;

/// The weights of a tensor of blocks.
pub(super) fn open(tensors: &Tensors<'_>) -> Result<Arc<dyn Foreign>, String> {
    let main = tensors.main.clone();
    let block = dtype::block(main.dtype()).ok_or("its type is not known")?;
    let shape = main.shape();
    let (&columns, leading) = shape.split_last().ok_or("it has no dimensions")?;
    let rows = leading.iter().try_fold(1usize, |all, &size| all.checked_mul(size));
    let rows = rows.ok_or("the shape overflows")?;
    let scheme = main.dtype().to_ascii_lowercase();
    let codes = bind(&scheme, [rows, columns], Float::F32, Settings::default())?;
    let elements = block.elements;
    if scheme == "nvfp4"
        && let Some(scales) = scales_of_stack(tensors, &shape)?
    {
        return stack(tensors, &shape, block, scales);
    }
    let cut = Cut::Groups(name_of(main.dtype())?, 1, elements);
    let outline = tensors.outline_of([rows, columns], Float::F32, Some(codes), cut);
    let outline = Outline { shape: shape.iter().map(|&size| size as i64).collect(), ..outline };
    let row_blocks = columns as u64 / elements;
    Ok(match scheme.as_str() {
        "mxfp4" => {
            Arc::new(Apart { outline, main, block, row_blocks, rows: 0, scales: Vec::new() })
        }
        "nvfp4" => {
            let scales = vec![super::floats::tensor_scale(tensors)?];
            Arc::new(Apart { outline, main, block, row_blocks, rows: 0, scales })
        }
        _ => Arc::new(Whole { outline, main, block, row_blocks }),
    })
}

/// The scales of the matrices of a stack, where there is one for each.
fn scales_of_stack(tensors: &Tensors<'_>, shape: &[usize]) -> Result<Option<Vec<f32>>, String> {
    let (&[count, ..], Some(side)) = (shape, tensors.side("multiplier")?) else { return Ok(None) };
    if shape.len() != 3 || side.elements() != Some(count) || count < 2 {
        return Ok(None);
    }
    let scales = side.of_floats()?.floats(0..count).map_err(|error| error.to_string())?;
    match scales.iter().find(|scale| !(scale.is_finite() && **scale > 0.0)) {
        Some(scale) => Err(format!("a scale of the tensor is {scale}")),
        None => Ok(Some(scales)),
    }
}

/// A stack of matrices, each with a scale of its own.
fn stack(
    tensors: &Tensors<'_>,
    shape: &[usize],
    block: Block,
    scales: Vec<f32>,
) -> Result<Arc<dyn Foreign>, String> {
    let &[count, rows, columns] = shape else { return Err("it is no stack".to_owned()) };
    let main = tensors.main.clone();
    let codes = bind("nvfp4", [rows, columns], Float::F32, Settings::default())?;
    let cut = Cut::Groups(name_of(main.dtype())?, 1, block.elements);
    let outline = tensors.outline_of([rows, columns], Float::F32, Some(codes), cut);
    let all = shape.iter().map(|&size| size as i64).collect();
    let outline = Outline { stack: Some((count, all, -1)), ..outline };
    let row_blocks = columns as u64 / block.elements;
    Ok(Arc::new(Apart { outline, main, block, row_blocks, rows, scales }))
}

fn name_of(dtype: &str) -> Result<&'static str, String> {
    dtype::canonical(dtype).ok_or_else(|| format!("type {dtype} is not known"))
}

/// The blocks of a stretch, counted over the tensor.
fn blocks(place: Place, row_blocks: u64, elements: u64) -> std::ops::Range<u64> {
    let Place { row, rows, column, width, .. } = place;
    let first = row as u64 * row_blocks + column as u64 / elements;
    first..first + (rows * width) as u64 / elements
}

/// Blocks that are a scheme of ours.
#[derive(Debug)]
struct Whole {
    outline: Outline,
    main: Side,
    block: Block,
    row_blocks: u64,
}

impl Foreign for Whole {
    fn outline(&self) -> &Outline {
        &self.outline
    }

    fn data(&self, place: Place) -> Data {
        let blocks = blocks(place, self.row_blocks, self.block.elements);
        let at = |block: u64| self.main.start() + block * self.block.bytes;
        Data::Plain(at(blocks.start)..at(blocks.end))
    }
}

/// Blocks that are taken apart.
#[derive(Debug)]
struct Apart {
    outline: Outline,
    main: Side,
    block: Block,
    row_blocks: u64,
    /// Of each matrix of a stack.
    rows: usize,
    /// Of NVFP4: of the tensor, or of each matrix.
    scales: Vec<f32>,
}

impl Apart {
    /// Scales of a block, each for as many codes, which come after them.
    fn scales(&self) -> usize {
        if self.scales.is_empty() { 1 } else { 4 }
    }

    fn bytes(&self, place: Place) -> io::Result<arrow_buffer::Buffer> {
        let place = Place { row: place.matrix * self.rows + place.row, ..place };
        let blocks = blocks(place, self.row_blocks, self.block.elements);
        let at = |block: u64| (block * self.block.bytes) as usize;
        self.main.bytes(at(blocks.start)..at(blocks.end))
    }
}

impl Foreign for Apart {
    fn outline(&self) -> &Outline {
        &self.outline
    }

    fn data(&self, Place { rows, width, .. }: Place) -> Data {
        Data::Made((rows * width / 2) as u64)
    }

    /// Codes lie in halves: byte `j` of a group has the codes `j` and `j + half`.
    fn make(&self, place: Place, out: &mut Vec<u8>) -> io::Result<()> {
        let half = self.block.elements as usize / self.scales() / 2;
        for block in self.bytes(place)?.chunks_exact(self.block.bytes as usize) {
            for group in block[self.scales()..].chunks_exact(half) {
                let code = |at: usize| match at < half {
                    true => group[at] & 15,
                    false => group[at - half] >> 4,
                };
                out.extend((0..half).map(|pair| code(2 * pair) | (code(2 * pair + 1) << 4)));
            }
        }
        Ok(())
    }

    fn parameters(&self, place: Place) -> io::Result<Parameters> {
        let tensor_scale = self.scales.get(place.matrix).or(self.scales.first()).copied();
        let scale = |byte: &u8| match (tensor_scale, *byte) {
            (None, byte) => power_of_two(byte),
            (Some(_), 0x7f) => 0.0,
            // What the bits would be, were they no NaN.
            (Some(_), 0xff) => 480.0,
            (Some(_), byte) => f8_e4m3_to_f32(byte & 0x7f),
        };
        let bytes = self.bytes(place)?;
        let each = bytes.chunks_exact(self.block.bytes as usize);
        let scales = each.flat_map(|block| &block[..self.scales()]).map(scale).collect();
        Ok(Parameters { scales: Some(scales), tensor_scale, ..Parameters::default() })
    }
}
