//! Bytes, wherever they are: a file that is mapped, a file that is read, or bytes that were given.
//! Nothing above knows which.

// The other place besides the calling of SIMD kernels where code is unsafe: mapping a file.
#![allow(unsafe_code)]

use std::fs::{File, Metadata};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::SystemTime;

use arrow_buffer::Buffer;
use memmap2::Mmap;

/// A file that must not change while it is read; or bytes that somebody gave.
#[derive(Clone, Debug)]
pub struct Source {
    path: PathBuf,
    size: u64,
    modified: Option<SystemTime>,
    mapping: Option<Buffer>,
    /// Why it is read although it was to be mapped.
    not_mapped: Option<String>,
    is_given: bool,
}

impl Source {
    /// Open `path`; with `mmap` its pages come in as they are touched, without a copy. Where mapping
    /// is refused, by a limit on memory or by the file system, the file is read: see
    /// [`Self::not_mapped`].
    ///
    /// # Errors
    /// The file can't be opened.
    pub fn open(path: &Path, mmap: bool) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let mapped = (mmap && metadata.len() > 0).then(|| map(&file));
        let (mapping, not_mapped) = match mapped {
            Some(Ok(mapping)) => (Some(mapping), None),
            Some(Err(error)) => (None, Some(error.to_string())),
            None => (None, None),
        };
        Ok(Self {
            path: path.to_owned(),
            size: metadata.len(),
            modified: modified(&metadata),
            mapping,
            not_mapped,
            is_given: false,
        })
    }

    /// Bytes in memory, which messages call `name`.
    pub fn given(name: &Path, bytes: Buffer) -> Self {
        Self {
            path: name.to_owned(),
            size: bytes.len() as u64,
            modified: None,
            mapping: Some(bytes),
            not_mapped: None,
            is_given: true,
        }
    }

    /// Its path, or the name of what was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many bytes there are.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Why the file is read although it was to be mapped.
    pub fn not_mapped(&self) -> Option<&str> {
        self.not_mapped.as_deref()
    }

    /// A buffer and where in it `range` of the file begins: the whole mapping, or just the range,
    /// read now.
    ///
    /// # Errors
    /// The range is not in the file, can't be read, or there is no memory for it.
    pub fn bytes(&self, range: Range<u64>) -> io::Result<(Buffer, u64)> {
        if let Some(mapping) = &self.mapping {
            let inside = range.start <= range.end && range.end <= mapping.len() as u64;
            return if inside { Ok((mapping.clone(), range.start)) } else { Err(short()) };
        }
        let length = range.end.checked_sub(range.start).ok_or_else(short)?;
        let length = usize::try_from(length).map_err(io::Error::other)?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(length).map_err(|_| no_memory(length))?;
        bytes.resize(length, 0);
        self.file()?.read_exact_at(&mut bytes, range.start)?;
        Ok((Buffer::from_vec(bytes), 0))
    }

    /// The whole file, where it is mapped.
    pub(crate) fn mapping(&self) -> Option<&Buffer> {
        self.mapping.as_ref()
    }

    /// What gives small stretches one after the other.
    ///
    /// # Errors
    /// The file can't be opened.
    pub(crate) fn stretches(&self) -> io::Result<Stretches<'_>> {
        Ok(match &self.mapping {
            Some(mapping) => Stretches::Mapped(mapping),
            None => Stretches::File(self.file()?),
        })
    }

    fn file(&self) -> io::Result<File> {
        File::open(&self.path)
    }

    /// Whether the file at the path is still the one that was opened, by size and time.
    pub fn is_unchanged(&self) -> bool {
        self.is_given
            || std::fs::metadata(&self.path).is_ok_and(|metadata| {
                metadata.len() == self.size && modified(&metadata) == self.modified
            })
    }
}

/// The bytes of a source, for many small reads.
pub(crate) enum Stretches<'a> {
    /// In memory.
    Mapped(&'a [u8]),
    /// In a file.
    File(File),
}

impl<'a> Stretches<'a> {
    /// The bytes from `start` on, borrowed where they are in memory, else read into `room`, which
    /// says how many.
    pub(crate) fn get<'b>(&'b self, start: u64, room: &'b mut [u8]) -> io::Result<&'b [u8]>
    where
        'a: 'b,
    {
        match self {
            Self::Mapped(bytes) => {
                let start = usize::try_from(start).map_err(|_| short())?;
                let end = start.checked_add(room.len()).ok_or_else(short)?;
                bytes.get(start..end).ok_or_else(short)
            }
            Self::File(file) => {
                file.read_exact_at(room, start)?;
                Ok(room)
            }
        }
    }
}

fn short() -> io::Error {
    io::ErrorKind::UnexpectedEof.into()
}

/// There is no memory for so many bytes.
pub(crate) fn no_memory(bytes: usize) -> io::Error {
    let text = format!(
        "there is no memory for {bytes} bytes. Read smaller parts (part_bytes=, --part-mib), or map \
         the file (mmap=True, --mmap)."
    );
    io::Error::new(io::ErrorKind::OutOfMemory, text)
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
