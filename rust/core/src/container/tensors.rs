//! A file of named tensors as a weights relation. The file *is* an Arrow column: its bytes, mapped,
//! are the values of a large_binary array, and where its tensors begin and end are the offsets.
//!
//! Its rows are those of [`super::reader`].

use std::path::Path;
use std::sync::Arc;

use arrow_buffer::Buffer;

use super::{Entry, Header, Value, read_header};
use crate::error::CallError;
use crate::source::Source;

/// An opened file whose header was checked.
#[derive(Clone, Debug)]
pub struct TensorFile {
    source: Source,
    header: Arc<Header>,
}

impl TensorFile {
    /// Open `path` and check its header.
    ///
    /// # Errors
    /// The file can't be read or its header contradicts itself; the message names the file.
    pub fn open(path: &Path, mmap: bool) -> Result<Self, CallError> {
        let source = Source::open(path, mmap).map_err(|error| CallError::File {
            path: path.display().to_string(),
            why: error.to_string(),
        })?;
        Self::read(source)
    }

    /// The same of a file's bytes in memory, which messages call `name`.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn given(name: &Path, bytes: Buffer) -> Result<Self, CallError> {
        Self::read(Source::given(name, bytes))
    }

    fn read(source: Source) -> Result<Self, CallError> {
        let header = read_header(&source)
            .map_err(|why| CallError::File { path: source.path().display().to_string(), why })?;
        Ok(Self { header: Arc::new(header), source })
    }

    /// The tensors, in the order of their bytes.
    pub fn entries(&self) -> &[Entry] {
        &self.header.entries
    }

    /// What the file says beside its tensors.
    pub fn metadata(&self) -> &[(String, Value)] {
        &self.header.metadata
    }

    /// The bytes, wherever they are.
    pub fn source(&self) -> &Source {
        &self.source
    }
}
