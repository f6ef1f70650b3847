//! Parquet files as [`crate::sink::parquet_writer`] writes them, a batch for each row group.
//!
//! Codes lie uncompressed in such a file. Where it is mapped, the column `data` is views into the
//! mapping: nothing is copied. Other columns are decoded into memory of their own.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{RecordBatch, RecordBatchReader};
use arrow_buffer::Buffer;
use arrow_schema::{ArrowError, DataType, Field, Fields, Schema, SchemaRef};
use bytes::Bytes;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use parquet::errors::ParquetError;
use parquet::file::reader::ChunkReader;

use crate::error::{CallError, Error};
use crate::panics;
use crate::source::Source;

/// The column of codes.
const CODES: &str = "data";

/// The rows of a file, row group by row group.
pub struct ParquetRows {
    path: PathBuf,
    input: Input,
    metadata: ArrowReaderMetadata,
    next: usize,
}

enum Input {
    Mapped(Bytes),
    File(File),
}

/// A mapping as the owner of bytes.
struct Mapping(Buffer);

impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl ParquetRows {
    /// Open the file at `path`; with `mmap` it is mapped where the operating system does so.
    ///
    /// # Errors
    /// It can't be read, or is no Parquet file.
    pub fn open(path: &Path, mmap: bool) -> Result<Self, Error> {
        let source = Source::open(path, mmap)?;
        let input = match source.mapping() {
            Some(mapping) => Input::Mapped(Bytes::from_owner(Mapping(mapping.clone()))),
            None => Input::File(File::open(path)?),
        };
        let metadata = panics::catch(|| match &input {
            Input::Mapped(bytes) => load(bytes),
            Input::File(file) => load(file),
        });
        let metadata = metadata.map_err(|why| failure(path, why))?;
        let metadata = metadata.map_err(|error| failure(path, error.to_string()))?;
        Ok(Self { path: path.to_owned(), input, metadata, next: 0 })
    }

    fn read(&self, group: usize) -> Result<Option<RecordBatch>, ArrowError> {
        let rows = usize::try_from(self.metadata.metadata().row_group(group).num_rows());
        let rows = rows.map_err(|error| ArrowError::ParquetError(error.to_string()))?;
        if rows == 0 {
            return Ok(None);
        }
        match &self.input {
            Input::Mapped(bytes) => read(bytes.clone(), &self.metadata, group, rows),
            Input::File(file) => read(file.try_clone()?, &self.metadata, group, rows),
        }
    }
}

impl Iterator for ParquetRows {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.next < self.metadata.metadata().num_row_groups() {
            let group = self.next;
            self.next += 1;
            let found = panics::catch(|| self.read(group));
            let found = found.map_err(ArrowError::ParquetError).flatten();
            match found.map_err(|error| self.failure(group, &error)) {
                Ok(None) => {}
                Ok(Some(batch)) => return Some(Ok(batch)),
                Err(error) => return Some(Err(error)),
            }
        }
        None
    }
}

impl ParquetRows {
    fn failure(&self, group: usize, error: &ArrowError) -> ArrowError {
        let text = format!("{}: row group {group}: {error}", self.path.display());
        ArrowError::ParquetError(text)
    }
}

impl RecordBatchReader for ParquetRows {
    fn schema(&self) -> SchemaRef {
        Arc::clone(self.metadata.schema())
    }
}

fn load<T: ChunkReader>(input: &T) -> Result<ArrowReaderMetadata, ParquetError> {
    let found = ArrowReaderMetadata::load(input, ArrowReaderOptions::new())?;
    let schema = found.schema();
    let fields: Fields = schema.fields().iter().map(as_view).collect();
    let schema = Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()));
    let options = ArrowReaderOptions::new().with_schema(schema);
    ArrowReaderMetadata::try_new(Arc::clone(found.metadata()), options)
}

fn as_view(field: &Arc<Field>) -> Arc<Field> {
    let is_codes = field.name() == CODES
        && matches!(field.data_type(), DataType::Binary | DataType::LargeBinary);
    match is_codes {
        true => Arc::new(field.as_ref().clone().with_data_type(DataType::BinaryView)),
        false => Arc::clone(field),
    }
}

fn read<T: ChunkReader + 'static>(
    input: T,
    metadata: &ArrowReaderMetadata,
    group: usize,
    rows: usize,
) -> Result<Option<RecordBatch>, ArrowError> {
    let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(input, metadata.clone());
    let reader = reader.with_row_groups(vec![group]).with_batch_size(rows);
    reader.build().map_err(ArrowError::from)?.next().transpose()
}

fn failure(path: &Path, why: String) -> Error {
    CallError::File { path: path.display().to_string(), why }.into()
}
