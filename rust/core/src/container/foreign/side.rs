//! One tensor of several that make a row.

use std::io;
use std::ops::Range;

use arrow_buffer::Buffer;

use crate::container::Entry;
use crate::container::tensors::TensorFile;
use crate::dtype::Float;
use crate::kernel::dispatch;
use crate::lanes::Level;

/// A tensor of some file.
#[derive(Clone, Debug)]
pub(super) struct Side {
    file: TensorFile,
    entry: Entry,
}

impl Side {
    pub(super) fn new(file: &TensorFile, entry: &Entry) -> Self {
        Self { file: file.clone(), entry: entry.clone() }
    }

    /// The tensor called `name`.
    pub(super) fn find(file: &TensorFile, name: &str) -> Result<Self, String> {
        file.entry(name)
            .map(|entry| Self::new(file, entry))
            .ok_or_else(|| format!("there is no '{name}'"))
    }

    pub(super) fn dtype(&self) -> &str {
        &self.entry.dtype
    }

    pub(super) fn shape(&self) -> Vec<usize> {
        self.entry.shape.iter().map(|&size| usize::try_from(size).unwrap_or(0)).collect()
    }

    /// Its two dimensions.
    pub(super) fn matrix(&self) -> Result<[usize; 2], String> {
        <[usize; 2]>::try_from(self.shape())
            .map_err(|shape| format!("'{}' is no matrix: {shape:?}", self.entry.name))
    }

    /// Itself, if its numbers are floats.
    pub(super) fn of_floats(&self) -> Result<&Self, String> {
        let width = Float::from_name(self.dtype()).map(Float::width);
        self.check(width.and_then(|width| self.elements()?.checked_mul(width)), "floats")
    }

    /// Itself, if it has words of 32 bits.
    pub(super) fn of_words(&self) -> Result<&Self, String> {
        let is_known = matches!(self.dtype(), "I32" | "U32");
        let bytes = self.elements().filter(|_| is_known).and_then(|count| count.checked_mul(4));
        self.check(bytes, "words of 32 bits")
    }

    fn check(&self, bytes: Option<usize>, what: &str) -> Result<&Self, String> {
        if bytes == Some(self.byte_count()) {
            return Ok(self);
        }
        Err(format!("'{}' ({} {:?}) has no {what}", self.entry.name, self.dtype(), self.shape()))
    }

    /// Elements, of a type that is known.
    pub(super) fn elements(&self) -> Option<usize> {
        self.shape().iter().try_fold(1usize, |all, &size| all.checked_mul(size))
    }

    pub(super) fn byte_count(&self) -> usize {
        usize::try_from(self.entry.end - self.entry.start).unwrap_or(usize::MAX)
    }

    /// Where its bytes begin in the file.
    pub(super) fn start(&self) -> u64 {
        self.entry.start
    }

    /// Some of its bytes.
    pub(super) fn bytes(&self, range: Range<usize>) -> io::Result<Buffer> {
        if range.start > range.end || range.end > self.byte_count() {
            let text = format!("'{}' has no bytes {range:?}", self.entry.name);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let start = self.entry.start + range.start as u64;
        let (buffer, at) = self.file.source().bytes(start..start + range.len() as u64)?;
        Ok(buffer.slice_with_length(at as usize, range.len()))
    }

    /// All of its bytes.
    pub(super) fn all(&self) -> io::Result<Buffer> {
        self.bytes(0..self.byte_count())
    }

    /// Some of its elements as float32, of a type of floats.
    pub(super) fn floats(&self, elements: Range<usize>) -> io::Result<Vec<f32>> {
        let source = Float::from_name(self.dtype()).ok_or_else(|| {
            let text = format!("'{}' has no floats, but {}", self.entry.name, self.dtype());
            io::Error::new(io::ErrorKind::InvalidData, text)
        })?;
        let width = source.width();
        let bytes = self.bytes(elements.start * width..elements.end * width)?;
        let mut values = vec![0.0; elements.len()];
        dispatch::to_f32(Level::best(), source, &bytes, &mut values);
        Ok(values)
    }

    /// Some bytes as E4M3 numbers, whatever type they are said to be.
    pub(super) fn e4m3(&self, range: Range<usize>) -> io::Result<Vec<f32>> {
        let bytes = self.bytes(range)?;
        let mut values = vec![0.0; bytes.len()];
        dispatch::to_f32(Level::best(), Float::F8E4M3, &bytes, &mut values);
        Ok(values)
    }

    /// Some bytes as powers of two: E8M0.
    pub(super) fn e8m0(&self, range: Range<usize>) -> io::Result<Vec<f32>> {
        Ok(self.bytes(range)?.iter().map(|&byte| power_of_two(byte)).collect())
    }

    /// Some words of 32 bits.
    pub(super) fn words(&self, range: Range<usize>) -> io::Result<Vec<u32>> {
        let bytes = self.bytes(4 * range.start..4 * range.end)?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect())
    }

    /// Its numbers, of I32 or I64.
    pub(super) fn integers(&self) -> Result<Vec<i64>, String> {
        let bytes = self.all().map_err(|error| error.to_string())?;
        match self.dtype() {
            "I64" => Ok(bytes.as_chunks::<8>().0.iter().map(|n| i64::from_le_bytes(*n)).collect()),
            "I32" => {
                let numbers = bytes.as_chunks::<4>().0.iter();
                Ok(numbers.map(|number| i32::from_le_bytes(*number).into()).collect())
            }
            other => Err(format!("'{}' has no whole numbers, but {other}", self.entry.name)),
        }
    }
}

/// What a byte of E8M0 stands for. Source: OCP Microscaling Formats Specification 1.0, section 5.4.1.
pub(super) fn power_of_two(byte: u8) -> f32 {
    match byte {
        0 => f32::from_bits(1 << 22),
        255 => f32::NAN,
        exponent => f32::from_bits(u32::from(exponent) << 23),
    }
}
