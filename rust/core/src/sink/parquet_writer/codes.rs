//! A column chunk of binary cells, read for the file from where they lie.
//!
//! The library's own writer puts a page together in memory, twice: its values, then the page. Codes
//! are most of a batch, so these copies would be most of what writing one takes.
//!
//! Pages are data pages of version 1 in plain encoding, uncompressed. Source: `parquet.thrift` and
//! `Encodings.md` of Apache's parquet-format, and Thrift's compact protocol.

use std::io::{self, Read};
use std::ops::Range;

use arrow_array::cast::AsArray;
use arrow_array::{Array, LargeBinaryArray, RecordBatch};
use bytes::Bytes;
use parquet::basic::{Compression, Encoding};
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::ParquetError;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::{ChunkReader, Length};
use parquet::schema::types::ColumnDescPtr;

use super::layout::CODES;

/// A page does not take a row that would make it larger than this, but for its first.
pub(super) const PAGE: usize = 1 << 20;
/// The largest cell: a page's header counts its bytes, which are also its levels, in an int32.
pub(super) const LARGEST: usize = i32::MAX as usize - 64;

/// The length before a cell.
const LENGTH: usize = size_of::<u32>();

/// A batch's codes, if it has any.
pub(super) fn of(batch: &RecordBatch) -> Option<&LargeBinaryArray> {
    batch.column_by_name(CODES)?.as_binary_opt()
}

/// The cells of all `arrays` as a column chunk.
pub(super) struct Chunk<'a> {
    pages: &'a [Page<'a>],
    bytes: u64,
}

/// Header and levels of a page, and whose rows' cells come after them.
pub(super) struct Page<'a> {
    head: Vec<u8>,
    rows: Vec<(&'a LargeBinaryArray, Range<usize>)>,
    bytes: u64,
}

impl<'a> Chunk<'a> {
    pub(super) fn new(pages: &'a [Page<'a>]) -> Self {
        Self { pages, bytes: pages.iter().map(|page| page.bytes).sum() }
    }

    /// What the row group is to know of it.
    pub(super) fn description(
        &self,
        column: ColumnDescPtr,
    ) -> Result<ColumnCloseResult, ParquetError> {
        let rows = self.pages.iter().flat_map(|page| &page.rows);
        let rows: usize = rows.map(|(_, rows)| rows.len()).sum();
        let metadata = ColumnChunkMetaData::builder(column)
            .set_compression_codec(Compression::UNCOMPRESSED.into())
            .set_encodings(vec![Encoding::PLAIN, Encoding::RLE])
            .set_num_values(rows as i64)
            .set_total_compressed_size(self.bytes as i64)
            .set_total_uncompressed_size(self.bytes as i64)
            .set_data_page_offset(0)
            .build()?;
        Ok(ColumnCloseResult {
            bytes_written: self.bytes,
            rows_written: rows as u64,
            metadata,
            bloom_filter: None,
            column_index: None,
            offset_index: None,
        })
    }
}

/// The pages of a column, whose cells may be null if it is `nullable`.
pub(super) fn pages<'a>(
    arrays: impl Iterator<Item = &'a LargeBinaryArray>,
    nullable: bool,
) -> Vec<Page<'a>> {
    let (mut pages, mut next) = (Vec::new(), Rows::default());
    for array in arrays {
        for row in 0..array.len() {
            let valid = array.is_valid(row);
            let bytes = if valid { array.value_length(row) as usize + LENGTH } else { 0 };
            if next.bytes + bytes > PAGE && next.bytes > 0 {
                pages.push(std::mem::take(&mut next).page(nullable));
            }
            next.add(array, row, valid, bytes);
        }
    }
    if !next.rows.is_empty() {
        pages.push(next.page(nullable));
    }
    pages
}

/// The rows of a page in the making.
#[derive(Default)]
struct Rows<'a> {
    rows: Vec<(&'a LargeBinaryArray, Range<usize>)>,
    /// How many cells in a row are there, or are null.
    runs: Vec<(bool, u32)>,
    /// Of the cells and their lengths.
    bytes: usize,
}

impl<'a> Rows<'a> {
    fn add(&mut self, array: &'a LargeBinaryArray, row: usize, valid: bool, bytes: usize) {
        match self.rows.last_mut() {
            Some((last, rows)) if std::ptr::eq(*last, array) => rows.end = row + 1,
            _ => self.rows.push((array, row..row + 1)),
        }
        match self.runs.last_mut() {
            Some((last, count)) if *last == valid => *count += 1,
            _ => self.runs.push((valid, 1)),
        }
        self.bytes += bytes;
    }

    fn page(self, nullable: bool) -> Page<'a> {
        let levels = if nullable { levels(&self.runs) } else { Vec::new() };
        let count = self.runs.iter().map(|(_, count)| count).sum();
        let size = levels.len() + self.bytes;
        let mut head = header(size as u32, count);
        head.extend(levels);
        let bytes = (head.len() + self.bytes) as u64;
        Page { head, rows: self.rows, bytes }
    }
}

/// Definition levels, of one bit, as runs; their bytes are counted before them.
fn levels(runs: &[(bool, u32)]) -> Vec<u8> {
    let mut levels = vec![0; LENGTH];
    for &(valid, count) in runs {
        varint(u64::from(count) << 1, &mut levels);
        levels.push(u8::from(valid));
    }
    let bytes = (levels.len() - LENGTH) as u32;
    levels[..LENGTH].copy_from_slice(&bytes.to_le_bytes());
    levels
}

/// A `PageHeader` of `bytes` bytes with `values` values, nulls among them.
fn header(bytes: u32, values: u32) -> Vec<u8> {
    /// An int32 field, the next one after the field before it; the number follows in zigzag form.
    const INT: u8 = 0x15;
    /// A struct, the field after the next.
    const STRUCT: u8 = 0x2c;
    const END: u8 = 0;
    const DATA_PAGE: u32 = 0;
    const PLAIN: u32 = 0;
    const RLE: u32 = 3;

    let mut header = Vec::new();
    let ints = |numbers: &[u32], header: &mut Vec<u8>| {
        for &number in numbers {
            header.push(INT);
            varint(u64::from(number) << 1, header);
        }
    };
    // type, uncompressed_page_size, compressed_page_size; no crc.
    ints(&[DATA_PAGE, bytes, bytes], &mut header);
    header.push(STRUCT);
    // num_values, encoding, definition_level_encoding, repetition_level_encoding.
    ints(&[values, PLAIN, RLE, RLE], &mut header);
    header.extend([END, END]);
    header
}

/// Seven bits a byte, the lowest first.
fn varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

impl Length for Chunk<'_> {
    fn len(&self) -> u64 {
        self.bytes
    }
}

impl<'a> ChunkReader for Chunk<'a> {
    type T = Pieces<'a>;

    fn get_read(&self, start: u64) -> Result<Pieces<'a>, ParquetError> {
        let pieces = self.pages.iter().flat_map(|page| {
            let rows = page.rows.iter().flat_map(|(array, rows)| {
                let valid = rows.clone().filter(|&row| array.is_valid(row));
                valid.map(|row| array.value(row))
            });
            let cells = rows.flat_map(|cell| {
                let length = (cell.len() as u32).to_le_bytes();
                [Piece::Length(length), Piece::Bytes(cell)]
            });
            std::iter::once(Piece::Bytes(&page.head)).chain(cells)
        });
        let mut pieces = Pieces { pieces: Box::new(pieces), at: Piece::Bytes(&[]), read: 0 };
        io::copy(&mut pieces.by_ref().take(start), &mut io::sink())?;
        Ok(pieces)
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let mut bytes = Vec::with_capacity(length);
        self.get_read(start)?.take(length as u64).read_to_end(&mut bytes)?;
        Ok(bytes.into())
    }
}

enum Piece<'a> {
    Length([u8; LENGTH]),
    Bytes(&'a [u8]),
}

/// The bytes of a chunk, one after the other.
pub(super) struct Pieces<'a> {
    pieces: Box<dyn Iterator<Item = Piece<'a>> + 'a>,
    at: Piece<'a>,
    /// How much of the piece at hand.
    read: usize,
}

impl Read for Pieces<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < out.len() {
            let piece = match &self.at {
                Piece::Length(bytes) => &bytes[self.read..],
                Piece::Bytes(bytes) => &bytes[self.read..],
            };
            if piece.is_empty() {
                let Some(next) = self.pieces.next() else { break };
                (self.at, self.read) = (next, 0);
                continue;
            }
            let count = piece.len().min(out.len() - filled);
            out[filled..filled + count].copy_from_slice(&piece[..count]);
            self.read += count;
            filled += count;
        }
        Ok(filled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_stretch_is_that_of_the_whole(
            cells in prop::collection::vec(prop::option::of(0usize..400_000), 1..40),
            part in (0.0..1.0, 0.0..1.0),
        ) {
            let cells = cells.iter().zip(0..).map(|(cell, at)| cell.map(|size| vec![at; size]));
            let cells: Vec<_> = cells.collect();
            let array: LargeBinaryArray = cells.iter().map(|cell| cell.as_deref()).collect();
            let pages = pages([&array].into_iter(), true);
            let chunk = Chunk::new(&pages);
            let whole = chunk.get_bytes(0, chunk.len() as usize)?;
            prop_assert_eq!(whole.len() as u64, chunk.len());
            let (start, length) = (part.0 * whole.len() as f64, part.1 * whole.len() as f64);
            let (start, length) = (start as usize, length as usize);
            let end = whole.len().min(start + length);
            prop_assert_eq!(chunk.get_bytes(start as u64, length)?, whole.slice(start..end));
        }
    }
}
