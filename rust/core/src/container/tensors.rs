//! A file of named tensors as a weights relation. The file *is* an Arrow column: its bytes, mapped,
//! are the values of a large_binary array, and where its tensors begin and end are the offsets.
//!
//! What a tensor means, and whether it is a stack of matrices, is told by whoever knows the whole
//! checkpoint: a [`Meaning`] for each.

use std::path::Path;
use std::sync::Arc;

use arrow_buffer::Buffer;

pub use super::reader::{TensorReader, TensorRows};
use super::rows::{matrices, whole};
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

    /// The file's tensors as rows, with what each means. Layers of more than `part_bytes` come in
    /// parts.
    ///
    /// `order` has the index of each of [`Self::entries`] once; that of the bytes is the fastest.
    ///
    /// # Errors
    /// There are other meanings than tensors, a stack is none that the tensor can be, or the order
    /// lacks a tensor or has one twice.
    pub fn rows(
        &self,
        meanings: &[Meaning],
        part_bytes: u64,
        order: Option<&[usize]>,
    ) -> Result<TensorRows, CallError> {
        let fail =
            |why: String| CallError::File { path: self.source.path().display().to_string(), why };
        let entries = self.entries();
        if meanings.len() != entries.len() {
            return Err(fail("there is no meaning for each tensor".to_owned()));
        }
        let order = match order {
            Some(order) if !is_permutation(order, entries.len()) => {
                return Err(fail("the order does not have each tensor once".to_owned()));
            }
            Some(order) => order.to_vec(),
            None => (0..entries.len()).collect(),
        };
        let mut rows = Vec::with_capacity(entries.len());
        for at in order {
            let entry = &entries[at];
            match meanings[at].stack {
                None => whole(at, entry, part_bytes, &mut rows),
                Some(stack) => matrices(at, entry, stack, part_bytes, &mut rows)
                    .ok_or_else(|| fail(format!("'{}' is no such stack", entry.name)))?,
            }
        }
        Ok(TensorRows::new(self.clone(), meanings, rows))
    }
}

fn is_permutation(order: &[usize], len: usize) -> bool {
    let mut seen = vec![false; len];
    let is_new = |&at: &usize| seen.get_mut(at).is_some_and(|seen| !std::mem::replace(seen, true));
    order.len() == len && order.iter().all(is_new)
}

/// What a tensor means.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Meaning {
    /// What it is in its model.
    pub role: Option<String>,
    /// Why it is kept where nobody asks for anything else.
    pub keep_reason: Option<String>,
    /// The tensor that it belongs to.
    pub companion_of: Option<String>,
    /// Matrices that it is a stack of.
    pub stack: Option<Stack>,
}

/// A stack of matrices, as mixtures of experts have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stack {
    /// How many.
    pub count: usize,
    /// The axis of the tensor that is contracted with the input: -1, or -2, where each matrix is
    /// turned around as it is read; `None` where nobody knows, and matrices stay as they lie.
    pub axis: Option<i8>,
}
