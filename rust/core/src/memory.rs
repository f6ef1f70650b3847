//! Memory for a batch's output: on huge pages, and used again.
//!
//! Touching fresh memory page by page costs several times what quantizing into it does. So large
//! outputs lie in anonymous mappings for which huge pages are asked, and a mapping that its last
//! owner has dropped, which may be an engine far away, is kept for the next batch. On Linux the
//! operating system may take its pages back meanwhile, whenever it needs them.

// One of the places where code is unsafe: to tell the operating system that contents don't matter.
#![allow(unsafe_code)]

use std::ops::{Deref, DerefMut};
use std::sync::Mutex;

use arrow_buffer::Buffer;
use arrow_schema::ArrowError;
use bytemuck::Pod;
use bytes::Bytes;
use memmap2::MmapMut;

/// Smaller outputs come from the allocator, which has no pages to fault in for them.
const SMALLEST: usize = 1 << 20;
/// Mappings are as long as a multiple of this, the size of a huge page on most machines.
const HUGE_PAGE: usize = 1 << 21;
/// No more than this is kept, in all.
const KEPT: usize = 1 << 29;

/// The mappings that wait for their next use, the last one returned at the end. The lock is only
/// ever tried, since after a fork it may be held by a thread that does not exist.
static WAITING: Mutex<Vec<MmapMut>> = Mutex::new(Vec::new());

/// A mapping that goes back to the waiting ones when it is dropped.
struct Block(Option<MmapMut>);

impl Block {
    fn new(len: usize) -> Result<Self, ArrowError> {
        let len = len.checked_next_multiple_of(HUGE_PAGE).unwrap_or(len);
        if let Ok(mut waiting) = WAITING.try_lock() {
            // A much larger one is left for whoever needs it.
            let fits = |map: &MmapMut| map.len() >= len && map.len() / 2 <= len;
            let best = (0..waiting.len()).filter(|&at| fits(&waiting[at]));
            if let Some(at) = best.min_by_key(|&at| waiting[at].len()) {
                return Ok(Self(Some(waiting.remove(at))));
            }
            // Batches differ in size, and one that waits for a slightly smaller batch is given up, or
            // there would in time be one for each size.
            let slightly = |map: &MmapMut| map.len() < len && map.len() >= len / 2;
            let too_small = (0..waiting.len()).filter(|&at| slightly(&waiting[at]));
            if let Some(at) = too_small.max_by_key(|&at| waiting[at].len()) {
                waiting.remove(at);
            }
        }
        let map = MmapMut::map_anon(len).map_err(|error| {
            ArrowError::MemoryError(format!(
                "there is no memory for {len} bytes of a batch's output ({error}). Use smaller \
                 parts (part_bytes=, --part-mib) or smaller batches; quantize into a dataset, or \
                 as a stream, which hold one batch at a time"
            ))
        })?;
        // A kernel without huge pages refuses, and the memory works all the same.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Self(Some(map)))
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let (Some(map), Ok(mut waiting)) = (self.0.take(), WAITING.try_lock()) else {
            return;
        };
        // SAFETY: nobody holds a reference to the contents any more, and whoever is given the
        // mapping next overwrites them; zeros in their place are as good.
        #[cfg(target_os = "linux")]
        let _ = unsafe { map.unchecked_advise(memmap2::UncheckedAdvice::Free) };
        waiting.push(map);
        let mut kept: usize = waiting.iter().map(|map| map.len()).sum();
        while kept > KEPT {
            kept -= waiting.remove(0).len();
        }
    }
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or(&[])
    }
}

impl AsMut<[u8]> for Block {
    fn as_mut(&mut self) -> &mut [u8] {
        self.0.as_deref_mut().unwrap_or(&mut [])
    }
}

enum Storage<T> {
    Allocated(Vec<T>),
    Mapped(Block),
}

/// `len` numbers of unknown value, all of which will be written.
pub(crate) struct Output<T> {
    storage: Storage<T>,
    len: usize,
}

impl<T: Pod + Send> Output<T> {
    /// Memory for `len` numbers.
    ///
    /// # Errors
    /// There is not enough.
    pub(crate) fn new(len: usize) -> Result<Self, ArrowError> {
        let storage = match len.checked_mul(size_of::<T>()) {
            Some(bytes) if bytes >= SMALLEST => Storage::Mapped(Block::new(bytes)?),
            _ => Storage::Allocated(vec![T::zeroed(); len]),
        };
        Ok(Self { storage, len })
    }

    /// Keep the first `len` numbers.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// The numbers as an Arrow buffer, without a copy.
    pub(crate) fn into_buffer(self) -> Buffer {
        let bytes = self.len * size_of::<T>();
        match self.storage {
            Storage::Allocated(values) => Buffer::from(Bytes::from_owner(Raw(values))),
            Storage::Mapped(block) => Buffer::from(Bytes::from_owner(block)),
        }
        .slice_with_length(0, bytes)
    }
}

/// The bytes of a vector of numbers.
struct Raw<T>(Vec<T>);

impl<T: Pod> AsRef<[u8]> for Raw<T> {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

impl<T: Pod> Deref for Output<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        match &self.storage {
            Storage::Allocated(values) => &values[..self.len],
            Storage::Mapped(block) => {
                bytemuck::cast_slice(&block.as_ref()[..self.len * size_of::<T>()])
            }
        }
    }
}

impl<T: Pod> DerefMut for Output<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match &mut self.storage {
            Storage::Allocated(values) => &mut values[..self.len],
            Storage::Mapped(block) => {
                bytemuck::cast_slice_mut(&mut block.as_mut()[..self.len * size_of::<T>()])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // One test, since what waits is shared by all threads.
    #[test]
    fn large_outputs_come_back_and_what_is_kept_is_bounded() {
        const LEN: usize = 37 * HUGE_PAGE / 4;
        let mut first = Output::<f32>::new(LEN).unwrap();
        first.fill(1.0);
        first.truncate(3);
        let address = first.as_ptr();
        let buffer = first.into_buffer();
        assert_eq!(buffer.typed_data::<f32>(), [1.0; 3]);
        let copy = buffer.clone();
        drop(buffer);
        let meanwhile = Output::<f32>::new(LEN).unwrap();
        assert_ne!(meanwhile.as_ptr(), address, "it is still in use");
        drop(copy);
        let again = Output::<f32>::new(LEN).unwrap();
        assert_eq!((again.as_ptr(), again.len()), (address, LEN));
        // A larger batch comes: the block that waits is of no use to it.
        drop(again);
        let waits = |len: usize| WAITING.lock().unwrap().iter().any(|map| map.len() == len);
        let bytes = (4 * LEN).next_multiple_of(HUGE_PAGE);
        assert!(waits(bytes));
        drop(Output::<f32>::new(2 * LEN).unwrap());
        assert!(waits((8 * LEN).next_multiple_of(HUGE_PAGE)) && !waits(bytes));
        drop(meanwhile);

        assert!(matches!(Output::<u8>::new(100).unwrap().storage, Storage::Allocated(_)));

        let blocks: Vec<_> = (0..5).map(|_| Output::<u8>::new(KEPT / 4).unwrap()).collect();
        drop(blocks);
        let kept: usize = WAITING.lock().unwrap().iter().map(|map| map.len()).sum();
        assert!((KEPT / 2..=KEPT).contains(&kept), "{kept}");
    }
}
