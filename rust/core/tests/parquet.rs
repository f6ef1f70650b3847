//! Parquet files, read back by the library's own reader.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow_array::builder::{Float32Builder, LargeListBuilder};
use arrow_array::{
    ArrayRef, LargeBinaryArray, RecordBatch, RecordBatchReader, StringArray, new_null_array,
};
use arrow_buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow_cast::cast;
use arrow_schema::{DataType, Field, Fields, Schema};
use arrow_select::concat::concat_batches;
use arrowquant::container::parquet::ParquetRows;
use arrowquant::sink::parquet_writer::ParquetWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use proptest::prelude::*;

/// What our own reader reads of a file.
fn read_here(path: &Path, mmap: bool) -> Result<RecordBatch, String> {
    let rows = ParquetRows::open(path, mmap).map_err(|error| error.to_string())?;
    let schema = rows.schema();
    let batches = rows.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
    concat_batches(&schema, &batches).map_err(|error| error.to_string())
}

/// What is read back, and of how many row groups.
fn round_trip(batches: &[RecordBatch]) -> (RecordBatch, usize) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut writer = ParquetWriter::create(file.path(), &batches[0].schema()).unwrap();
    for batch in batches {
        writer.write(batch).unwrap();
    }
    writer.finish().unwrap();
    let builder =
        ParquetRecordBatchReaderBuilder::try_new(File::open(file.path()).unwrap()).unwrap();
    let groups = builder.metadata().num_row_groups();
    let reader = builder.build().unwrap();
    let schema = reader.schema();
    let batches: Vec<_> = reader.map(Result::unwrap).collect();
    let read = concat_batches(&schema, &batches).unwrap();
    for mmap in [true, false] {
        let here = read_here(file.path(), mmap).unwrap();
        assert_eq!(here.num_rows(), read.num_rows());
        for (here, read) in here.columns().iter().zip(read.columns()) {
            assert_eq!(&cast(here, arrow_array::Array::data_type(read)).unwrap(), read);
        }
    }
    (read, groups)
}

/// Rows with codes of these sizes, and as many scales as 64 bytes of them have.
fn batch(sizes: &[Option<usize>], nullable: bool) -> RecordBatch {
    let cells = sizes.iter().zip(0..).map(|(size, at): (_, u8)| {
        size.map(|size| (0..size).map(|i| (i as u8) ^ at).collect::<Vec<_>>())
    });
    let cells: Vec<_> = cells.collect();
    let data = LargeBinaryArray::from_iter(cells.iter().map(|cell| cell.as_deref()));
    let mut scales = LargeListBuilder::new(Float32Builder::new());
    for size in sizes {
        scales.append_option(size.map(|size| (0..size / 64).map(|at| Some(at as f32))));
    }
    let names = StringArray::from_iter_values((0..sizes.len()).map(|at| format!("layer.{at}")));
    let scales = scales.finish();
    let fields = vec![
        Field::new("layer_name", DataType::Utf8, true),
        Field::new("data", DataType::LargeBinary, nullable),
        Field::new("scales", arrow_array::Array::data_type(&scales).clone(), true),
    ];
    let columns: Vec<ArrayRef> = vec![Arc::new(names), Arc::new(data), Arc::new(scales)];
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]
    #[test]
    fn what_is_written_is_read(
        sizes in prop::collection::vec(
            prop::option::weighted(0.8, prop_oneof![0..100usize, 0..40_000usize, 0..3_000_000usize]),
            1..40,
        ),
        nullable: bool,
        cut in 0.0..1.0,
        skipped in 0usize..3,
    ) {
        let sizes: Vec<_> =
            sizes.iter().map(|size| if nullable { *size } else { size.or(Some(7)) }).collect();
        let whole = batch(&sizes, nullable);
        // Slices, whose buffers begin elsewhere.
        let skipped = skipped.min(sizes.len() - 1);
        let whole = whole.slice(skipped, sizes.len() - skipped);
        let cut = (cut * whole.num_rows() as f64) as usize;
        let pieces = [whole.slice(0, cut), whole.slice(cut, whole.num_rows() - cut)];
        let (read, _) = round_trip(&pieces);
        for (read, whole) in read.columns().iter().zip(whole.columns()) {
            // Parquet has a name of its own for a list's items.
            prop_assert_eq!(&cast(read, whole.data_type())?, whole);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]
    #[test]
    fn a_damaged_file_is_an_error_that_names_it_or_reads_otherwise(
        at: prop::sample::Index,
        byte: u8,
        length in prop::option::weighted(0.3, any::<prop::sample::Index>()),
    ) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let batch = batch(&[Some(1000), None, Some(3)], true);
        let mut writer = ParquetWriter::create(file.path(), &batch.schema())?;
        writer.write(&batch)?;
        writer.finish()?;
        let mut bytes = std::fs::read(file.path())?;
        let at = at.index(bytes.len());
        bytes[at] ^= byte;
        if let Some(length) = length {
            bytes.truncate(length.index(bytes.len()));
        }
        std::fs::write(file.path(), &bytes)?;
        for mmap in [true, false] {
            if let Err(error) = read_here(file.path(), mmap) {
                let name = file.path().display().to_string();
                prop_assert!(error.contains(&name), "{}", error);
            }
        }
    }
}

#[test]
fn small_batches_share_row_groups() {
    let small = batch(&[Some(1000); 10], true);
    let large = batch(&[Some(1 << 20)], true);
    assert_eq!(round_trip(&vec![small.clone(); 300]).1, 4);
    assert_eq!(round_trip(&[large.clone(), large.clone(), small.clone()]).1, 3);
    assert_eq!(round_trip(&[small, large]).1, 1);
}

#[test]
fn a_layer_of_more_than_a_page_is_refused_by_name() {
    // Memory that nobody touches.
    let bytes = Buffer::from_vec(vec![0u8; 1 << 31]);
    let offsets = OffsetBuffer::new(ScalarBuffer::from(vec![0, 5, 1 << 31]));
    let data = LargeBinaryArray::new(offsets, bytes, None);
    let names = StringArray::from(vec!["small", "large"]);
    let columns: [(&str, ArrayRef); 2] =
        [("layer_name", Arc::new(names)), ("data", Arc::new(data))];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut writer = ParquetWriter::create(file.path(), &batch.schema()).unwrap();
    let error = writer.write(&batch).unwrap_err().to_string();
    assert!(error.starts_with("layer 'large' takes 2147483643 bytes"), "{error}");
}

#[test]
fn types_without_a_place_in_parquet_are_refused_at_the_beginning() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let struct_of = |field| DataType::Struct(Fields::from(vec![field]));
    let interval = DataType::Interval(arrow_schema::IntervalUnit::MonthDayNano);
    for data_type in [interval.clone(), struct_of(Field::new("since", interval, true))] {
        let schema = Schema::new(vec![Field::new("months", data_type, true)]);
        let error = ParquetWriter::create(file.path(), &schema).err().unwrap().to_string();
        assert!(error.starts_with("column 'months' has type "), "{error}");
        assert!(error.ends_with("which Parquet can't hold. Cast it or drop it."), "{error}");
    }
}

#[test]
fn nested_columns_are_carried() {
    let of = |data_type| Field::new("x", data_type, true);
    let list = |data_type| DataType::List(Arc::new(of(data_type)));
    let entries = Fields::from(vec![
        Field::new("keys", DataType::Utf8, false),
        Field::new("values", list(DataType::Int8), true),
    ]);
    let entries = Field::new("entries", DataType::Struct(entries), false);
    let types = [
        DataType::Null,
        list(list(DataType::UInt16)),
        DataType::FixedSizeList(Arc::new(of(DataType::Float16)), 3),
        DataType::Struct(Fields::from(vec![of(list(DataType::Date64))])),
        DataType::Map(Arc::new(entries), false),
        DataType::Dictionary(Box::new(DataType::Int16), Box::new(DataType::Utf8)),
        DataType::Decimal256(50, 3),
        DataType::Timestamp(arrow_schema::TimeUnit::Nanosecond, Some("+01:00".into())),
        DataType::Timestamp(arrow_schema::TimeUnit::Second, None),
        list(DataType::Time32(arrow_schema::TimeUnit::Second)),
        DataType::Duration(arrow_schema::TimeUnit::Second),
        DataType::Utf8View,
    ];
    let columns = types.iter().map(|data_type| new_null_array(data_type, 4));
    let fields =
        types.iter().enumerate().map(|(at, of)| Field::new(at.to_string(), of.clone(), true));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let batch = RecordBatch::try_new(schema, columns.collect()).unwrap();
    let (read, groups) = round_trip(&[batch.clone(), batch]);
    assert_eq!((read.num_rows(), groups), (8, 1));
    for (read, given) in read.columns().iter().zip(&types) {
        assert_eq!(read.logical_null_count(), 8, "{given}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_said() {
    let batch = batch(&[Some(1 << 20)], true);
    let mut writer = ParquetWriter::create("/dev/full".as_ref(), &batch.schema()).unwrap();
    let error = writer.write(&batch).unwrap_err().to_string();
    assert!(error.starts_with("/dev/full: No space left on device"), "{error}");
}
