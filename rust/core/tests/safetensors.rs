//! The safetensors reader believes nothing, and reads what the writer and the crate write.

use std::fs;

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch};
use arrowquant::container::meaning::Meaning;
use arrowquant::container::reader::TensorRows;
use arrowquant::container::tensors::TensorFile;
use arrowquant::sink::{TensorSpec, safetensors_writer};
use proptest::prelude::*;

const DTYPES: [(&str, usize); 4] = [("F32", 4), ("BF16", 2), ("U8", 1), ("F64", 8)];

fn read(batches: Vec<RecordBatch>) -> Vec<(String, String, Vec<u8>)> {
    let mut rows = Vec::new();
    for batch in batches {
        let names = batch["layer_name"].as_string::<i32>();
        let dtypes = batch["dtype"].as_string::<i32>();
        let data = batch["data"].as_binary::<i64>();
        for row in 0..names.len() {
            let text = |array: &arrow_array::StringArray| array.value(row).to_owned();
            rows.push((text(names), text(dtypes), data.value(row).to_vec()));
        }
    }
    rows
}

fn tensors() -> impl Strategy<Value = Vec<(String, usize, Vec<i64>)>> {
    let shape = prop::collection::vec(0i64..5, 0..4);
    let tensor = ("[a-c\"\\\\é\u{0}.]{0,3}", 0..DTYPES.len(), shape);
    prop::collection::vec(tensor, 0..8).prop_map(|mut tensors| {
        tensors.sort();
        tensors.dedup_by(|a, b| a.0 == b.0);
        tensors
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_is_written_is_read(
        tensors in tensors(),
        metadata in prop::collection::btree_map("[a-c\"é]{0,3}", "[x\"\\\\é]{0,3}", 0..4),
        mmap: bool,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        let spec = |(name, dtype, shape): &(String, usize, Vec<i64>)| TensorSpec {
            name: name.clone(),
            dtype: DTYPES[*dtype].0.to_owned(),
            shape: shape.clone(),
        };
        let mut writer = safetensors_writer::create(&path, tensors.iter().map(spec).collect(), metadata.clone()).unwrap();
        let mut expected = Vec::new();
        for (index, (name, dtype, shape)) in tensors.iter().enumerate() {
            let length = shape.iter().product::<i64>() as usize * DTYPES[*dtype].1;
            let bytes = vec![index as u8 + 1; length];
            let batch = RecordBatch::try_from_iter([
                ("layer_name", std::sync::Arc::new(arrow_array::StringArray::from(vec![name.as_str()])) as _),
                ("data", std::sync::Arc::new(arrow_array::BinaryArray::from(vec![bytes.as_slice()])) as _),
            ]).unwrap();
            writer.write(&batch).unwrap();
            expected.push((name.clone(), DTYPES[*dtype].0.to_owned(), bytes));
        }
        writer.finish(true).unwrap();

        let bytes = fs::read(&path).unwrap();
        let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        for (name, _, data) in &expected {
            prop_assert_eq!(theirs.tensor(name).unwrap().data(), data.as_slice());
        }
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let found = header.metadata().clone().unwrap();
        for (key, text) in &metadata {
            prop_assert_eq!(&found[key], text);
        }
        prop_assert_eq!(found.len(), metadata.len() + 1);
        let file = TensorFile::open(&path, mmap).unwrap();
        let meanings = vec![Meaning::default(); file.entries().len()];
        let tensor_rows = TensorRows::try_new(&file, &meanings, u64::MAX, None).unwrap();
        let batches = tensor_rows.range(0..usize::MAX, true).collect::<Result<_, _>>();
        let mut rows = read(batches.unwrap());
        rows.sort();
        expected.sort();
        prop_assert_eq!(rows, expected);
        prop_assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn no_header_makes_it_panic(
        length in prop_oneof![any::<u64>(), 0u64..200],
        header in prop_oneof![
            "\\PC{0,80}",
            "\\{(\"[ab]\":\\{\"dtype\":\"(F32|U8|X)\",\"shape\":\\[[0-9,-]{0,20}\\],\"data_offsets\":\\[[0-9]{1,20},[0-9]{1,20}\\]\\},?){0,3}\\}",
        ],
        honest: bool,
        tail in 0usize..40,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        let length = if honest { header.len() as u64 } else { length };
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + tail, 0);
        fs::write(&path, &bytes).unwrap();
        for mmap in [true, false] {
            if let Ok(file) = TensorFile::open(&path, mmap) {
                let meanings = vec![Meaning::default(); file.entries().len()];
                let tensor_rows = TensorRows::try_new(&file, &meanings, 4096, None).unwrap();
                let batches = tensor_rows.range(0..usize::MAX, true).collect::<Result<_, _>>();
                prop_assert_eq!(read(batches.unwrap()).len(), tensor_rows.len());
            }
        }
    }
}

#[test]
fn an_unfinished_file_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let spec = TensorSpec { name: "a".to_owned(), dtype: "F32".to_owned(), shape: vec![2] };
    let path = folder.path().join("m.safetensors");
    let writer = safetensors_writer::create(&path, vec![spec], [].into()).unwrap();
    let error = writer.finish(true).unwrap_err().to_string();
    assert!(error.contains("layer 'a' was announced but not written"), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
