//! How columns are laid out: their names and types in Parquet, and how they are encoded.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, new_null_array};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{ArrowError, DataType, Field, FieldRef, Fields, Schema, TimeUnit};
use parquet::arrow::ArrowSchemaConverter;
use parquet::arrow::arrow_writer::ArrowRowGroupWriterFactory;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::SerializedFileWriter;

use super::leaves::encode;

/// Codes: as they are. A dictionary of them, or their extremes, would take time and tell nothing.
pub(super) const CODES: &str = "data";
/// Floats, whose bytes are written plane by plane: those of one plane are much alike.
const FLOATS: [&str; 2] = ["scales", "biases"];
/// What Parquet's specification calls a list's items; Arrow leaves that open.
const ELEMENT: &str = "element";
/// Pages of all but codes. What they take while they are encoded is several times as much.
const PAGE: usize = 1 << 16;

pub(super) fn is_codes(field: &Field) -> bool {
    field.name() == CODES && *field.data_type() == DataType::LargeBinary
}

pub(super) fn properties(schema: &Schema) -> WriterProperties {
    let mut properties = WriterProperties::builder()
        .set_created_by(concat!("arrowquant version ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_data_page_size_limit(PAGE)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_offset_index_disabled(true);
    let metadata = schema.metadata().iter();
    let metadata = metadata.map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
    properties = properties.set_key_value_metadata(Some(metadata.collect()));
    for field in schema.fields() {
        if is_codes(field) {
            properties = properties
                .set_column_dictionary_enabled(CODES.into(), false)
                .set_column_compression(CODES.into(), Compression::UNCOMPRESSED)
                .set_column_statistics_enabled(CODES.into(), EnabledStatistics::None);
        } else if FLOATS.contains(&field.name().as_str()) {
            let path: Vec<_> = [field.name(), "list", ELEMENT].map(str::to_owned).into();
            properties = properties
                .set_column_dictionary_enabled(path.clone().into(), false)
                .set_column_encoding(path.into(), Encoding::BYTE_STREAM_SPLIT);
        }
    }
    properties.build()
}

/// The field with the parts of lists and maps named as Parquet's specification names them, and with
/// types that it has: neither times in seconds nor days in milliseconds.
pub(super) fn as_in_parquet(field: &FieldRef) -> FieldRef {
    Arc::new(field.as_ref().clone().with_data_type(type_in_parquet(field.data_type())))
}

fn type_in_parquet(data_type: &DataType) -> DataType {
    let named = |field: &FieldRef, name: &str| {
        let field = as_in_parquet(field);
        Arc::new(field.as_ref().clone().with_name(name))
    };
    let item = |item: &FieldRef| named(item, ELEMENT);
    match data_type {
        DataType::Timestamp(TimeUnit::Second, zone) => {
            DataType::Timestamp(TimeUnit::Millisecond, zone.clone())
        }
        DataType::Time32(TimeUnit::Second) => DataType::Time32(TimeUnit::Millisecond),
        DataType::Date64 => DataType::Date32,
        DataType::List(of) => DataType::List(item(of)),
        DataType::LargeList(of) => DataType::LargeList(item(of)),
        DataType::FixedSizeList(of, size) => DataType::FixedSizeList(item(of), *size),
        DataType::ListView(of) => DataType::ListView(item(of)),
        DataType::LargeListView(of) => DataType::LargeListView(item(of)),
        DataType::Struct(of) => DataType::Struct(of.iter().map(as_in_parquet).collect()),
        DataType::Map(entries, sorted) => {
            let names = ["key", "value"].into_iter();
            let fields: Fields = match entries.data_type() {
                DataType::Struct(of) => of.iter().zip(names).map(|(f, n)| named(f, n)).collect(),
                _ => Fields::empty(),
            };
            let entries = entries.as_ref().clone().with_data_type(DataType::Struct(fields));
            DataType::Map(Arc::new(entries.with_name("key_value")), *sorted)
        }
        DataType::Dictionary(keys, values) => {
            DataType::Dictionary(keys.clone(), Box::new(type_in_parquet(values)))
        }
        DataType::RunEndEncoded(ends, values) => {
            DataType::RunEndEncoded(Arc::clone(ends), as_in_parquet(values))
        }
        other => other.clone(),
    }
}

/// The column as one of that field, of [`as_in_parquet`].
pub(super) fn in_parquet(column: &ArrayRef, field: &Field) -> Result<ArrayRef, ArrowError> {
    if column.data_type().equals_datatype(field.data_type()) {
        return Ok(Arc::clone(column));
    }
    let options = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(column, field.data_type(), &options)
}

/// Whether Parquet has a type for the column, by writing one null.
pub(super) fn check_storable(field: &Field) -> Result<(), ParquetError> {
    let field = field.clone().with_nullable(true);
    let schema = Schema::new(vec![field.clone()]);
    let parquet = ArrowSchemaConverter::new().convert(&schema)?;
    let file = SerializedFileWriter::new(Vec::new(), parquet.root_schema_ptr(), Arc::default())?;
    let columns = ArrowRowGroupWriterFactory::new(&file, Arc::new(schema));
    let array = new_null_array(field.data_type(), 1);
    let mut writers = columns.create_column_writers(0)?.into_iter();
    encode(&field, [&array].into_iter(), &mut writers, &|| ())?;
    Ok(())
}
