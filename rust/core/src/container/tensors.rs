//! A file of named tensors as a weights relation. The file *is* an Arrow column: its bytes, mapped,
//! are the values of a large_binary array, and where its tensors begin and end are the offsets.
//!
//! What a tensor means, and whether it is a stack of matrices, is told by whoever knows the whole
//! checkpoint: a [`Meaning`] for each.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use arrow_array::{
    ArrayRef, Int8Array, Int64Array, LargeBinaryArray, RecordBatch, RecordBatchReader, StringArray,
};
use arrow_buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};

use super::transpose::Turned;
use super::{Entry, Header, Value, read_header};
use crate::dtype;
use crate::error::CallError;
use crate::parts::stacks::stack_fields;
use crate::parts::{self, part_columns, part_fields};
use crate::relation::columns::shape_type;
use crate::relation::quantized::shapes;
use crate::source::{Source, no_memory};

/// Layers are put together in batches of about this many bytes; a larger layer is a batch alone.
const BATCH_BYTES: u64 = 64 << 20;

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

    /// The file's tensors as rows. Layers of more than `part_bytes` come in parts.
    ///
    /// # Errors
    /// There are other meanings than tensors, or a stack is none that the tensor can be.
    pub fn rows(&self, meanings: &Meanings, part_bytes: u64) -> Result<TensorRows, CallError> {
        let fail =
            |why: String| CallError::File { path: self.source.path().display().to_string(), why };
        let entries = self.entries();
        if meanings.each.len() != entries.len() {
            return Err(fail("there is no meaning for each tensor".to_owned()));
        }
        let mut rows = Vec::with_capacity(entries.len());
        for (at, (entry, meaning)) in entries.iter().zip(&meanings.each).enumerate() {
            match meaning.stack {
                None => whole(at, entry, part_bytes, &mut rows),
                Some(stack) => matrices(at, entry, stack, part_bytes, &mut rows)
                    .ok_or_else(|| fail(format!("'{}' is no such stack", entry.name)))?,
            }
        }
        let layout = Layout { reasons: meanings.reasons(), stacks: meanings.stacks() };
        Ok(TensorRows {
            file: self.clone(),
            meanings: Arc::new(meanings.each.clone()),
            rows: Arc::new(rows),
            layout,
        })
    }
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
    /// turned around as it is read.
    pub axis: i8,
}

/// What each tensor of a file means, and which columns a checkpoint has of it.
#[derive(Clone, Debug, Default)]
pub struct Meanings {
    /// In the order of [`TensorFile::entries`].
    pub each: Vec<Meaning>,
    /// Another file of the checkpoint holds tensors with such reasons.
    pub any_reasons: bool,
    /// Another file of the checkpoint holds stacks.
    pub any_stacks: bool,
}

impl Meanings {
    /// No meaning for any of `count` tensors.
    pub fn none(count: usize) -> Self {
        Self { each: vec![Meaning::default(); count], ..Self::default() }
    }

    fn reasons(&self) -> bool {
        self.any_reasons || self.each.iter().any(|meaning| meaning.keep_reason.is_some())
    }

    fn stacks(&self) -> bool {
        self.any_stacks || self.each.iter().any(|meaning| meaning.stack.is_some())
    }
}

/// Which columns there are.
#[derive(Clone, Copy, Debug)]
struct Layout {
    reasons: bool,
    stacks: bool,
}

/// A row: a tensor, a matrix of one, or a part of either.
#[derive(Clone, Debug)]
struct Row {
    /// Which of the file's tensors it comes from.
    entry: usize,
    /// Which of its matrices.
    index: Option<usize>,
    shape: Vec<i64>,
    layer_shape: Vec<i64>,
    /// Which part it is, of how many, and its first element's index in the layer.
    part: (i32, i32, i64),
    bytes: Bytes,
}

/// Where a row's bytes are.
#[derive(Clone, Debug)]
enum Bytes {
    /// As they are in the file.
    Plain(Range<u64>),
    /// Of a matrix that is turned around.
    Turned(Turned),
}

impl Row {
    fn bytes(&self) -> u64 {
        match &self.bytes {
            Bytes::Plain(range) => range.end - range.start,
            Bytes::Turned(turned) => turned.bytes() as u64,
        }
    }

    /// Whether its bytes follow those of `before` in the file, or both are put together in memory.
    fn follows(&self, before: &Self) -> bool {
        match (&before.bytes, &self.bytes) {
            (Bytes::Plain(before), Bytes::Plain(own)) => before.end == own.start,
            (Bytes::Turned(_), Bytes::Turned(_)) => true,
            _ => false,
        }
    }
}

/// A tensor's row, or the rows of its parts.
fn whole(at: usize, entry: &Entry, part_bytes: u64, rows: &mut Vec<Row>) {
    let row = |shape: Vec<i64>, part, bytes| Row {
        entry: at,
        index: None,
        shape,
        layer_shape: entry.shape.clone(),
        part,
        bytes: Bytes::Plain(bytes),
    };
    let Some(parts) = parts::cut(&entry.shape, &entry.dtype, part_bytes) else {
        rows.push(row(entry.shape.clone(), (0, 1, 0), entry.start..entry.end));
        return;
    };
    let count = parts.len() as i32;
    rows.extend((0..count).zip(parts).map(|(index, part)| {
        let bytes = entry.start + part.start..entry.start + part.end;
        row(part.shape, (index, count, part.offset as i64), bytes)
    }));
}

/// The rows of each of a stack's matrices; `None` where the tensor can't be such a stack.
fn matrices(
    at: usize,
    entry: &Entry,
    stack: Stack,
    part_bytes: u64,
    rows: &mut Vec<Row>,
) -> Option<()> {
    let width = dtype::block(&entry.dtype).filter(|block| block.elements == 1)?.bytes as usize;
    let (&columns, leading) = entry.shape.split_last()?;
    let all: i64 = leading.iter().product();
    let count = i64::try_from(stack.count).ok().filter(|&count| count > 0 && all % count == 0)?;
    let source = (all / count, columns);
    let shape = match stack.axis {
        -1 => vec![source.0, source.1],
        -2 => vec![source.1, source.0],
        _ => return None,
    };
    let size = (source.0 * source.1) as u64 * width as u64;
    for index in 0..stack.count {
        let start = entry.start + index as u64 * size;
        let parts = parts::cut(&shape, &entry.dtype, part_bytes).unwrap_or_else(|| {
            vec![parts::Part { offset: 0, shape: shape.clone(), start: 0, end: size }]
        });
        let of = parts.len() as i32;
        rows.extend((0..of).zip(parts).map(|(number, part)| Row {
            entry: at,
            index: Some(index),
            layer_shape: shape.clone(),
            part: (number, of, part.offset as i64),
            bytes: match stack.axis {
                -1 => Bytes::Plain(start + part.start..start + part.end),
                _ => Bytes::Turned(turned(start, source, width, &part)),
            },
            shape: part.shape,
        }));
    }
    Some(())
}

/// Where a part of a matrix that is turned around lies in the source's matrix.
fn turned(start: u64, source: (i64, i64), width: usize, part: &parts::Part) -> Turned {
    let (source_rows, source_row) = (source.0 as u64, source.1 as u64);
    let length = part.shape.last().map_or(0, |&length| length as u64);
    let count = part.shape[..part.shape.len() - 1].iter().product::<i64>() as u64;
    let (first, k) = match source_rows {
        0 => (0, 0),
        rows => (part.offset / rows, part.offset % rows),
    };
    Turned { start, source_row, rows: (k, length), columns: (first, count), width }
}

/// A file's rows.
#[derive(Clone, Debug)]
pub struct TensorRows {
    file: TensorFile,
    meanings: Arc<Vec<Meaning>>,
    rows: Arc<Vec<Row>>,
    layout: Layout,
}

impl TensorRows {
    /// The relation's schema; without `data` for a plan.
    pub fn schema(&self, with_data: bool) -> SchemaRef {
        schema(with_data, self.layout)
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
        self.rows.iter().map(|row| (row.part.0, row.bytes()))
    }

    /// Read some of the rows in batches; a range beyond them ends with them.
    pub fn range(&self, rows: Range<usize>, with_data: bool) -> TensorReader {
        let end = rows.end.min(self.rows.len());
        let (of, schema) = (self.clone(), self.schema(with_data));
        TensorReader { of, schema, with_data, first: rows.start, next: rows.start, end }
    }
}

fn schema(with_data: bool, layout: Layout) -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let mut fields = vec![text("layer_name"), text("dtype")];
    fields.push(Field::new("shape", shape_type(), true));
    fields.extend(with_data.then(|| Field::new("data", DataType::LargeBinary, true)));
    fields.extend(part_fields());
    fields.extend([text("source_file"), text("role")]);
    if layout.reasons {
        fields.extend([text("keep_reason"), text("companion_of")]);
    }
    if layout.stacks {
        fields.extend(stack_fields());
    }
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
        let mut bytes = first.bytes();
        let others = rows.windows(2).take_while(|pair| {
            bytes += pair[1].bytes();
            !self.with_data || (bytes <= BATCH_BYTES && pair[1].follows(&pair[0]))
        });
        let range = self.next..self.next + 1 + others.count();
        self.next = range.end;
        Some(range)
    }

    fn batch(&self, rows: &[Row]) -> Result<RecordBatch, ArrowError> {
        let (entries, meanings) = (self.of.file.entries(), &self.of.meanings);
        let path = self.of.file.source.path();
        let file = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let entry = |row: &Row| &entries[row.entry];
        let meaning = |row: &Row| &meanings[row.entry];
        let names = rows.iter().map(|row| match row.index {
            Some(index) => format!("{}[{index}]", entry(row).name).into(),
            None => std::borrow::Cow::Borrowed(entry(row).name.as_str()),
        });
        let said = |get: fn(&Meaning) -> &Option<String>| -> ArrayRef {
            Arc::new(rows.iter().map(|row| get(meaning(row)).as_deref()).collect::<StringArray>())
        };
        let shape = |get: fn(&Row) -> &Vec<i64>| -> ArrayRef {
            Arc::new(shapes(rows.iter().map(|row| Some(get(row).as_slice()))))
        };
        let dtypes = StringArray::from_iter_values(rows.iter().map(|row| &entry(row).dtype));
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
        if self.of.layout.reasons {
            columns.push(said(|meaning| &meaning.keep_reason));
            columns.push(said(|meaning| &meaning.companion_of));
        }
        if self.of.layout.stacks {
            let stacked = |row: &Row| row.index.map(|_| entry(row));
            let names = rows.iter().map(|row| stacked(row).map(|entry| entry.name.as_str()));
            columns.push(Arc::new(names.collect::<StringArray>()));
            let indices = rows.iter().map(|row| row.index.map(|index| index as i64));
            columns.push(Arc::new(indices.collect::<Int64Array>()));
            let of = rows.iter().map(|row| stacked(row).map(|entry| entry.shape.as_slice()));
            columns.push(Arc::new(shapes(of)));
            let axes = rows.iter().map(|row| meaning(row).stack.map(|stack| stack.axis));
            columns.push(Arc::new(axes.collect::<Int8Array>()));
        }
        RecordBatch::try_new(Arc::clone(&self.schema), columns)
    }

    /// The rows' bytes as one column: the file's own where they are as they are there.
    fn data(&self, rows: &[Row]) -> Result<LargeBinaryArray, ArrowError> {
        let start = match rows.first().map(|row| &row.bytes) {
            Some(Bytes::Plain(range)) => range.start,
            _ => 0,
        };
        let length: u64 = rows.iter().map(Row::bytes).sum();
        let found = match rows.first().map(|row| &row.bytes) {
            Some(Bytes::Plain(_)) => self.of.file.source.bytes(start..start + length),
            _ => self.turned(rows, length).map(|buffer| (buffer, 0)),
        };
        let path = self.of.file.source.path().display();
        let (buffer, mut at) =
            found.map_err(|error| ArrowError::IoError(format!("{path}: {error}"), error))?;
        let mut offsets = Vec::with_capacity(rows.len() + 1);
        offsets.push(at as i64);
        for row in rows {
            at += row.bytes();
            offsets.push(at as i64);
        }
        let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
        Ok(LargeBinaryArray::new(offsets, buffer, None))
    }

    /// Matrices that are turned around, in memory.
    fn turned(&self, rows: &[Row], length: u64) -> io::Result<Buffer> {
        let length = usize::try_from(length).map_err(io::Error::other)?;
        let mut bytes: Vec<u8> = Vec::new();
        bytes.try_reserve_exact(length).map_err(|_| no_memory(length))?;
        bytes.resize(length, 0);
        let (source, mut rest) = (self.of.file.source.stretches()?, bytes.as_mut_slice());
        for row in rows {
            if let Bytes::Turned(turned) = &row.bytes {
                let (out, others) = rest.split_at_mut(turned.bytes());
                turned.read(&source, out)?;
                rest = others;
            }
        }
        Ok(Buffer::from_vec(bytes))
    }

    /// Before a batch is handed out, and before the next: what was read between must be the file
    /// whose header was checked.
    fn check_unchanged(&self) -> Result<(), ArrowError> {
        if !self.with_data || self.of.file.source.is_unchanged() {
            return Ok(());
        }
        let path = self.of.file.source.path().display();
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
