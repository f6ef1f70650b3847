//! Files: safetensors in and out. Parquet and IPC are the business of the languages above.

pub mod compressed_tensors;
mod mapped;
pub mod safetensors;
pub mod safetensors_writer;
