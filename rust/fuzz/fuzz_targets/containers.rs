//! Any bytes as a safetensors or GGUF file: an error that names the file, or rows that lie within it,
//! each of which is quantized or has the reason why not.

#![no_main]

use std::path::Path;

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_buffer::Buffer;
use arrowquant::container::meaning::Meaning;
use arrowquant::container::reader::TensorRows;
use arrowquant::container::tensors::TensorFile;
use arrowquant::settings::Settings;
use arrowquant::{Monitor, Options, Plan, Quantizer, pool};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let file = match TensorFile::given(Path::new("m.bin"), Buffer::from(bytes)) {
        Err(error) => return assert!(error.to_string().contains("m.bin: ")),
        Ok(file) => file,
    };
    let size: u64 = file.entries().iter().map(|entry| entry.end - entry.start).sum();
    assert!(size < bytes.len() as u64);
    let meanings = vec![Meaning::default(); file.entries().len()];
    let (pool, monitor) = (pool::with_threads(1).unwrap(), Monitor::default());
    let options = Options::try_new("int4", Settings::default()).unwrap();
    for part_bytes in [u64::MAX, 1, 7] {
        let rows = TensorRows::try_new(&file, &meanings, part_bytes, None).unwrap();
        let (mut count, mut read) = (0, 0);
        for batch in rows.range(0..rows.len(), true) {
            let batch = batch.unwrap();
            count += batch.num_rows();
            read +=
                batch["data"].as_binary::<i64>().iter().flatten().map(<[u8]>::len).sum::<usize>();
            let quantizer =
                Quantizer::try_new(&batch.schema(), options.clone(), Plan::default(), true);
            let out = quantizer.unwrap().quantize(&batch, &pool, &monitor).unwrap();
            assert_eq!(out.quantized.num_rows(), batch.num_rows());
            let codes = out.errors["error_code"].as_string::<i32>();
            assert_eq!(out.failed.num_rows(), codes.len() - codes.null_count());
            assert!(codes.iter().flatten().all(|code| code != "internal"));
        }
        assert_eq!(count, rows.len());
        assert_eq!(read as u64, size);
        for batch in rows.range(0..rows.len(), false) {
            batch.unwrap();
        }
    }
});
