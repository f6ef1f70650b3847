//! A file of tensors that is written tensor by tensor, in any order, without holding the model.
//!
//! What comes before the tensors' bytes is the business of a file for each container.

mod sync;

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use arrow_array::{Int64Array, RecordBatch};
use arrow_schema::ArrowError;

use crate::container::transpose;
use crate::dtype::Block;
use crate::error::{CallError, Error};
use crate::relation::bytes::Bytes;
use crate::relation::columns;
use crate::relation::shapes::Shapes;
use crate::relation::text::Text;
use crate::temporary::{self, Temporary};
use sync::SyncBehind;

/// A tensor's place in a file.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) name: String,
    pub(super) block: Block,
    pub(super) range: Range<u64>,
}

/// A file in the making, under a temporary name beside its own.
#[derive(Debug)]
pub struct TensorWriter {
    path: PathBuf,
    file: Temporary,
    /// The tensors that are not written to their ends yet.
    missing: HashMap<String, Missing>,
    sync: SyncBehind,
}

/// A tensor in the making.
#[derive(Debug)]
struct Missing {
    /// Where it belongs in the file.
    range: Range<u64>,
    /// How its elements are stored.
    block: Block,
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

impl TensorWriter {
    /// A file that begins with `header` and has so many bytes, in which tensors have their places.
    pub(super) fn begin(
        path: &Path,
        header: &[u8],
        length: u64,
        places: Vec<Place>,
    ) -> io::Result<Self> {
        temporary::remove_abandoned(path);
        let mut temporary = Temporary::beside(path)?;
        let file = temporary.file();
        file.set_len(length)?;
        file.write_all(header)?;
        let missing = places.into_iter().map(|Place { name, block, range }| {
            (name, Missing { range, block, written: BTreeMap::new(), count: 0 })
        });
        Ok(Self {
            path: path.to_owned(),
            file: temporary,
            missing: missing.collect(),
            sync: SyncBehind::default(),
        })
    }

    /// Write the tensors of a weights batch: columns `layer_name`, `data` (binary) and, where rows
    /// may be parts of layers or matrices of stacks, the columns that say so. A matrix is written to
    /// where it belongs in its stack, which is the tensor that was announced.
    ///
    /// # Errors
    /// A layer is not among those announced, was written before, or has another size.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), Error> {
        let names = Text::try_new(columns::written(batch, "layer_name")?)?;
        let data = Bytes::try_new(columns::written(batch, "data")?)?;
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
        let width = match self.missing.get(stack).map(|missing| missing.block) {
            Some(Block { elements: 1, bytes }) => bytes as usize,
            _ => 0,
        };
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
            return self.write_part(stack, first.saturating_add(k.saturating_mul(rows)), &turned);
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
        let Block { elements, bytes: each } = missing.block;
        let start = (offset / elements).saturating_mul(each);
        let at = missing.range.start.saturating_add(start);
        missing.add(start, bytes.len() as u64).map_err(fail)?;
        if missing.is_whole() {
            self.missing.remove(name);
        }
        let file = self.file.file();
        file.seek(SeekFrom::Start(at))?;
        file.write_all(bytes)?;
        self.sync.wrote(file, bytes.len() as u64)?;
        Ok(())
    }

    /// Sync the file and give it its name; with `overwrite`, in place of one that has it.
    ///
    /// # Errors
    /// A tensor is missing, there is a file of that name, or the file can't be renamed.
    pub fn finish(mut self, overwrite: bool) -> Result<(), Error> {
        if let Some(name) = self.missing.keys().min() {
            let why = format!("layer '{name}' was announced but not written to its end");
            return Err(CallError::File { path: self.path.display().to_string(), why }.into());
        }
        self.sync.wait()?;
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
