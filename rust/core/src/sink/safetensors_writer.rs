//! Writing safetensors tensor by tensor, in any order, without holding the model.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use arrow_array::{Int64Array, RecordBatch};
use arrow_schema::ArrowError;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use crate::container::transpose;
use crate::dtype::Block;
use crate::error::{CallError, Error};
use crate::relation::bytes::Bytes;
use crate::relation::columns;
use crate::relation::shapes::Shapes;
use crate::relation::text::Text;
use crate::temporary::{self, Temporary};

/// A tensor to be written: name, dtype, shape.
#[derive(Clone, Debug)]
pub struct TensorSpec {
    /// Unique in the file.
    pub name: String,
    /// safetensors' name.
    pub dtype: String,
    /// Its dimensions.
    pub shape: Vec<i64>,
}

/// A file in the making, under a temporary name beside its own.
#[derive(Debug)]
pub struct SafetensorsWriter {
    path: PathBuf,
    file: Temporary,
    /// The tensors that are not written to their ends yet.
    missing: HashMap<String, Missing>,
}

/// A tensor in the making.
#[derive(Debug)]
struct Missing {
    /// Where it belongs in the file.
    range: Range<u64>,
    bits: u64,
    /// What is written of it, from where in it to where.
    written: BTreeMap<u64, u64>,
    /// How many bytes that is.
    count: u64,
}

impl Missing {
    /// Note that `bytes` bytes from `start` on are written, which must be none that were before.
    fn add(&mut self, start: u64, bytes: u64) -> Result<(), String> {
        let size = self.range.end - self.range.start;
        let Some(end) = start.checked_add(bytes).filter(|&end| end <= size) else {
            return Err(format!("has {bytes} bytes at {start}, but {size} in all"));
        };
        let before = self.written.range(..end).next_back();
        if before.is_some_and(|(_, &until)| until > start) {
            return Err("was not announced, or comes twice".to_owned());
        }
        if bytes > 0 {
            // A run that follows another one makes it longer.
            match self.written.range_mut(..=start).next_back() {
                Some((_, until)) if *until == start => *until = end,
                _ => _ = self.written.insert(start, end),
            }
            self.count += bytes;
        }
        Ok(())
    }

    fn is_whole(&self) -> bool {
        self.count == self.range.end - self.range.start
    }
}

impl SafetensorsWriter {
    /// Lay out `tensors`, wide dtypes first so that each is aligned, and write the header, whose
    /// `__metadata__` gets a `format` where it has none: transformers asks for it.
    ///
    /// # Errors
    /// Two tensors have one name, a dtype is none of safetensors', a shape is impossible, or the
    /// file can't be written.
    pub fn create(
        path: &Path,
        mut tensors: Vec<TensorSpec>,
        mut metadata: BTreeMap<String, String>,
    ) -> Result<Self, CallError> {
        let fail = |why: String| CallError::File { path: path.display().to_string(), why };
        let width =
            |tensor: &TensorSpec| crate::dtype::block(&tensor.dtype).map_or(0.0, Block::bits);
        tensors.sort_by(|a, b| width(b).total_cmp(&width(a)).then_with(|| a.name.cmp(&b.name)));
        let mut names = HashSet::new();
        if let Some(twice) = tensors.iter().find(|tensor| !names.insert(&tensor.name)) {
            return Err(CallError::DuplicateLayer(twice.name.clone(), "safetensors"));
        }
        let mut infos = Vec::with_capacity(tensors.len());
        let mut at = 0usize;
        for tensor in &tensors {
            let info = info(tensor, at).map_err(&fail)?;
            at = info.data_offsets.1;
            infos.push((tensor.name.clone(), info));
        }
        metadata.entry("format".to_owned()).or_insert_with(|| "pt".to_owned());
        let header = Metadata::new(None, infos.clone()).map_err(|error| fail(error.to_string()))?;
        let mut header =
            header_text(&header, &metadata).map_err(|error| fail(error.to_string()))?;
        header.resize(header.len().next_multiple_of(8), b' ');
        let start = header.len() as u64 + 8;
        let missing = infos.into_iter().map(|(name, info)| {
            let (from, to) = info.data_offsets;
            let range = start + from as u64..start + to as u64;
            (
                name,
                Missing {
                    range,
                    bits: info.dtype.bitsize() as u64,
                    written: BTreeMap::new(),
                    count: 0,
                },
            )
        });
        let missing = missing.collect();
        let file =
            begin(path, &header, start + at as u64).map_err(|error| fail(error.to_string()))?;
        Ok(Self { path: path.to_owned(), file, missing })
    }

    /// Write the tensors of a weights batch: columns `layer_name`, `data` (binary) and, where rows
    /// may be parts of layers or matrices of stacks, the columns that say so. A matrix is written to
    /// where it belongs in its stack, which is the tensor that was announced.
    ///
    /// # Errors
    /// A layer is not among those announced, was written before, or has another size.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), Error> {
        let column = |name: &'static str| {
            batch.column_by_name(name).ok_or_else(|| CallError::MissingColumn {
                relation: "Weights",
                column: name,
                expected: "text and binary",
                found: format!("{:?}", batch.schema().fields()),
                hint: String::new(),
            })
        };
        let names = Text::try_new(column("layer_name")?)?;
        let data = Bytes::try_new(column("data")?)?;
        let offsets = batch.column_by_name("part_offset");
        let offsets = offsets.map(|column| columns::integer(column, "part_offset")).transpose()?;
        let stacks = Stacks::of(batch)?;
        for row in 0..names.len() {
            let name = names.get(row).unwrap_or_default();
            let bytes = data.as_ref().and_then(|data| data.get(row)).unwrap_or_default();
            let offset = columns::integer_at(offsets.as_ref(), row).unwrap_or(0);
            let offset = u64::try_from(offset).unwrap_or(0);
            match stacks.as_ref().and_then(|stacks| stacks.matrix(row)) {
                Some((stack, matrix)) => self.write_matrix(stack, &matrix, offset, bytes)?,
                None => self.write_part(name, offset, bytes)?,
            }
        }
        Ok(())
    }

    /// Write a matrix of a stack, or a part of one that begins at element `offset` of it.
    fn write_matrix(
        &mut self,
        stack: &str,
        matrix: &Matrix,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), Error> {
        let first = matrix.index.saturating_mul(matrix.rows.saturating_mul(matrix.columns));
        let width = self.missing.get(stack).map_or(0, |missing| missing.bits / 8) as usize;
        if !matrix.is_turned || width == 0 || matrix.columns == 0 {
            return self.write_part(stack, first.saturating_add(offset), bytes);
        }
        // A part is whole rows, or lies in one.
        let (row, k) = (offset / matrix.columns, offset % matrix.columns);
        let across = ((bytes.len() / width) as u64).min(matrix.columns - k).max(1);
        let rows = (bytes.len() / width) as u64 / across;
        if rows * across * width as u64 != bytes.len() as u64 || row + rows > matrix.rows {
            let why =
                format!("layer '{stack}[{}]' has {} bytes at {offset}", matrix.index, bytes.len());
            return Err(CallError::File { path: self.path.display().to_string(), why }.into());
        }
        let turned = transpose(bytes, rows as usize, across as usize, width);
        if rows == matrix.rows {
            return self.write_part(stack, first, &turned);
        }
        for (at, run) in (k..).zip(turned.chunks((rows as usize * width).max(1))) {
            let at = first.saturating_add(at.saturating_mul(matrix.rows)).saturating_add(row);
            self.write_part(stack, at, run)?;
        }
        Ok(())
    }

    fn write_part(&mut self, name: &str, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let path = self.path.display().to_string();
        let fail = |why: String| CallError::File { path, why: format!("layer '{name}' {why}") };
        let Some(missing) = self.missing.get_mut(name) else {
            return Err(fail("was not announced, or comes twice".to_owned()).into());
        };
        let start = offset.saturating_mul(missing.bits) / 8;
        let at = missing.range.start.saturating_add(start);
        missing.add(start, bytes.len() as u64).map_err(fail)?;
        if missing.is_whole() {
            self.missing.remove(name);
        }
        let file = self.file.file();
        file.seek(SeekFrom::Start(at))?;
        file.write_all(bytes)?;
        Ok(())
    }

    /// Sync the file and give it its name; with `overwrite`, in place of one that has it.
    ///
    /// # Errors
    /// A tensor is missing, there is a file of that name, or the file can't be renamed.
    pub fn finish(self, overwrite: bool) -> Result<(), Error> {
        if let Some(name) = self.missing.keys().min() {
            let why = format!("layer '{name}' was announced but not written to its end");
            return Err(CallError::File { path: self.path.display().to_string(), why }.into());
        }
        Ok(self.file.commit(overwrite)?)
    }
}

/// The columns that say which matrix of a stack a row is.
struct Stacks {
    names: Text,
    indices: Int64Array,
    axes: Int64Array,
    shapes: Shapes,
}

/// A matrix of a stack, as `[rows, columns]`.
struct Matrix {
    index: u64,
    rows: u64,
    columns: u64,
    /// The stack has its columns side by side.
    is_turned: bool,
}

impl Stacks {
    /// The columns, where all are there.
    fn of(batch: &RecordBatch) -> Result<Option<Self>, ArrowError> {
        let column = |name: &str| batch.column_by_name(name);
        // Of a part, the shape is that of its layer.
        let shapes = column("layer_shape").or_else(|| column("shape"));
        let columns = (column("stack_name"), column("stack_index"), column("stack_axis"), shapes);
        let (Some(names), Some(indices), Some(axes), Some(shapes)) = columns else {
            return Ok(None);
        };
        Ok(Some(Self {
            names: Text::try_new(names)?,
            indices: columns::integer(indices, "stack_index")?,
            axes: columns::integer(axes, "stack_axis")?,
            shapes: Shapes::try_new(shapes)?,
        }))
    }

    /// The stack's name and which matrix of it a row is; nothing where it is of no stack.
    fn matrix(&self, row: usize) -> Option<(&str, Matrix)> {
        let index = columns::integer_at(Some(&self.indices), row)?;
        let &[rows, columns] = self.shapes.get(row).ok()? else {
            return None;
        };
        let unsigned = |number: i64| u64::try_from(number).ok();
        let matrix = Matrix {
            index: unsigned(index)?,
            rows: unsigned(rows)?,
            columns: unsigned(columns)?,
            is_turned: columns::integer_at(Some(&self.axes), row) == Some(-2),
        };
        Some((self.names.get(row)?, matrix))
    }
}

/// The header as JSON. The crate would write metadata in any order, and the same file must come out
/// each time.
fn header_text(
    header: &Metadata,
    metadata: &BTreeMap<String, String>,
) -> serde_json::Result<Vec<u8>> {
    let tensors = serde_json::to_vec(header)?;
    let mut text = b"{\"__metadata__\":".to_vec();
    text.extend(serde_json::to_vec(metadata)?);
    if tensors.len() > 2 {
        text.push(b',');
    }
    text.extend(&tensors[1..]);
    Ok(text)
}

fn info(tensor: &TensorSpec, at: usize) -> Result<TensorInfo, String> {
    let name = &tensor.name;
    let dtype: Dtype = serde_json::from_value(tensor.dtype.clone().into())
        .map_err(|_| format!("layer '{name}': safetensors has no dtype '{}'", tensor.dtype))?;
    let shape: Option<Vec<usize>> =
        tensor.shape.iter().map(|&dimension| usize::try_from(dimension).ok()).collect();
    let shape =
        shape.ok_or_else(|| format!("layer '{name}': negative shape {:?}", tensor.shape))?;
    let bits =
        shape.iter().try_fold(dtype.bitsize(), |bits, &dimension| bits.checked_mul(dimension));
    let end = bits.and_then(|bits| at.checked_add(bits / 8));
    let end = end.ok_or_else(|| format!("layer '{name}': shape {shape:?} overflows"))?;
    Ok(TensorInfo { dtype, shape, data_offsets: (at, end) })
}

/// A temporary file beside `path` with the header written and its final length.
fn begin(path: &Path, header: &[u8], length: u64) -> io::Result<Temporary> {
    temporary::remove_abandoned(path);
    let mut temporary = Temporary::beside(path)?;
    let file = temporary.file();
    file.set_len(length)?;
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header)?;
    Ok(temporary)
}
