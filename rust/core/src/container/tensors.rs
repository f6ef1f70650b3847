//! A file of named tensors as a weights relation. The file *is* an Arrow column: its bytes, mapped,
//! are the values of a large_binary array, and where its tensors begin and end are the offsets.
//!
//! Its rows are those of [`super::reader`].

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use arrow_buffer::Buffer;

use super::gguf::Pair;
use super::{Entry, Header, Value, read_header};
use crate::error::CallError;
use crate::source::Source;

/// An opened file whose header was checked.
#[derive(Clone, Debug)]
pub struct TensorFile {
    source: Source,
    header: Arc<Header>,
    /// Where each tensor is among them, by name; found when it is first asked for.
    places: Arc<OnceLock<HashMap<String, usize>>>,
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

    /// A file that says nothing of its tensors: somebody else does.
    ///
    /// # Errors
    /// The file can't be read, or ends before a tensor does.
    pub fn told(path: &Path, mmap: bool, mut entries: Vec<Entry>) -> Result<Self, CallError> {
        let fail = |why: String| CallError::File { path: path.display().to_string(), why };
        let source = Source::open(path, mmap).map_err(|error| fail(error.to_string()))?;
        let size = source.size();
        if let Some(Entry { name, end, .. }) = entries.iter().find(|entry| entry.end > size) {
            return Err(fail(format!("'{name}' ends at {end}, but the file has {size} bytes")));
        }
        entries.sort_by(|a, b| (a.start, a.end, &a.name).cmp(&(b.start, b.end, &b.name)));
        let header = Header { entries, metadata: Vec::new() };
        Ok(Self { header: Arc::new(header), source, places: Arc::default() })
    }

    fn read(source: Source) -> Result<Self, CallError> {
        let header = read_header(&source)
            .map_err(|why| CallError::File { path: source.path().display().to_string(), why })?;
        Ok(Self { header: Arc::new(header), source, places: Arc::default() })
    }

    /// The tensors, in the order of their bytes.
    pub fn entries(&self) -> &[Entry] {
        &self.header.entries
    }

    /// What the file says beside its tensors.
    pub fn metadata(&self) -> &[(String, Value)] {
        &self.header.metadata
    }

    /// The tensor of that name.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        let places = self.places.get_or_init(|| {
            let names = self.entries().iter().map(|entry| entry.name.clone());
            names.zip(0..).collect()
        });
        self.entries().get(*places.get(name)?)
    }

    /// The keys of a GGUF file, as they lie in it.
    ///
    /// # Errors
    /// It is none.
    pub fn pairs(&self) -> Result<Vec<Pair>, CallError> {
        super::gguf::pairs(&self.source)
            .map_err(|why| CallError::File { path: self.source.path().display().to_string(), why })
    }

    /// The bytes, wherever they are.
    pub fn source(&self) -> &Source {
        &self.source
    }
}
