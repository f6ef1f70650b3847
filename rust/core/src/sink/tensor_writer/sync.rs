//! Bringing a file to the disk while it is still being written.
//!
//! The operating system keeps what is written until there is much of it, so that the sync at the end
//! would wait for nearly all of it.

use std::fs::File;
use std::io;
use std::thread::JoinHandle;

/// So many bytes are written between two syncs.
const BETWEEN: u64 = 64 << 20;

/// Syncs a file on a thread of its own, one sync at a time.
#[derive(Debug, Default)]
pub(super) struct SyncBehind {
    /// Bytes since the last sync began.
    written: u64,
    running: Option<JoinHandle<io::Result<()>>>,
}

impl SyncBehind {
    /// So many bytes more are written.
    ///
    /// # Errors
    /// The sync before could not write.
    pub(super) fn wrote(&mut self, file: &File, bytes: u64) -> io::Result<()> {
        self.written += bytes;
        if self.written < BETWEEN || self.running.as_ref().is_some_and(|sync| !sync.is_finished()) {
            return Ok(());
        }
        self.wait()?;
        self.written = 0;
        let file = file.try_clone()?;
        let thread = std::thread::Builder::new().name("arrowquant-sync".to_owned());
        self.running = Some(thread.spawn(move || file.sync_data())?);
        Ok(())
    }

    /// Wait for the sync that is running.
    ///
    /// # Errors
    /// It could not write: a second sync does not say so again.
    pub(super) fn wait(&mut self) -> io::Result<()> {
        match self.running.take().map(JoinHandle::join) {
            Some(Ok(synced)) => synced,
            Some(Err(_)) => Err(io::Error::other("a thread that syncs a file panicked")),
            None => Ok(()),
        }
    }
}
