//! Any bytes as a safetensors file: an error that names the file, or rows that lie within it.

#![no_main]

use std::fs;

use arrow_array::cast::AsArray;
use arrowquant::format::safetensors::SafetensorsFile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = folder.path().join("m.safetensors");
    fs::write(&path, bytes).unwrap();
    for (mmap, part_bytes) in [(true, u64::MAX), (false, 1), (true, 7)] {
        match SafetensorsFile::open(&path, mmap, part_bytes) {
            Err(error) => assert!(error.to_string().contains("m.safetensors: ")),
            Ok(file) => {
                let mut rows = 0;
                let mut read = 0;
                for batch in file.reader(true) {
                    let batch = batch.unwrap();
                    rows += batch.num_rows();
                    let data = batch["data"].as_binary::<i64>();
                    read += data.iter().flatten().map(<[u8]>::len).sum::<usize>();
                }
                assert_eq!(rows, file.rows().len());
                assert_eq!(read as u64, file.data_bytes());
                assert!(read < bytes.len());
                for batch in file.reader(false) {
                    batch.unwrap();
                }
            }
        }
    }
});
