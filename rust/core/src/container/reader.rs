//! The rows of a file of tensors as record batches.

use std::borrow::Cow;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use arrow_array::{
    ArrayRef, Int8Array, Int64Array, LargeBinaryArray, RecordBatch, RecordBatchReader, StringArray,
};
use arrow_buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};

use super::foreign::{self, Foreign};
use super::meaning::{Codes, Meaning};
use super::rows::{Bytes, Row, foreign_rows, matrices, whole};
use super::tensors::TensorFile;
use super::{Entry, codes};
use crate::error::CallError;
use crate::parts::stacks::stack_fields;
use crate::parts::{part_columns, part_fields};
use crate::relation::columns::shape_type;
use crate::relation::packed::PACKED;
use crate::relation::quantized::shapes;
use crate::role::{ALREADY, DECODED};
use crate::source::no_memory;

/// Layers are put together in batches of about this many bytes; a larger layer is a batch alone.
const BATCH_BYTES: u64 = 64 << 20;

/// A file's rows.
#[derive(Clone, Debug)]
pub struct TensorRows {
    file: TensorFile,
    meanings: Arc<Vec<Meaning>>,
    /// Of weights that another tool has quantized.
    foreign: Arc<Vec<Option<Arc<dyn Foreign>>>>,
    rows: Arc<Vec<Row>>,
}

impl TensorRows {
    /// The file's tensors as rows, with what each means. Layers of more than `part_bytes` come in
    /// parts.
    ///
    /// `order` has the index of each of [`TensorFile::entries`] once; that of the bytes is the fastest.
    ///
    /// # Errors
    /// There are other meanings than tensors, a stack is none that the tensor can be, or the order
    /// lacks a tensor or has one twice.
    pub fn try_new(
        file: &TensorFile,
        meanings: &[Meaning],
        part_bytes: u64,
        order: Option<&[usize]>,
    ) -> Result<Self, CallError> {
        let fail =
            |why: String| CallError::File { path: file.source().path().display().to_string(), why };
        let entries = file.entries();
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
        let known = |(entry, meaning): (&Entry, &Meaning)| match &meaning.packed {
            Some(codes) => foreign::open(file, entry, codes)
                .map(Some)
                .map_err(|why| fail(format!("'{}': {why}", entry.name))),
            None if meaning.stack.is_some() => Ok(None),
            None => Ok(foreign::of_blocks(file, entry)),
        };
        let known = entries.iter().zip(meanings).map(known).collect::<Result<Vec<_>, _>>()?;
        let mut rows = Vec::with_capacity(entries.len());
        for at in order {
            let entry = &entries[at];
            if meanings[at].is_consumed {
                continue;
            }
            match (&known[at], meanings[at].stack) {
                (Some(known), _) => foreign_rows(at, known.as_ref(), part_bytes, &mut rows),
                (None, None) => whole(at, entry, part_bytes, &mut rows),
                (None, Some(stack)) => matrices(at, entry, stack, part_bytes, &mut rows)
                    .ok_or_else(|| fail(format!("'{}' is no such stack", entry.name)))?,
            }
        }
        Ok(Self {
            file: file.clone(),
            meanings: Arc::new(meanings.to_vec()),
            foreign: Arc::new(known),
            rows: Arc::new(rows),
        })
    }

    /// Why a tensor of the file is no weights of that format; nothing where it is.
    pub fn why_not(file: &TensorFile, name: &str, codes: &Codes) -> Option<String> {
        match file.entry(name).map(|entry| foreign::open(file, entry, codes)) {
            Some(Ok(_)) => None,
            Some(Err(why)) => Some(why),
            None => Some(format!("there is no '{name}'")),
        }
    }

    /// The relation's schema; without `data` for a plan.
    pub fn schema(&self, with_data: bool) -> SchemaRef {
        schema(with_data)
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// How many layers there are.
    pub fn layers(&self) -> usize {
        self.rows.iter().filter(|row| row.part.0 == 0).count()
    }

    /// Part index and bytes of each row.
    pub fn pieces(&self) -> impl Iterator<Item = (i32, u64)> {
        self.rows.iter().map(|row| (row.part.0, row.size()))
    }

    /// Read some of the rows in batches; a range beyond them ends with them.
    pub fn range(&self, rows: Range<usize>, with_data: bool) -> TensorReader {
        let end = rows.end.min(self.rows.len());
        let (of, schema) = (self.clone(), self.schema(with_data));
        TensorReader { of, schema, with_data, first: rows.start, next: rows.start, end }
    }
}

fn is_permutation(order: &[usize], len: usize) -> bool {
    let mut seen = vec![false; len];
    let is_new = |&at: &usize| seen.get_mut(at).is_some_and(|seen| !std::mem::replace(seen, true));
    order.len() == len && order.iter().all(is_new)
}

fn schema(with_data: bool) -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let mut fields = vec![text("layer_name"), text("dtype")];
    fields.push(Field::new("shape", shape_type(), true));
    fields.extend(with_data.then(|| Field::new("data", DataType::LargeBinary, true)));
    fields.extend(part_fields());
    fields.extend([text("source_file"), text("role")]);
    fields.extend([text("keep_reason"), text("companion_of")]);
    fields.extend(stack_fields());
    fields.push(Field::new(PACKED, DataType::Struct(codes::fields()), true));
    Arc::new(Schema::new(fields))
}

/// The batches of one file.
pub struct TensorReader {
    of: TensorRows,
    schema: SchemaRef,
    with_data: bool,
    first: usize,
    next: usize,
    end: usize,
}

impl TensorReader {
    /// The rows of the next batch.
    fn take(&mut self) -> Option<Range<usize>> {
        let rows = self.of.rows.get(self.next..self.end)?;
        let first = rows.first()?;
        let mut bytes = first.size();
        let others = rows.windows(2).take_while(|pair| {
            bytes += pair[1].size();
            !self.with_data || (bytes <= BATCH_BYTES && pair[1].follows(&pair[0]))
        });
        let range = self.next..self.next + 1 + others.count();
        self.next = range.end;
        Some(range)
    }

    fn batch(&self, rows: &[Row]) -> Result<RecordBatch, ArrowError> {
        let (entries, meanings) = (self.of.file.entries(), &self.of.meanings);
        let path = self.of.file.source().path();
        let file = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let entry = |row: &Row| &entries[row.entry];
        let meaning = |row: &Row| &meanings[row.entry];
        let known = |row: &Row| self.of.foreign[row.entry].as_ref().map(|known| known.outline());
        let layer = |row: &Row| known(row).map_or(&entries[row.entry].name, |known| &known.layer);
        let is_alone = |row: &Row| {
            meaning(row).stack.is_some_and(|stack| stack.is_one_matrix(&entry(row).shape))
        };
        let names = rows.iter().map(|row| match row.index {
            Some(index) if !is_alone(row) => Cow::Owned(format!("{}[{index}]", layer(row))),
            _ => Cow::Borrowed(layer(row).as_str()),
        });
        let said = |get: fn(&Meaning) -> &Option<String>| -> ArrayRef {
            Arc::new(rows.iter().map(|row| get(meaning(row)).as_deref()).collect::<StringArray>())
        };
        let shape = |get: fn(&Row) -> &Vec<i64>| -> ArrayRef {
            Arc::new(shapes(rows.iter().map(|row| Some(get(row).as_slice()))))
        };
        let dtypes = rows.iter().map(|row| match known(row) {
            Some(known) => known.dtype.name(),
            None => entry(row).dtype.as_str(),
        });
        let dtypes = StringArray::from_iter_values(dtypes);
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(names)),
            Arc::new(dtypes),
            shape(|row| &row.shape),
        ];
        if self.with_data {
            columns.push(Arc::new(self.data(rows)?));
        }
        let parts: Vec<_> = rows.iter().map(|row| row.part).collect();
        columns.extend(part_columns(&parts, shape(|row| &row.layer_shape)));
        columns.push(Arc::new(StringArray::from(vec![file.as_deref(); rows.len()])));
        columns.push(said(|meaning| &meaning.role));
        let reasons = rows.iter().map(|row| {
            let reason = meaning(row).keep_reason.as_deref();
            match known(row).map(|known| known.codes.is_some()) {
                // What holds codes says so itself.
                Some(true) => None,
                Some(false) => reason.map(|reason| reason.replace(ALREADY, DECODED).into()),
                None => reason.map(Cow::Borrowed),
            }
        });
        columns.push(Arc::new(
            reasons
                .collect::<Vec<Option<Cow<'_, str>>>>()
                .iter()
                .map(|reason| reason.as_deref())
                .collect::<StringArray>(),
        ));
        columns.push(said(|meaning| &meaning.companion_of));
        let names = rows.iter().map(|row| row.index.map(|_| layer(row).as_str()));
        columns.push(Arc::new(names.collect::<StringArray>()));
        let indices = rows.iter().map(|row| row.index.map(|index| index as i64));
        columns.push(Arc::new(indices.collect::<Int64Array>()));
        let made = |row: &Row| known(row).and_then(|known| known.stack.as_ref());
        let of = rows.iter().map(|row| {
            let own = || entry(row).shape.as_slice();
            row.index.map(|_| made(row).map_or_else(own, |(_, shape, _)| shape.as_slice()))
        });
        columns.push(Arc::new(shapes(of)));
        let axes = rows.iter().map(|row| match made(row) {
            Some((_, _, axis)) => Some(*axis),
            None => meaning(row).stack.and_then(|stack| stack.axis),
        });
        columns.push(Arc::new(axes.collect::<Int8Array>()));
        columns.push(codes::column(rows, &self.of.foreign, self.with_data)?);
        RecordBatch::try_new(Arc::clone(&self.schema), columns)
    }

    /// The rows' bytes as one column: the file's own where they are as they are there.
    fn data(&self, rows: &[Row]) -> Result<LargeBinaryArray, ArrowError> {
        let start = match rows.first().map(|row| &row.bytes) {
            Some(Bytes::Plain(range)) => range.start,
            _ => 0,
        };
        let length: u64 = rows.iter().map(Row::size).sum();
        let found = match rows.first().map(|row| &row.bytes) {
            Some(Bytes::Plain(_)) => self.of.file.source().bytes(start..start + length),
            _ => self.made(rows, length).map(|buffer| (buffer, 0)),
        };
        let path = self.of.file.source().path().display();
        let (buffer, mut at) =
            found.map_err(|error| ArrowError::IoError(format!("{path}: {error}"), error))?;
        let mut offsets = Vec::with_capacity(rows.len() + 1);
        offsets.push(at as i64);
        for row in rows {
            at += row.size();
            offsets.push(at as i64);
        }
        let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
        LargeBinaryArray::try_new(offsets, buffer, None)
    }

    /// Matrices that are turned around, or made of what another tool stores, in memory.
    fn made(&self, rows: &[Row], length: u64) -> io::Result<Buffer> {
        let length = usize::try_from(length).map_err(io::Error::other)?;
        let mut bytes: Vec<u8> = Vec::new();
        bytes.try_reserve_exact(length).map_err(|_| no_memory(length))?;
        bytes.resize(length, 0);
        let (source, mut rest) = (self.of.file.source().stretches()?, bytes.as_mut_slice());
        for row in rows {
            let (out, others) = rest.split_at_mut(row.size() as usize);
            rest = others;
            match (&row.bytes, &self.of.foreign[row.entry], row.place()) {
                (Bytes::Turned(turned), ..) => turned.read(&source, out)?,
                (Bytes::Made(_), Some(known), Some(place)) => {
                    let mut made = Vec::with_capacity(out.len());
                    known.make(place, &mut made)?;
                    out.copy_from_slice(&made);
                }
                _ => {}
            }
        }
        Ok(Buffer::from_vec(bytes))
    }

    /// Before a batch is handed out, and before the next: what was read between must be the file
    /// whose header was checked.
    fn check_unchanged(&self) -> Result<(), ArrowError> {
        if !self.with_data || self.of.file.source().is_unchanged() {
            return Ok(());
        }
        let path = self.of.file.source().path().display();
        let text = format!(
            "source_unreadable: {path} changed while it was read. Start again on a file that \
             nobody writes to."
        );
        Err(ArrowError::IoError(text.clone(), io::Error::other(text)))
    }
}

impl Iterator for TensorReader {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next > self.first
            && let Err(error) = self.check_unchanged()
        {
            self.next = self.end;
            return Some(Err(error));
        }
        let rows = Arc::clone(&self.of.rows);
        let range = self.take()?;
        Some(self.check_unchanged().and_then(|()| self.batch(&rows[range])))
    }
}

impl RecordBatchReader for TensorReader {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}
