//! A file's bytes as an Arrow buffer, mapped or read.

// The other place besides the calling of SIMD kernels where code is unsafe: mapping a file.
#![allow(unsafe_code)]

use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::SystemTime;

use arrow_buffer::Buffer;
use memmap2::Mmap;

/// A file that is read once, and must not change meanwhile; or bytes that somebody gave.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    path: PathBuf,
    size: u64,
    modified: Option<SystemTime>,
    mapping: Option<Buffer>,
    is_given: bool,
}

impl Source {
    /// Open `path`; with `mmap` its pages come in as they are touched, without a copy.
    pub(crate) fn open(path: &Path, mmap: bool) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        let mapping = if mmap && metadata.len() > 0 { Some(map(&file)?) } else { None };
        Ok(Self {
            path: path.to_owned(),
            size: metadata.len(),
            modified: modified(&metadata),
            mapping,
            is_given: false,
        })
    }

    /// Bytes in memory, which messages call `name`.
    pub(crate) fn given(name: &Path, bytes: Buffer) -> Self {
        Self {
            path: name.to_owned(),
            size: bytes.len() as u64,
            modified: None,
            mapping: Some(bytes),
            is_given: true,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// A buffer and where in it `range` of the file begins: the whole mapping, or just the range,
    /// read now.
    pub(crate) fn bytes(&self, range: Range<u64>) -> io::Result<(Buffer, u64)> {
        if let Some(mapping) = &self.mapping {
            return Ok((mapping.clone(), range.start));
        }
        let length = range.end - range.start;
        let mut bytes = Vec::new();
        bytes
            .try_reserve_exact(usize::try_from(length).map_err(io::Error::other)?)
            .map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        // A handle of its own: readers of one file must not move each other's position.
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(range.start))?;
        file.take(length).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok((Buffer::from_vec(bytes), 0))
    }

    /// Whether the file at the path is still the one that was opened, by size and time.
    pub(crate) fn is_unchanged(&self) -> bool {
        self.is_given
            || std::fs::metadata(&self.path).is_ok_and(|metadata| {
                metadata.len() == self.size && modified(&metadata) == self.modified
            })
    }
}

fn modified(metadata: &Metadata) -> Option<SystemTime> {
    metadata.modified().ok()
}

fn map(file: &File) -> io::Result<Buffer> {
    // SAFETY: the mapping is read only. Another process that writes to the file meanwhile would
    // change the bytes under us, and one that cuts it short makes reading them raise SIGBUS; the
    // documentation says so, `is_unchanged` is asked around each batch, and `mmap=False` avoids it.
    let mapping = unsafe { Mmap::map(file)? };
    let pointer = NonNull::from(&mapping[..]).cast::<u8>();
    let length = mapping.len();
    // SAFETY: the pointer is valid for `length` bytes for as long as the mapping lives, and the
    // buffer owns the mapping.
    Ok(unsafe { Buffer::from_custom_allocation(pointer, length, Arc::new(mapping)) })
}
