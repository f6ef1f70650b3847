//! Files that hold nothing but tensors' numbers, as ONNX models name them by place.

use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;

use super::TensorSpec;
use super::tensor_writer::{Place, TensorWriter};
use crate::dtype;
use crate::error::CallError;

/// Where large tensors begin: at a page, so that they can be mapped.
const PAGE: u64 = 4096;
/// What is large.
const LARGE: u64 = 1 << 16;
/// Where others begin.
const ALIGNMENT: u64 = 64;

/// Where each tensor lies, by name.
pub type Places = Vec<(String, Range<u64>)>;

/// Lay out `tensors` in their order, and tell where each one lies.
///
/// # Errors
/// Two tensors have one name, a dtype is not known, a shape is impossible, or the file can't be written.
pub fn create(path: &Path, tensors: Vec<TensorSpec>) -> Result<(TensorWriter, Places), CallError> {
    let fail = |why: String| CallError::File { path: path.display().to_string(), why };
    let mut names = HashSet::new();
    if let Some(twice) = tensors.iter().find(|tensor| !names.insert(&tensor.name)) {
        return Err(CallError::DuplicateLayer(twice.name.clone(), "ONNX"));
    }
    let mut at = 0u64;
    let mut places = Vec::with_capacity(tensors.len());
    for TensorSpec { name, dtype, shape } in tensors {
        let block = dtype::block(&dtype);
        let block = block.ok_or_else(|| fail(format!("layer '{name}': unknown type '{dtype}'")))?;
        let elements = shape.iter().try_fold(1u64, |all, &size| {
            u64::try_from(size).ok().and_then(|size| all.checked_mul(size))
        });
        let bytes = elements.and_then(|elements| block.bytes_of(elements));
        let bytes = bytes
            .ok_or_else(|| fail(format!("layer '{name}': {dtype} {shape:?} is no whole bytes")))?;
        let alignment = if bytes >= LARGE { PAGE } else { ALIGNMENT };
        let start = at.checked_next_multiple_of(alignment);
        let end = start.and_then(|start| start.checked_add(bytes));
        let (Some(start), Some(end)) = (start, end) else {
            return Err(fail(format!("layer '{name}' overflows")));
        };
        places.push(Place { name, block, range: start..end });
        at = end;
    }
    let told = places.iter().map(|place| (place.name.clone(), place.range.clone())).collect();
    let writer = TensorWriter::begin(path, &[], at, places);
    Ok((writer.map_err(|error| fail(error.to_string()))?, told))
}
