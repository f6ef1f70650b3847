//! Containers: files of named tensors. A header becomes [`Entry`]s and metadata, and nothing that it
//! says is trusted; [`tensors`] makes rows of them.

mod codes;
mod foreign;
pub mod gguf;
pub mod meaning;
pub mod onnx;
pub mod parquet;
pub mod reader;
mod rows;
mod safetensors;
pub mod tensors;
mod transpose;

use crate::source::Source;

pub(crate) use transpose::transpose;

/// What a file says of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name, unique in the file.
    pub name: String,
    /// Our name of its type, or the file's where that is none that we know.
    pub dtype: String,
    /// Its dimensions, the one whose elements lie side by side last.
    pub shape: Vec<i64>,
    /// Where its bytes begin in the file.
    pub start: u64,
    /// Where they end.
    pub end: u64,
}

/// A value of a file's metadata.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A text.
    Text(String),
    /// A number below zero, or of a type that can be.
    Signed(i64),
    /// A number of a type without a sign.
    Unsigned(u64),
    /// A number with a fraction.
    Float(f64),
    /// Yes or no.
    Bool(bool),
    /// Values of one type.
    List(Vec<Value>),
}

/// What a file says of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Header {
    /// The tensors, in the order of their bytes; empty ones at one place by name.
    pub entries: Vec<Entry>,
    /// What it says beside, in its order.
    pub metadata: Vec<(String, Value)>,
}

/// What to do with a file that is not what it should be.
const ADVICE: &str = "Was the file copied whole?";

/// How a git-lfs pointer begins.
const LFS_POINTER: &[u8] = b"version https://git-lfs";

/// The header of a file of any kind that is known.
///
/// # Errors
/// The file can't be read, or its header contradicts itself or the file's size.
pub(crate) fn read_header(source: &Source) -> Result<Header, String> {
    check_no_pointer(source)?;
    let start = beginning(source, gguf::MAGIC.len() as u64)?;
    let is_onnx = || {
        source.path().extension().is_some_and(|suffix| suffix.eq_ignore_ascii_case(onnx::SUFFIX))
    };
    let mut header = if start.starts_with(gguf::MAGIC) {
        gguf::read(source)?
    } else if is_onnx() {
        Header { entries: onnx::read(source)?.entries, metadata: Vec::new() }
    } else {
        safetensors::read(source)?
    };
    header.entries.sort_by(|a, b| (a.start, a.end, &a.name).cmp(&(b.start, b.end, &b.name)));
    Ok(header)
}

/// Refuse what git-lfs leaves in a file's place.
fn check_no_pointer(source: &Source) -> Result<(), String> {
    if beginning(source, LFS_POINTER.len() as u64)? != LFS_POINTER {
        return Ok(());
    }
    Err("is a git-lfs pointer, not the file itself. Run `git lfs pull` to fetch it, or download \
         the file anew."
        .to_owned())
}

/// The file's first bytes, at most `count` of them.
fn beginning(source: &Source, count: u64) -> Result<Vec<u8>, String> {
    let count = count.min(source.size());
    let (buffer, start) = source.bytes(0..count).map_err(|error| error.to_string())?;
    Ok(buffer.slice_with_length(start as usize, count as usize).to_vec())
}
