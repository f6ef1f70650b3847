//! The error text of exported streams. Arrow puts the name of its variant before each message, which
//! engines then put theirs before; ours begins with code and layer.

// A callback of Arrow's C stream interface is exchanged, and a C string read.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char};
use std::sync::OnceLock;

use arrow_array::ffi_stream::FFI_ArrowArrayStream;
use pyo3::prelude::*;
use pyo3::types::PyCapsule;

type LastError = unsafe extern "C" fn(*mut FFI_ArrowArrayStream) -> *const c_char;

/// The callback that exported streams come with, which is one for all.
static ORIGINAL: OnceLock<LastError> = OnceLock::new();
/// What `ArrowError::ExternalError` begins with.
const PREFIX: &[u8] = b"External error: ";

/// The same capsule of an Arrow C stream that this module exported, with plain messages.
#[pyfunction]
pub(crate) fn plain_errors<'py>(capsule: Bound<'py, PyCapsule>) -> PyResult<Bound<'py, PyCapsule>> {
    let stream = capsule.pointer_checked(Some(c"arrow_array_stream"))?;
    let stream = stream.cast::<FFI_ArrowArrayStream>().as_ptr();
    // SAFETY: a capsule of that name holds such a struct for as long as it lives, and nobody has
    // moved it out yet: it was made by our caller, and the GIL is held.
    let last_error = unsafe { &mut (*stream).get_last_error };
    if let Some(original) = *last_error
        && *ORIGINAL.get_or_init(|| original) as usize == original as usize
    {
        *last_error = Some(plain_last_error);
    }
    Ok(capsule)
}

/// The original's text from behind the prefix on.
unsafe extern "C" fn plain_last_error(stream: *mut FFI_ArrowArrayStream) -> *const c_char {
    let Some(original) = ORIGINAL.get() else { return std::ptr::null() };
    // SAFETY: the stream is one of those that had this callback, and is alive while it is asked.
    let text = unsafe { original(stream) };
    if text.is_null() {
        return text;
    }
    // SAFETY: the interface has it end with a zero, and stay until the next call.
    let bytes = unsafe { CStr::from_ptr(text) }.to_bytes();
    if bytes.starts_with(PREFIX) {
        // SAFETY: the prefix lies within the string.
        return unsafe { text.add(PREFIX.len()) };
    }
    text
}
