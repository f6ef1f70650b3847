//! The GGUF reader believes nothing, and reads what a writer that follows the specification writes.
//! Files of the `gguf` package are read in the Python tests.

use std::fs;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrowquant::container::Value;
use arrowquant::container::meaning::Meaning;
use arrowquant::container::reader::TensorRows;
use arrowquant::container::tensors::TensorFile;
use proptest::prelude::*;

/// ggml's number, our name, elements and bytes of a block; of blocks, types that no scheme decodes.
const TYPES: [(u32, &str, u64, u64); 5] = [
    (0, "F32", 1, 4),
    (30, "BF16", 1, 2),
    (34, "TQ1_0", 256, 54),
    (16, "IQ2_XXS", 256, 66),
    (24, "I8", 1, 1),
];

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// A file with these tensors, each of `rows` rows of `blocks` blocks, filled with its number.
fn gguf(version: u32, alignment: Option<u32>, tensors: &[(usize, u64, u64)]) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend(version.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((1 + u64::from(alignment.is_some())).to_le_bytes());
    text(&mut out, "tokenizer.ggml.tokens");
    out.extend(9u32.to_le_bytes());
    out.extend(8u32.to_le_bytes());
    out.extend(2u64.to_le_bytes());
    text(&mut out, "a");
    text(&mut out, "é");
    if let Some(alignment) = alignment {
        text(&mut out, "general.alignment");
        out.extend(4u32.to_le_bytes());
        out.extend(alignment.to_le_bytes());
    }
    let step = u64::from(alignment.unwrap_or(32));
    let mut offset = 0u64;
    for (at, &(kind, rows, blocks)) in tensors.iter().enumerate() {
        let (number, _, elements, bytes) = TYPES[kind];
        text(&mut out, &format!("blk.{at}.weight"));
        out.extend(2u32.to_le_bytes());
        out.extend((blocks * elements).to_le_bytes());
        out.extend(rows.to_le_bytes());
        out.extend(number.to_le_bytes());
        out.extend(offset.to_le_bytes());
        offset = (offset + rows * blocks * bytes).next_multiple_of(step);
    }
    for (at, &(kind, rows, blocks)) in tensors.iter().enumerate() {
        out.resize(out.len().next_multiple_of(step as usize), 0xff);
        let bytes = rows * blocks * TYPES[kind].3;
        out.resize(out.len() + bytes as usize, at as u8);
    }
    out
}

fn rows(file: &TensorFile, part_bytes: u64) -> Vec<RecordBatch> {
    let meanings = vec![Meaning::default(); file.entries().len()];
    let rows = TensorRows::try_new(file, &meanings, part_bytes, None).unwrap();
    rows.range(0..usize::MAX, true).collect::<Result<_, _>>().unwrap()
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        version in 2u32..4,
        alignment in prop::option::of(prop::sample::select(vec![8u32, 32, 64, 4096])),
        tensors in prop::collection::vec((0..TYPES.len(), 1u64..5, 1u64..4), 0..8),
        part_bytes in prop_oneof![Just(u64::MAX), Just(2000)],
        mmap: bool,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        fs::write(&path, gguf(version, alignment, &tensors)).unwrap();
        let file = TensorFile::open(&path, mmap).unwrap();
        let tokens = ["a", "é"].map(|text| Value::Text(text.to_owned())).to_vec();
        prop_assert_eq!(&file.metadata()[0], &("tokenizer.ggml.tokens".to_owned(), Value::List(tokens)));
        prop_assert_eq!(file.entries().len(), tensors.len());
        let mut found = vec![0; tensors.len()];
        for batch in rows(&file, part_bytes) {
            let names = batch["layer_name"].as_string::<i32>();
            for row in 0..batch.num_rows() {
                let at: usize = names.value(row)[4..].split('.').next().unwrap().parse().unwrap();
                let data = batch["data"].as_binary::<i64>().value(row);
                prop_assert!(data.iter().all(|&byte| byte == at as u8));
                found[at] += data.len() as u64;
                prop_assert_eq!(batch["dtype"].as_string::<i32>().value(row), TYPES[tensors[at].0].1);
            }
        }
        let expected = tensors.iter().map(|&(kind, rows, blocks)| rows * blocks * TYPES[kind].3);
        prop_assert_eq!(found, expected.collect::<Vec<_>>());
        for (entry, &(kind, rows, blocks)) in file.entries().iter().zip(&tensors) {
            let row = (blocks * TYPES[kind].2) as i64;
            prop_assert_eq!(&entry.shape, &vec![rows as i64, row]);
        }
    }

    #[test]
    fn no_header_makes_it_panic(
        tensors in prop::collection::vec((0..TYPES.len(), 1u64..5, 1u64..4), 0..4),
        wrong in prop::collection::vec((0usize..400, any::<u8>()), 0..6),
        length in prop::option::of(0usize..600),
        mmap: bool,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        let mut bytes = gguf(3, None, &tensors);
        for (at, byte) in wrong {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        bytes.truncate(length.unwrap_or(usize::MAX));
        fs::write(&path, bytes).unwrap();
        if let Ok(file) = TensorFile::open(&path, mmap) {
            let found: usize = rows(&file, 4096).iter().map(RecordBatch::num_rows).sum();
            prop_assert!(found >= file.entries().len());
        }
    }
}

#[test]
fn what_is_wrong_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let error = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        TensorFile::open(&path, true).unwrap_err().to_string()
    };
    let good = gguf(3, None, &[(0, 2, 8)]);
    assert!(error(&gguf(1, None, &[])).contains("version 1 is not read"));
    let mut big_endian = good.clone();
    big_endian[4..8].reverse();
    assert!(error(&big_endian).contains("big-endian"));
    assert!(error(&good[..good.len() - 1]).contains("ends beyond the file's"));
    assert!(error(&good[..40]).contains("cut short"));
    assert!(error(&gguf(3, Some(12), &[])).contains("no power of two"));
}
