//! Arrays of other libraries by DLPack, without a copy of their elements.
//!
//! Source of the layout: <https://dmlc.github.io/dlpack/latest/c_api.html>, `DLManagedTensor`.

// Their memory is read as it lies.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_int, c_void};
use std::ptr::NonNull;

use pyo3::exceptions::{PyBufferError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyCapsule;

const NAME: &CStr = c"dltensor";
const USED: &CStr = c"used_dltensor";

#[repr(C)]
struct Tensor {
    data: *mut c_void,
    device_type: i32,
    device_id: i32,
    dimensions: i32,
    code: u8,
    bits: u8,
    lanes: u16,
    shape: *const i64,
    strides: *const i64,
    byte_offset: u64,
}

#[repr(C)]
struct Managed {
    tensor: Tensor,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut Managed)>,
}

const _: () = assert!(size_of::<Managed>() == 64);

/// Devices whose memory the CPU reads: its own, and what it shares with CUDA and ROCm.
const ON_CPU: [i32; 3] = [1, 3, 11];

/// An array whose owner is let go with this object. It is a read-only buffer of its bytes.
#[pyclass(module = "arrowquant._core", frozen)]
pub(crate) struct DlpackArray {
    managed: NonNull<Managed>,
    shape: Vec<i64>,
    bytes: usize,
    contiguous: bool,
}

// SAFETY: the memory is only read, and DLPack lets any thread call the deleter.
unsafe impl Send for DlpackArray {}
// SAFETY: nothing of it changes.
unsafe impl Sync for DlpackArray {}

impl DlpackArray {
    fn tensor(&self) -> &Tensor {
        // SAFETY: the producer keeps the struct until its deleter is called, in `drop`.
        unsafe { &self.managed.as_ref().tensor }
    }
}

#[pymethods]
impl DlpackArray {
    /// Take what an object's `__dlpack__()` returned. It must be in the CPU's memory.
    #[new]
    fn new(capsule: &Bound<'_, PyCapsule>) -> PyResult<Self> {
        let managed = capsule.pointer_checked(Some(NAME))?.cast::<Managed>();
        // SAFETY: the capsule has that name, so it holds such a struct, and the GIL is held. Its
        // new name says that it is taken, so nobody else calls the deleter.
        if unsafe { ffi::PyCapsule_SetName(capsule.as_ptr(), USED.as_ptr()) } != 0 {
            return Err(PyErr::fetch(capsule.py()));
        }
        let mut array = Self { managed, shape: Vec::new(), bytes: 0, contiguous: false };
        let tensor = array.tensor();
        let dimensions = usize::try_from(tensor.dimensions).unwrap_or(0);
        // SAFETY: DLPack has `shape` point to as many numbers, and `strides`, which may be null.
        let numbers = |pointer: *const i64| unsafe {
            let empty = dimensions == 0 || pointer.is_null();
            if empty { &[] } else { std::slice::from_raw_parts(pointer, dimensions) }
        };
        if !ON_CPU.contains(&tensor.device_type) {
            return Err(PyValueError::new_err("it is on another device than the CPU"));
        }
        if tensor.lanes != 1 {
            return Err(PyValueError::new_err("its elements are vectors"));
        }
        let (shape, strides) = (numbers(tensor.shape).to_vec(), numbers(tensor.strides));
        let mut count: u64 = 1;
        let mut contiguous = true;
        for (at, &length) in shape.iter().enumerate().rev() {
            let stride = strides.get(at).copied();
            contiguous &= length == 1 || stride.is_none_or(|s| u64::try_from(s) == Ok(count));
            let length = u64::try_from(length).ok();
            let all = length.and_then(|length| count.checked_mul(length));
            count = all.ok_or_else(|| PyValueError::new_err(format!("has shape {shape:?}")))?;
        }
        let bits = u64::from(tensor.bits);
        let bytes = count.checked_mul(bits).and_then(|bits| usize::try_from(bits / 8).ok());
        let bytes = bytes.ok_or_else(|| PyValueError::new_err(format!("has shape {shape:?}")))?;
        if tensor.data.is_null() && bytes > 0 {
            return Err(PyValueError::new_err("it has no memory of its own"));
        }
        (array.shape, array.bytes, array.contiguous) = (shape, bytes, contiguous || count == 0);
        Ok(array)
    }

    /// DLPack's code of the type, and its bits.
    #[getter]
    fn kind(&self) -> (u8, u32) {
        let tensor = self.tensor();
        (tensor.code, u32::from(tensor.bits))
    }

    #[getter]
    fn shape(&self) -> Vec<i64> {
        self.shape.clone()
    }

    /// Whether elements follow each other in the order of their indices.
    #[getter]
    fn contiguous(&self) -> bool {
        self.contiguous
    }

    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        let this = slf.get();
        if !this.contiguous {
            // SAFETY: `view` comes from the interpreter, which asks for this where there is an error.
            unsafe { (*view).obj = std::ptr::null_mut() };
            return Err(PyBufferError::new_err("is not contiguous"));
        }
        let tensor = this.tensor();
        // A null pointer stands for no elements.
        let start = NonNull::new(tensor.data).unwrap_or_else(|| NonNull::<u8>::dangling().cast());
        // SAFETY: the offset lies within the memory that the producer gave; the view holds a
        // reference to this object, and so to that memory; `view` comes from the interpreter.
        let filled = unsafe {
            let offset = if tensor.data.is_null() { 0 } else { tensor.byte_offset as usize };
            let start = start.as_ptr().byte_add(offset);
            ffi::PyBuffer_FillInfo(view, slf.as_ptr(), start, this.bytes as isize, 1, flags)
        };
        if filled == 0 { Ok(()) } else { Err(PyErr::fetch(slf.py())) }
    }
}

impl Drop for DlpackArray {
    fn drop(&mut self) {
        // SAFETY: it was taken over in `new`, and is let go once.
        unsafe {
            if let Some(deleter) = self.managed.as_ref().deleter {
                deleter(self.managed.as_ptr());
            }
        }
    }
}
