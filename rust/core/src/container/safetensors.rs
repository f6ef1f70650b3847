//! Headers of safetensors files.
//!
//! Source of the format: <https://github.com/huggingface/safetensors#format>. Headers are parsed
//! and checked by the safetensors crate.

use safetensors::tensor::Metadata;

use super::{ADVICE, Entry, Header, Value};
use crate::source::Source;

/// The format's limit.
const LARGEST_HEADER: u64 = 100_000_000;

/// The header, checked.
pub(super) fn read(source: &Source) -> Result<Header, String> {
    let (data_start, metadata) = read_metadata(source)?;
    let entry = |(name, info): (String, &safetensors::tensor::TensorInfo)| {
        let shape = info.shape.iter().map(|&dimension| i64::try_from(dimension));
        let shape = shape.collect::<Result<_, _>>();
        Ok(Entry {
            shape: shape.map_err(|_| format!("tensor '{name}' has the shape {:?}", info.shape))?,
            name,
            dtype: info.dtype.to_string(),
            start: data_start + info.data_offsets.0 as u64,
            end: data_start + info.data_offsets.1 as u64,
        })
    };
    let entries = metadata.tensors().into_iter().map(entry).collect::<Result<_, String>>()?;
    let mut said: Vec<_> = metadata.metadata().iter().flatten().collect();
    said.sort();
    let said = said.into_iter().map(|(key, text)| (key.clone(), Value::Text(text.clone())));
    Ok(Header { entries, metadata: said.collect() })
}

/// Where the tensors' bytes begin, and the header.
fn read_metadata(source: &Source) -> Result<(u64, Metadata), String> {
    let size = source.size();
    if size < 8 {
        return Err(format!("{size} bytes are no header. Is it a safetensors file? {ADVICE}"));
    }
    let length: [u8; 8] =
        super::beginning(source, 8)?.try_into().map_err(|_| "no header".to_owned())?;
    let length = u64::from_le_bytes(length);
    let Some(end) = length.checked_add(8).filter(|&end| end <= size) else {
        return Err(format!(
            "the header claims {length} bytes, but the file has {size}. Is it a safetensors file? \
             {ADVICE}"
        ));
    };
    if length > LARGEST_HEADER {
        return Err(format!(
            "the header claims {length} bytes, more than the format allows. {ADVICE}"
        ));
    }
    let header = super::beginning(source, end)?;
    let text = std::str::from_utf8(&header[8..]).map_err(|e| format!("{e}. {ADVICE}"))?;
    let header: Metadata = serde_json::from_str(text)
        .map_err(|e| format!("invalid header: {e}. Is it a safetensors file? {ADVICE}"))?;
    let expected = end.checked_add(header.data_len() as u64);
    if expected != Some(size) {
        let expected = expected.map_or("more".to_owned(), |bytes| bytes.to_string());
        return Err(format!(
            "the header asks for {expected} bytes, but the file has {size}. {ADVICE}"
        ));
    }
    Ok((end, header))
}
