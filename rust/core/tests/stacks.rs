//! Stacks of matrices: read as one row a matrix, and written back byte for byte.

use std::fs;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{LargeBinaryArray, RecordBatch, StringArray};
use arrowquant::container::meaning::{Meaning, Stack};
use arrowquant::container::reader::TensorRows;
use arrowquant::container::tensors::TensorFile;
use arrowquant::sink::tensor_writer::TensorWriter;
use arrowquant::sink::{TensorSpec, safetensors_writer};
use proptest::prelude::*;

const DTYPES: [(&str, usize); 4] = [("F32", 4), ("BF16", 2), ("F8_E4M3", 1), ("F64", 8)];

fn writer(path: &std::path::Path, dtype: &str, shape: &[i64]) -> TensorWriter {
    let shape = shape.to_vec();
    let spec = TensorSpec { name: "experts".to_owned(), dtype: dtype.to_owned(), shape };
    safetensors_writer::create(path, vec![spec], [].into()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn each_matrix_is_a_row_and_all_of_them_are_the_stack(
        (count, rows, columns) in (1usize..5, 1usize..40, 1usize..40),
        dtype in prop::sample::select(DTYPES.to_vec()),
        axis in prop::sample::select(vec![-1i8, -2]),
        is_flat: bool,
        part_bytes in prop_oneof![Just(u64::MAX), 1u64..4000],
        mmap: bool,
    ) {
        let (dtype, width) = dtype;
        let shape = match is_flat {
            true => vec![(count * rows) as i64, columns as i64],
            false => vec![count as i64, rows as i64, columns as i64],
        };
        let dimensions = shape.len();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        let bytes: Vec<u8> =
            (0..count * rows * columns * width).map(|at| (at * 7 % 253) as u8).collect();
        let mut written = writer(&path, dtype, &shape);
        written.write(&RecordBatch::try_from_iter([
            ("layer_name", Arc::new(StringArray::from(vec!["experts"])) as _),
            ("data", Arc::new(LargeBinaryArray::from(vec![bytes.as_slice()])) as _),
        ]).unwrap()).unwrap();
        written.finish(true).unwrap();

        let file = TensorFile::open(&path, mmap).unwrap();
        let meaning = Meaning { stack: Some(Stack { count, axis: Some(axis) }), ..Meaning::default() };
        let meanings = vec![meaning];
        let tensor_rows = TensorRows::try_new(&file, &meanings, part_bytes, None).unwrap();
        let batches: Vec<RecordBatch> =
            tensor_rows.range(0..usize::MAX, true).collect::<Result<_, _>>().unwrap();

        // Whole matrices have the values that they should.
        let element = |expert: usize, row: usize, column: usize| {
            let at = ((expert * rows + row) * columns + column) * width;
            &bytes[at..at + width]
        };
        let (out, contracted) = if axis == -1 { (rows, columns) } else { (columns, rows) };
        for batch in &batches {
            let data = batch["data"].as_binary::<i64>();
            let indices = batch["stack_index"].as_primitive::<Int64Type>();
            let offsets = batch["part_offset"].as_primitive::<Int64Type>();
            let shapes = batch["layer_shape"].as_list::<i64>();
            for row in 0..batch.num_rows() {
                let expert = indices.value(row) as usize;
                let is_alone = count == 1 && axis == -2 && dimensions == 2;
                let name = if is_alone { "experts".to_owned() } else { format!("experts[{expert}]") };
                prop_assert_eq!(batch["layer_name"].as_string::<i32>().value(row), name);
                let shape = shapes.value(row);
                let shape = shape.as_primitive::<Int64Type>().values();
                prop_assert_eq!(shape.as_ref(), &[out as i64, contracted as i64][..]);
                let first = offsets.value(row) as usize;
                for (at, found) in data.value(row).chunks(width).enumerate() {
                    let (o, k) = ((first + at) / contracted, (first + at) % contracted);
                    let expected =
                        if axis == -1 { element(expert, o, k) } else { element(expert, k, o) };
                    prop_assert_eq!(found, expected);
                }
            }
        }

        let back = folder.path().join("back.safetensors");
        let mut rebuilt = writer(&back, dtype, &shape);
        for batch in batches.iter().rev() {
            rebuilt.write(batch).unwrap();
        }
        rebuilt.finish(true).unwrap();
        prop_assert!(fs::read(&back).unwrap() == fs::read(&path).unwrap());
    }
}

#[test]
fn a_tensor_that_is_no_such_stack_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    let mut written = writer(&path, "F32", &[6, 2]);
    let data = Arc::new(LargeBinaryArray::from(vec![&[0u8; 48][..]]));
    let names = Arc::new(StringArray::from(vec!["experts"]));
    let batch = RecordBatch::try_from_iter([("layer_name", names as _), ("data", data as _)]);
    written.write(&batch.unwrap()).unwrap();
    written.finish(true).unwrap();
    let file = TensorFile::open(&path, true).unwrap();
    for (count, axis) in [(4, -1), (0, -1), (3, -3)] {
        let meaning =
            Meaning { stack: Some(Stack { count, axis: Some(axis) }), ..Meaning::default() };
        let meanings = vec![meaning];
        assert!(TensorRows::try_new(&file, &meanings, u64::MAX, None).is_err(), "{count} {axis}");
    }
    assert!(
        TensorRows::try_new(&file, &[Meaning::default(), Meaning::default()], u64::MAX, None)
            .is_err()
    );
}
