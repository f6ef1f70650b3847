//! The allocator.

/// Large vectors of a row each, which a batch makes and drops, come from memory that is touched
/// already; the system's allocator gives it back and faults it in anew, page by page.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Give the operating system what is free, which the allocator otherwise keeps for a second.
#[allow(unsafe_code)]
pub(crate) fn give_back() {
    // SAFETY: any thread may call it at any time.
    unsafe { libmimalloc_sys::mi_collect(true) }
}
