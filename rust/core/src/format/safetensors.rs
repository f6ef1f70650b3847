//! safetensors as a weights relation. The file *is* an Arrow column: its bytes, mapped, are the
//! values of a large_binary array, and its `data_offsets` are the offsets.
//!
//! Source of the format: <https://github.com/huggingface/safetensors#format>. Headers are parsed
//! and checked by the safetensors crate.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use arrow_array::{ArrayRef, LargeBinaryArray, RecordBatch, RecordBatchReader, StringArray};
use arrow_buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use safetensors::tensor::Metadata;

use super::mapped::Source;
use crate::error::CallError;
use crate::parts::{self, part_columns, part_fields};
use crate::relation::columns::shape_type;
use crate::relation::quantized::shapes;

/// Layers are put together in batches of about this many bytes; a larger layer is a batch alone.
const BATCH_BYTES: u64 = 64 << 20;

/// How a git-lfs pointer begins: `version https://git-lfs…`.
const LFS_POINTER: &[u8; 8] = b"version ";

/// The format's limit.
const LARGEST_HEADER: u64 = 100_000_000;

/// One tensor of a file, or a part of it.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// safetensors' name of its type.
    pub dtype: String,
    /// Its own dimensions.
    pub shape: Vec<i64>,
    /// Those of the tensor that it is a part of.
    pub layer_shape: Vec<i64>,
    /// Which part it is, of how many, and its first element's index.
    pub part: (i32, i32, i64),
    /// Where its bytes begin and end in the file.
    start: u64,
    end: u64,
}

impl Tensor {
    /// Bytes of its elements.
    pub fn bytes(&self) -> u64 {
        self.end - self.start
    }

    /// The tensor's parts, or itself.
    fn cut(self, part_bytes: u64) -> Vec<Self> {
        let Some(parts) = parts::cut(&self.shape, &self.dtype, part_bytes) else {
            return vec![self];
        };
        let count = parts.len() as i32;
        let part = |(index, part): (i32, parts::Part)| Self {
            shape: part.shape,
            part: (index, count, part.offset as i64),
            start: self.start + part.start,
            end: self.start + part.end,
            ..self.clone()
        };
        (0..count).zip(parts).map(part).collect()
    }
}

/// An opened safetensors file.
#[derive(Clone, Debug)]
pub struct SafetensorsFile {
    source: Source,
    tensors: Arc<Vec<Tensor>>,
}

impl SafetensorsFile {
    /// Open `path` and check its header. Tensors of more than `part_bytes` come in parts.
    ///
    /// # Errors
    /// The file can't be read or its header contradicts itself; the message names the file.
    pub fn open(path: &Path, mmap: bool, part_bytes: u64) -> Result<Self, CallError> {
        let source = Source::open(path, mmap).map_err(|error| CallError::File {
            path: path.display().to_string(),
            why: error.to_string(),
        })?;
        Self::read(source, part_bytes)
    }

    /// The same of a file's bytes in memory, which messages call `name`.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn given(name: &Path, bytes: Buffer, part_bytes: u64) -> Result<Self, CallError> {
        Self::read(Source::given(name, bytes), part_bytes)
    }

    fn read(source: Source, part_bytes: u64) -> Result<Self, CallError> {
        let (data_start, header) = read_header(&source)
            .map_err(|why| CallError::File { path: source.path().display().to_string(), why })?;
        let tensors = tensors(data_start, &header).into_iter();
        let tensors = tensors.flat_map(|tensor| tensor.cut(part_bytes)).collect();
        Ok(Self { tensors: Arc::new(tensors), source })
    }

    /// The relation's schema; without `data` for a plan.
    pub fn schema(&self, with_data: bool) -> SchemaRef {
        schema(with_data)
    }

    /// The tensors, or their parts, in the order of their bytes: the rows of the relation.
    pub fn rows(&self) -> &[Tensor] {
        &self.tensors
    }

    /// How many tensors there are.
    pub fn len(&self) -> usize {
        self.tensors.iter().filter(|tensor| tensor.part.0 == 0).count()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Bytes of all tensors.
    pub fn data_bytes(&self) -> u64 {
        self.tensors.iter().map(Tensor::bytes).sum()
    }

    /// Read the file from its beginning, in batches.
    pub fn reader(&self, with_data: bool) -> SafetensorsReader {
        self.range(0..self.tensors.len(), with_data)
    }

    /// Read some of the rows; a range beyond them ends with them.
    pub fn range(&self, rows: Range<usize>, with_data: bool) -> SafetensorsReader {
        let end = rows.end.min(self.tensors.len());
        let (file, schema) = (self.clone(), schema(with_data));
        SafetensorsReader { file, schema, with_data, first: rows.start, next: rows.start, end }
    }
}

/// Where the tensors' bytes begin, and the header.
fn read_header(source: &Source) -> Result<(u64, Metadata), String> {
    const ADVICE: &str = "Is it a safetensors file, and was it copied whole?";
    let read = |end: u64| {
        let (buffer, start) = source.bytes(0..end).map_err(|error| error.to_string())?;
        Ok::<_, String>(buffer.slice_with_length(start as usize, end as usize))
    };
    let size = source.size();
    if size < 8 {
        return Err(format!("{size} bytes are no header. {ADVICE}"));
    }
    let length = read(8)?;
    let length: [u8; 8] = length.as_slice().try_into().map_err(|_| "no header".to_owned())?;
    let length = u64::from_le_bytes(length);
    if &length.to_le_bytes() == LFS_POINTER {
        return Err(
            "is a git-lfs pointer, not the file itself. Run `git lfs pull` to fetch it, or \
                    download the file anew."
                .to_owned(),
        );
    }
    let Some(end) = length.checked_add(8).filter(|&end| end <= size) else {
        return Err(format!("the header claims {length} bytes, but the file has {size}. {ADVICE}"));
    };
    if length > LARGEST_HEADER {
        return Err(format!(
            "the header claims {length} bytes, more than the format allows. {ADVICE}"
        ));
    }
    let header = read(end)?;
    let text = std::str::from_utf8(&header[8..]).map_err(|e| format!("{e}. {ADVICE}"))?;
    let header: Metadata =
        serde_json::from_str(text).map_err(|e| format!("invalid header: {e}. {ADVICE}"))?;
    let expected = end.checked_add(header.data_len() as u64);
    if expected != Some(size) {
        let expected = expected.map_or("more".to_owned(), |bytes| bytes.to_string());
        return Err(format!(
            "the header asks for {expected} bytes, but the file has {size}. {ADVICE}"
        ));
    }
    Ok((end, header))
}

/// The tensors in the order of their bytes; empty ones at one place by name.
fn tensors(data_start: u64, header: &Metadata) -> Vec<Tensor> {
    let mut tensors: Vec<Tensor> = header
        .tensors()
        .into_iter()
        .map(|(name, info)| {
            let shape: Vec<i64> = info.shape.iter().map(|&dimension| dimension as i64).collect();
            Tensor {
                name,
                dtype: info.dtype.to_string(),
                layer_shape: shape.clone(),
                shape,
                part: (0, 1, 0),
                start: data_start + info.data_offsets.0 as u64,
                end: data_start + info.data_offsets.1 as u64,
            }
        })
        .collect();
    tensors.sort_by(|a, b| (a.start, a.end, &a.name).cmp(&(b.start, b.end, &b.name)));
    tensors
}

fn schema(with_data: bool) -> SchemaRef {
    let data = with_data.then(|| Field::new("data", DataType::LargeBinary, true));
    let before = [
        Field::new("layer_name", DataType::Utf8, true),
        Field::new("dtype", DataType::Utf8, true),
        Field::new("shape", shape_type(), true),
    ];
    let file = [Field::new("source_file", DataType::Utf8, true)];
    let fields: Vec<Field> =
        before.into_iter().chain(data).chain(part_fields()).chain(file).collect();
    Arc::new(Schema::new(fields))
}

/// The batches of one file.
pub struct SafetensorsReader {
    file: SafetensorsFile,
    schema: SchemaRef,
    with_data: bool,
    first: usize,
    next: usize,
    end: usize,
}

impl SafetensorsReader {
    /// The tensors of the next batch.
    fn take(&mut self) -> Option<Range<usize>> {
        let tensors = &self.file.tensors[..self.end];
        let first = tensors.get(self.next)?;
        let fits = |tensor: &&Tensor| !self.with_data || tensor.end - first.start <= BATCH_BYTES;
        let count = tensors[self.next..].iter().take_while(fits).count().max(1);
        let range = self.next..self.next + count;
        self.next = range.end;
        Some(range)
    }

    fn batch(&self, tensors: &[Tensor]) -> Result<RecordBatch, ArrowError> {
        let path = self.file.source.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let shape = |get: fn(&Tensor) -> &Vec<i64>| -> ArrayRef {
            Arc::new(shapes(tensors.iter().map(|tensor| Some(get(tensor).as_slice()))))
        };
        let text = |get: fn(&Tensor) -> &String| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(tensors.iter().map(get)))
        };
        let count = tensors.len();
        let mut columns = vec![text(|t| &t.name), text(|t| &t.dtype), shape(|t| &t.shape)];
        if self.with_data {
            columns.push(Arc::new(self.data(tensors)?));
        }
        let parts: Vec<_> = tensors.iter().map(|tensor| tensor.part).collect();
        columns.extend(part_columns(&parts, shape(|t| &t.layer_shape)));
        columns.push(Arc::new(StringArray::from(vec![name.as_deref(); count])));
        RecordBatch::try_new(Arc::clone(&self.schema), columns)
    }

    /// Consecutive tensors as one column.
    fn data(&self, tensors: &[Tensor]) -> Result<LargeBinaryArray, ArrowError> {
        let [first, ..] = tensors else {
            return Ok(LargeBinaryArray::new(
                OffsetBuffer::new_empty(),
                Buffer::from_vec(Vec::<u8>::new()),
                None,
            ));
        };
        let end = tensors.last().map_or(first.end, |last| last.end);
        let path = self.file.source.path().display();
        let (buffer, at) = self
            .file
            .source
            .bytes(first.start..end)
            .map_err(|error| ArrowError::IoError(format!("{path}: {error}"), error))?;
        let ends = tensors.iter().map(|tensor| tensor.end);
        let offsets: Vec<i64> = std::iter::once(first.start)
            .chain(ends)
            .map(|offset| (offset - first.start + at) as i64)
            .collect();
        let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
        Ok(LargeBinaryArray::new(offsets, buffer, None))
    }

    /// Before a batch is handed out, and before the next: what was read between must be the file
    /// whose header was checked.
    fn check_unchanged(&self) -> Result<(), ArrowError> {
        if !self.with_data || self.file.source.is_unchanged() {
            return Ok(());
        }
        let path = self.file.source.path().display();
        let text = format!(
            "source_unreadable: {path} changed while it was read. Start again on a file that \
             nobody writes to."
        );
        Err(ArrowError::IoError(text.clone(), io::Error::other(text)))
    }
}

impl Iterator for SafetensorsReader {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next > self.first
            && let Err(error) = self.check_unchanged()
        {
            self.next = self.end;
            return Some(Err(error));
        }
        let tensors = Arc::clone(&self.file.tensors);
        let range = self.take()?;
        Some(self.check_unchanged().and_then(|()| self.batch(&tensors[range])))
    }
}

impl RecordBatchReader for SafetensorsReader {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}
