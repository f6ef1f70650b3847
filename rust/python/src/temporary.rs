//! Files that get their names once they are whole.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use arrowquant::temporary;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::errors;

/// A file in the making beside its later place, which is removed unless it is committed.
#[pyclass(module = "arrowquant._core", frozen)]
pub(crate) struct Temporary {
    target: PathBuf,
    path: PathBuf,
    file: Mutex<Option<temporary::Temporary>>,
}

impl Temporary {
    fn lock(&self) -> MutexGuard<'_, Option<temporary::Temporary>> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Temporary {
    #[new]
    fn new(py: Python<'_>, target: PathBuf) -> PyResult<Self> {
        let file = py.detach(|| temporary::Temporary::beside(&target));
        let file = file.map_err(|error| errors::io(&target, &error))?;
        Ok(Self { path: file.path().to_owned(), target, file: Mutex::new(Some(file)) })
    }

    /// Its temporary name.
    #[getter]
    fn path(&self) -> PathBuf {
        self.path.clone()
    }

    /// Sync the file and give it its name; with `overwrite`, in place of one that has it.
    fn commit(&self, py: Python<'_>, overwrite: bool) -> PyResult<()> {
        let file = self.lock().take();
        let file = file.ok_or_else(|| PyValueError::new_err("the file is committed"))?;
        py.detach(|| file.commit(overwrite)).map_err(|error| errors::io(&self.target, &error))
    }

    /// Remove the file, unless it is committed.
    fn drop(&self) {
        self.lock().take();
    }
}

/// Remove what killed processes left of `target`.
#[pyfunction]
pub(crate) fn remove_abandoned(py: Python<'_>, target: PathBuf) {
    py.detach(|| temporary::remove_abandoned(&target));
}
