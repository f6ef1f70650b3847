//! Files: safetensors in and out, Parquet out. To read Parquet and IPC is the business of the
//! languages above.

pub mod compressed_tensors;
mod mapped;
pub mod parquet_writer;
pub mod safetensors;
pub mod safetensors_writer;
