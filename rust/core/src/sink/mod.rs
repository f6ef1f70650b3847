//! Files that are written: safetensors, GGUF, ONNX's data and Parquet.

pub mod data_writer;
pub mod gguf_writer;
pub mod parquet_writer;
pub mod safetensors_writer;
pub mod tensor_writer;

/// A tensor to be written.
#[derive(Clone, Debug)]
pub struct TensorSpec {
    /// Unique in the file.
    pub name: String,
    /// Our name of its type.
    pub dtype: String,
    /// Its dimensions.
    pub shape: Vec<i64>,
}
