//! Files that are written: safetensors and Parquet.

pub mod compressed_tensors;
pub mod parquet_writer;
pub mod safetensors_writer;
