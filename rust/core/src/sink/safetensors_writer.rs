//! safetensors files.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use super::TensorSpec;
use super::tensor_writer::{Place, TensorWriter};
use crate::dtype::{self, Block};
use crate::error::CallError;

/// Lay out `tensors`, wide dtypes first so that each is aligned, and write the header, whose
/// `__metadata__` gets a `format` where it has none: transformers asks for it.
///
/// # Errors
/// Two tensors have one name, a dtype is none of safetensors', a shape is impossible, or the file can't
/// be written.
pub fn create(
    path: &Path,
    mut tensors: Vec<TensorSpec>,
    mut metadata: BTreeMap<String, String>,
) -> Result<TensorWriter, CallError> {
    let fail = |why: String| CallError::File { path: path.display().to_string(), why };
    let width = |tensor: &TensorSpec| dtype::block(&tensor.dtype).map_or(0.0, Block::bits);
    tensors.sort_by(|a, b| width(b).total_cmp(&width(a)).then_with(|| a.name.cmp(&b.name)));
    let mut names = HashSet::new();
    if let Some(twice) = tensors.iter().find(|tensor| !names.insert(&tensor.name)) {
        return Err(CallError::DuplicateLayer(twice.name.clone(), "safetensors"));
    }
    let mut infos = Vec::with_capacity(tensors.len());
    let mut at = 0usize;
    for tensor in &tensors {
        let info = info(tensor, at).map_err(&fail)?;
        at = info.data_offsets.1;
        infos.push((tensor.name.clone(), info));
    }
    metadata.entry("format".to_owned()).or_insert_with(|| "pt".to_owned());
    let header = Metadata::new(None, infos.clone()).map_err(|error| fail(error.to_string()))?;
    let text = header_text(&header, &metadata).map_err(|error| fail(error.to_string()))?;
    let length = text.len().next_multiple_of(8);
    let mut header = (length as u64).to_le_bytes().to_vec();
    header.extend(text);
    header.resize(length + 8, b' ');
    let start = header.len() as u64;
    let places = tensors.iter().zip(infos).map(|(tensor, (name, info))| {
        let (from, to) = info.data_offsets;
        let block = dtype::block(&tensor.dtype);
        let block = block.unwrap_or(Block { elements: 1, bytes: 1 });
        Place { name, block, range: start + from as u64..start + to as u64 }
    });
    TensorWriter::begin(path, &header, start + at as u64, places.collect())
        .map_err(|error| fail(error.to_string()))
}

/// The header as JSON. The crate would write metadata in any order, and the same file must come out
/// each time.
fn header_text(
    header: &Metadata,
    metadata: &BTreeMap<String, String>,
) -> serde_json::Result<Vec<u8>> {
    let tensors = serde_json::to_vec(header)?;
    let mut text = b"{\"__metadata__\":".to_vec();
    text.extend(serde_json::to_vec(metadata)?);
    if tensors.len() > 2 {
        text.push(b',');
    }
    text.extend(&tensors[1..]);
    Ok(text)
}

fn info(tensor: &TensorSpec, at: usize) -> Result<TensorInfo, String> {
    let name = &tensor.name;
    let dtype: Dtype = serde_json::from_value(tensor.dtype.clone().into())
        .map_err(|_| format!("layer '{name}': safetensors has no dtype '{}'", tensor.dtype))?;
    let shape: Option<Vec<usize>> =
        tensor.shape.iter().map(|&dimension| usize::try_from(dimension).ok()).collect();
    let shape =
        shape.ok_or_else(|| format!("layer '{name}': negative shape {:?}", tensor.shape))?;
    let bits =
        shape.iter().try_fold(dtype.bitsize(), |bits, &dimension| bits.checked_mul(dimension));
    let end = bits.and_then(|bits| at.checked_add(bits / 8));
    let end = end.ok_or_else(|| format!("layer '{name}': shape {shape:?} overflows"))?;
    Ok(TensorInfo { dtype, shape, data_offsets: (at, end) })
}
