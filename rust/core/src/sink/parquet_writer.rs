//! Writing relations to Parquet, a row group for each batch.
//!
//! Codes are written page by page as they lie in the batch; of the other columns a row group's
//! pages are gathered, encoded and compressed, before they are written.

mod codes;
mod layout;
mod leaves;
mod slices;

use std::fs::{File, OpenOptions};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{ArrowError, Fields, Schema};
use parquet::arrow::arrow_writer::ArrowRowGroupWriterFactory;
use parquet::arrow::{ArrowSchemaConverter, add_encoded_arrow_schema_to_metadata};
use parquet::errors::ParquetError;
use parquet::file::writer::SerializedFileWriter;

use crate::error::{CallError, Error};
use crate::panics;
use codes::{Chunk, LARGEST};
use layout::is_codes;
use leaves::encode;
use slices::slices;

/// Batches of fewer bytes share a row group. Of those a file has at most 32,767, so this doubles
/// with every [`GROUPS`].
const LEAST: usize = 1 << 20;
const GROUPS: usize = 1 << 12;
/// So many bytes are handed to the operating system at once, in which case it takes larger pages.
const AT_ONCE: usize = 1 << 18;
/// A column of so many values takes some megabytes while it is encoded.
const MANY: i64 = 1 << 14;

/// A Parquet file in the making.
pub struct ParquetWriter {
    path: PathBuf,
    file: SerializedFileWriter<BufWriter<File>>,
    columns: ArrowRowGroupWriterFactory,
    fields: Fields,
    /// The columns of the next row group, in slices, and their bytes.
    waiting: Vec<Vec<ArrayRef>>,
    waiting_bytes: usize,
    freed: Box<dyn Fn() + Send>,
}

/// The fields of `schema` as they are in Parquet.
///
/// # Errors
/// Parquet can't hold a column of such a type.
pub fn check_storable(schema: &Schema) -> Result<Fields, CallError> {
    let fields: Fields = schema.fields().iter().map(layout::as_in_parquet).collect();
    for (field, given) in fields.iter().zip(schema.fields()) {
        // The library panics on some types.
        let storable = panics::catch(|| layout::check_storable(field).is_ok());
        if storable != Ok(true) {
            let (column, found) = (field.name().clone(), given.data_type().to_string());
            return Err(CallError::NotStorable { column, found });
        }
    }
    Ok(fields)
}

impl ParquetWriter {
    /// Begin to write batches of `schema` into the existing file at `path`.
    ///
    /// # Errors
    /// Parquet can't hold a column of such a type, or the file can't be written.
    pub fn create(path: &Path, schema: &Schema) -> Result<Self, Error> {
        let fields = check_storable(schema)?;
        let named = Arc::new(Schema::new_with_metadata(fields.clone(), schema.metadata().clone()));
        let fail = |error| failure(path, error);
        let parquet = ArrowSchemaConverter::new().convert(&named).map_err(fail)?;
        let mut properties = layout::properties(schema);
        add_encoded_arrow_schema_to_metadata(schema, &mut properties);
        let file = OpenOptions::new().write(true).truncate(true).open(path);
        let file = BufWriter::with_capacity(AT_ONCE, file.map_err(|error| fail(error.into()))?);
        let properties = Arc::new(properties);
        let file = SerializedFileWriter::new(file, parquet.root_schema_ptr(), properties);
        let file = file.map_err(fail)?;
        let columns = ArrowRowGroupWriterFactory::new(&file, named);
        let (path, waiting, freed) = (path.to_owned(), Vec::new(), Box::new(|| ()));
        Ok(Self { path, file, columns, fields, waiting, waiting_bytes: 0, freed })
    }

    /// Have `freed` called whenever some megabytes were let go that encoding took for a moment: an
    /// allocator may keep them where nobody asks for them back.
    #[must_use]
    pub fn when_freed(self, freed: impl Fn() + Send + 'static) -> Self {
        Self { freed: Box::new(freed), ..self }
    }

    /// Write a batch as a row group; a small one, with those that follow it.
    ///
    /// # Errors
    /// A row's codes are more than a page can hold, a time does not fit Parquet's type for it, the
    /// columns are not the file's, or the file can't be written.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), Error> {
        check_cells(batch)?;
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let schema = batch.schema();
        let names = schema.fields().iter().map(|field| field.name());
        if !names.eq(self.fields.iter().map(|field| field.name())) {
            let text = format!("{}: a batch has other columns than the file", self.path.display());
            return Err(ArrowError::SchemaError(text).into());
        }
        let columns = batch.columns().iter().zip(&self.fields);
        let columns = columns.map(|(column, field)| {
            layout::in_parquet(column, field).map_err(|error| {
                ArrowError::CastError(format!("column '{}': {error}", field.name()))
            })
        });
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        let bytes = columns.iter().map(|column| column.to_data().get_slice_memory_size());
        self.waiting_bytes += bytes.sum::<Result<usize, _>>()?;
        self.waiting.extend(slices(codes::of(batch), &columns, batch.num_rows()));
        let groups = self.file.flushed_row_groups().len();
        let is_little = self.waiting_bytes < LEAST << (groups / GROUPS);
        if is_little { Ok(()) } else { self.write_group() }
    }

    /// Write what is missing, and the footer.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn finish(mut self) -> Result<(), Error> {
        if !self.waiting.is_empty() {
            self.write_group()?;
        }
        self.file.close().map(drop).map_err(|error| failure(&self.path, error))
    }

    fn write_group(&mut self) -> Result<(), Error> {
        let batches = std::mem::take(&mut self.waiting);
        self.waiting_bytes = 0;
        let written = group(&mut self.file, &self.columns, &self.fields, &batches, &*self.freed);
        drop(batches);
        (self.freed)();
        written.map_err(|error| failure(&self.path, error))
    }
}

fn group(
    file: &mut SerializedFileWriter<BufWriter<File>>,
    columns: &ArrowRowGroupWriterFactory,
    fields: &Fields,
    batches: &[Vec<ArrayRef>],
    freed: &dyn Fn(),
) -> Result<(), ParquetError> {
    let writers = columns.create_column_writers(file.flushed_row_groups().len())?;
    let mut writers = writers.into_iter();
    let leaves = file.schema_descr().columns();
    let codes = leaves.iter().find(|leaf| leaf.path().parts() == [layout::CODES]).cloned();
    let mut group = file.next_row_group()?;
    for (at, field) in fields.iter().enumerate() {
        let arrays = batches.iter().map(|columns| &columns[at]);
        if let Some(column) = codes.as_ref().filter(|_| is_codes(field)) {
            writers.next();
            let arrays = arrays.map(|array| array.as_binary());
            let pages = codes::pages(arrays, field.is_nullable());
            let chunk = Chunk::new(&pages);
            group.append_column(&chunk, chunk.description(Arc::clone(column))?)?;
        } else {
            for writer in encode(field, arrays, &mut writers, freed)? {
                let chunk = writer.close()?;
                let is_large = chunk.close().metadata.num_values() >= MANY;
                chunk.append_to_row_group(&mut group)?;
                if is_large {
                    freed();
                }
            }
        }
    }
    group.close().map(drop)
}

fn check_cells(batch: &RecordBatch) -> Result<(), CallError> {
    let Some(codes) = codes::of(batch) else { return Ok(()) };
    let lengths = codes.value_offsets().windows(2).map(|ends| (ends[1] - ends[0]) as usize);
    let Some((row, bytes)) = lengths.enumerate().find(|&(_, bytes)| bytes > LARGEST) else {
        return Ok(());
    };
    let names = batch.column_by_name("layer_name").and_then(|names| names.as_string_opt::<i32>());
    let layer = names.map_or_else(|| format!("in row {row}"), |names| names.value(row).to_owned());
    Err(CallError::CellTooLarge { layer, bytes, largest: LARGEST })
}

fn failure(path: &Path, error: ParquetError) -> Error {
    let why = match error {
        ParquetError::General(text) => text,
        ParquetError::External(error) => error.to_string(),
        other => other.to_string(),
    };
    CallError::File { path: path.display().to_string(), why }.into()
}
