//! GGUF files, version 3.
//!
//! Source: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::collections::HashSet;
use std::path::Path;

use super::TensorSpec;
use super::tensor_writer::{Place, TensorWriter};
use crate::container::gguf::{self, Pair};
use crate::dtype;
use crate::error::CallError;

const VERSION: u32 = 3;

/// Lay out `tensors` in their order after the file's keys.
///
/// # Errors
/// Two tensors have one name, a type is none of GGUF's, a shape is impossible, or the file can't be
/// written.
pub fn create(
    path: &Path,
    tensors: Vec<TensorSpec>,
    pairs: &[Pair],
) -> Result<TensorWriter, CallError> {
    let fail = |why: String| CallError::File { path: path.display().to_string(), why };
    let mut names = HashSet::new();
    if let Some(twice) = tensors.iter().find(|tensor| !names.insert(&tensor.name)) {
        return Err(CallError::DuplicateLayer(twice.name.clone(), "GGUF"));
    }
    let alignment = gguf::alignment_of(pairs).map_err(fail)?;
    let mut header = gguf::MAGIC.to_vec();
    header.extend(VERSION.to_le_bytes());
    header.extend((tensors.len() as u64).to_le_bytes());
    header.extend((pairs.len() as u64).to_le_bytes());
    for pair in pairs {
        push_text(&mut header, pair.key.as_bytes());
        header.extend(pair.kind.to_le_bytes());
        header.extend(&pair.value);
    }
    let mut at = 0u64;
    let mut places = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        let layout = layout(&tensor).map_err(fail)?;
        push_text(&mut header, tensor.name.as_bytes());
        header.extend((tensor.shape.len() as u32).to_le_bytes());
        for dimension in tensor.shape.iter().rev() {
            header.extend(dimension.to_le_bytes());
        }
        header.extend(layout.kind.to_le_bytes());
        header.extend(at.to_le_bytes());
        let end = at.checked_add(layout.bytes);
        let next = end.and_then(|end| end.checked_next_multiple_of(alignment));
        let (Some(end), Some(next)) = (end, next) else {
            return Err(fail(format!("tensor '{}' overflows", tensor.name)));
        };
        places.push(Place { name: tensor.name, block: layout.block, range: at..end });
        at = next;
    }
    header.resize(header.len().next_multiple_of(alignment as usize), 0);
    let start = header.len() as u64;
    for place in &mut places {
        place.range = start + place.range.start..start + place.range.end;
    }
    TensorWriter::begin(path, &header, start + at, places).map_err(|error| fail(error.to_string()))
}

struct Laid {
    kind: u32,
    block: dtype::Block,
    bytes: u64,
}

fn layout(tensor: &TensorSpec) -> Result<Laid, String> {
    let TensorSpec { name, dtype, shape } = tensor;
    let known = gguf::kind_of(dtype).zip(dtype::block(dtype));
    let (kind, block) =
        known.ok_or_else(|| format!("layer '{name}': GGUF has no type '{dtype}'"))?;
    let elements = shape.iter().try_fold(1u64, |all, &size| {
        u64::try_from(size).ok().and_then(|size| all.checked_mul(size))
    });
    let bytes = elements.and_then(|elements| block.bytes_of(elements));
    let bytes =
        bytes.ok_or_else(|| format!("layer '{name}': {dtype} {shape:?} is no whole blocks"))?;
    Ok(Laid { kind, block, bytes })
}

fn push_text(header: &mut Vec<u8>, text: &[u8]) {
    header.extend((text.len() as u64).to_le_bytes());
    header.extend(text);
}
