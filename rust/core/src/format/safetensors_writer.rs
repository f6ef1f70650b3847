//! Writing safetensors tensor by tensor, in any order, without holding the model.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use arrow_array::{Array, RecordBatch};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use tempfile::NamedTempFile;

use crate::error::{CallError, Error};
use crate::relation::bytes::Bytes;
use crate::relation::columns;

/// A tensor to be written: name, dtype, shape.
#[derive(Clone, Debug)]
pub struct TensorSpec {
    /// Unique in the file.
    pub name: String,
    /// safetensors' name.
    pub dtype: String,
    /// Its dimensions.
    pub shape: Vec<i64>,
}

/// A file in the making, under a temporary name beside its own.
#[derive(Debug)]
pub struct SafetensorsWriter {
    path: PathBuf,
    file: NamedTempFile,
    /// Where the tensors that are not written yet belong.
    missing: HashMap<String, Range<u64>>,
}

impl SafetensorsWriter {
    /// Lay out `tensors`, wide dtypes first so that each is aligned, and write the header.
    ///
    /// # Errors
    /// Two tensors have one name, a dtype is none of safetensors', a shape is impossible, or the
    /// file can't be written.
    pub fn create(path: &Path, mut tensors: Vec<TensorSpec>) -> Result<Self, CallError> {
        let fail = |why: String| CallError::File { path: path.display().to_string(), why };
        let width = |tensor: &TensorSpec| crate::dtype::bits(&tensor.dtype).unwrap_or(0);
        tensors.sort_by(|a, b| width(b).cmp(&width(a)).then_with(|| a.name.cmp(&b.name)));
        let mut names = HashSet::new();
        if let Some(twice) = tensors.iter().find(|tensor| !names.insert(&tensor.name)) {
            return Err(CallError::DuplicateLayer(twice.name.clone(), "safetensors"));
        }
        let mut infos = Vec::with_capacity(tensors.len());
        let mut at = 0usize;
        for tensor in &tensors {
            let info = info(tensor, at).map_err(&fail)?;
            at = info.data_offsets.1;
            infos.push((tensor.name.clone(), info));
        }
        let metadata = [("format".to_owned(), "pt".to_owned())].into();
        let header = Metadata::new(Some(metadata), infos.clone())
            .map_err(|error| fail(error.to_string()))?;
        let mut header = serde_json::to_vec(&header).map_err(|error| fail(error.to_string()))?;
        header.resize(header.len().next_multiple_of(8), b' ');
        let start = header.len() as u64 + 8;
        let missing = infos.into_iter().map(|(name, info)| {
            let (from, to) = info.data_offsets;
            (name, start + from as u64..start + to as u64)
        });
        let missing = missing.collect();
        let file =
            begin(path, &header, start + at as u64).map_err(|error| fail(error.to_string()))?;
        Ok(Self { path: path.to_owned(), file, missing })
    }

    /// Write the tensors of a weights batch: columns `layer_name` and `data`, binary.
    ///
    /// # Errors
    /// A layer is not among those announced, was written before, or has another size.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), Error> {
        let column = |name: &'static str| {
            batch.column_by_name(name).ok_or_else(|| CallError::MissingColumn {
                relation: "Weights",
                column: name,
                expected: "text and binary",
                found: format!("{:?}", batch.schema().fields()),
            })
        };
        let names = columns::text(column("layer_name")?)?;
        let data = Bytes::try_new(column("data")?)?;
        for row in 0..names.len() {
            let name = columns::text_at(Some(&names), row).unwrap_or_default();
            let bytes = data.as_ref().and_then(|data| data.get(row)).unwrap_or_default();
            self.write_tensor(name, bytes)?;
        }
        Ok(())
    }

    fn write_tensor(&mut self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let fail = |why: String| CallError::File { path: self.path.display().to_string(), why };
        let Some(range) = self.missing.remove(name) else {
            return Err(fail(format!("layer '{name}' was not announced, or comes twice")).into());
        };
        let expected = range.end - range.start;
        if bytes.len() as u64 != expected {
            let found = bytes.len();
            return Err(fail(format!("layer '{name}' has {found} bytes, not {expected}")).into());
        }
        let file = self.file.as_file_mut();
        file.seek(SeekFrom::Start(range.start))?;
        file.write_all(bytes)?;
        Ok(())
    }

    /// Sync the file and give it its name.
    ///
    /// # Errors
    /// A tensor is missing, or the file can't be renamed.
    pub fn finish(self) -> Result<(), Error> {
        if let Some(name) = self.missing.keys().min() {
            let why = format!("layer '{name}' was announced but not written");
            return Err(CallError::File { path: self.path.display().to_string(), why }.into());
        }
        self.file.as_file().sync_all()?;
        self.file.persist(&self.path).map_err(|error| error.error)?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
        Ok(())
    }
}

fn info(tensor: &TensorSpec, at: usize) -> Result<TensorInfo, String> {
    let name = &tensor.name;
    let dtype: Dtype = serde_json::from_value(tensor.dtype.clone().into())
        .map_err(|_| format!("layer '{name}': safetensors has no dtype '{}'", tensor.dtype))?;
    let shape: Option<Vec<usize>> =
        tensor.shape.iter().map(|&dimension| usize::try_from(dimension).ok()).collect();
    let shape =
        shape.ok_or_else(|| format!("layer '{name}': negative shape {:?}", tensor.shape))?;
    let bits =
        shape.iter().try_fold(dtype.bitsize(), |bits, &dimension| bits.checked_mul(dimension));
    let end = bits.and_then(|bits| at.checked_add(bits / 8));
    let end = end.ok_or_else(|| format!("layer '{name}': shape {shape:?} overflows"))?;
    Ok(TensorInfo { dtype, shape, data_offsets: (at, end) })
}

/// A temporary file beside `path` with the header written and its final length.
fn begin(path: &Path, header: &[u8], length: u64) -> io::Result<NamedTempFile> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut builder = tempfile::Builder::new();
    builder.prefix(".arrowquant-").suffix(".tmp");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // As any new file, less what the umask takes; temporary files are private otherwise.
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let mut file = builder.tempfile_in(folder.unwrap_or(Path::new(".")))?;
    file.as_file().set_len(length)?;
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header)?;
    Ok(file)
}
