//! Files that get their names once they are whole.
//!
//! A file is written under a temporary name beside its own, synced and renamed. Its writer holds a
//! lock on it, which the operating system lets go of when the process ends, however that ends. So
//! whoever next writes a file of that name can tell what a killed process left there, and removes it.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// How temporary names end; no other program's do.
const SUFFIX: &str = ".arrowquant.tmp";

/// A file in the making, which is removed unless it is committed.
#[derive(Debug)]
pub struct Temporary {
    target: PathBuf,
    file: NamedTempFile,
}

impl Temporary {
    /// A new file beside `target`.
    ///
    /// # Errors
    /// The directory can't be written to.
    pub fn beside(target: &Path) -> io::Result<Self> {
        loop {
            let file = create(folder(target), &prefix(target))?;
            lock(file.as_file());
            // Another process may have taken it for abandoned before it was locked.
            if file.path().exists() {
                return Ok(Self { target: target.to_owned(), file });
            }
        }
    }

    /// Its temporary name.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The open file.
    pub fn file(&mut self) -> &mut File {
        self.file.as_file_mut()
    }

    /// Sync the file and give it its name; with `overwrite`, in place of a file that has it.
    ///
    /// # Errors
    /// The file can't be written or renamed, or there is one of that name.
    pub fn commit(self, overwrite: bool) -> io::Result<()> {
        self.file.as_file().sync_all()?;
        let named = match overwrite {
            true => self.file.persist(&self.target),
            false => self.file.persist_noclobber(&self.target),
        };
        named.map_err(|error| error.error)?;
        File::open(folder(&self.target))?.sync_all()
    }
}

fn folder(target: &Path) -> &Path {
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new("."))
}

/// How the temporary names of a file begin.
fn prefix(target: &Path) -> OsString {
    let mut prefix = OsString::from(".");
    prefix.push(target.file_name().unwrap_or_default());
    prefix.push(".");
    prefix
}

fn create(folder: &Path, prefix: &OsStr) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix).suffix(SUFFIX).rand_bytes(12);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // As any new file, less what the umask takes; temporary files are private otherwise.
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    builder.tempfile_in(folder)
}

/// A file system without locks goes without: nothing there is taken for abandoned either.
#[cfg(unix)]
fn lock(file: &File) {
    let _ = file.lock();
}

/// A lock would keep our own second handle from writing.
#[cfg(not(unix))]
fn lock(_: &File) {}

/// Without locks nobody can tell, so nothing is removed.
#[cfg(not(unix))]
fn is_abandoned(_: &File) -> bool {
    false
}

/// Remove the temporary files of `target` whose processes are gone. What can't be removed keeps
/// nobody from writing another.
pub fn remove_abandoned(target: &Path) {
    let Ok(entries) = fs::read_dir(folder(target)) else { return };
    let prefix = prefix(target);
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        if !name.starts_with(prefix.as_encoded_bytes()) || !name.ends_with(SUFFIX.as_bytes()) {
            continue;
        }
        if let Ok(file) = File::open(entry.path())
            && is_abandoned(&file)
        {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(unix)]
fn is_abandoned(file: &File) -> bool {
    file.try_lock().is_ok()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_gets_its_name_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("m.bin");
        let mut file = Temporary::beside(&target).unwrap();
        file.file().write_all(b"all").unwrap();
        assert!(!target.exists());
        file.commit(false).unwrap();
        assert_eq!(names(folder.path()), ["m.bin"]);
        drop(Temporary::beside(&target).unwrap());
        assert_eq!(names(folder.path()), ["m.bin"]);
        assert_eq!(fs::read(&target).unwrap(), b"all");
        let taken = Temporary::beside(&target).unwrap().commit(false).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&target).unwrap(), b"all");
        Temporary::beside(&target).unwrap().commit(true).unwrap();
        assert_eq!(fs::read(target).unwrap(), b"");
    }

    #[test]
    fn what_a_killed_process_left_is_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let left = folder.path().join(format!(".m.bin.0123456789ab{SUFFIX}"));
        let others = folder.path().join(format!(".n.bin.0123456789ab{SUFFIX}"));
        fs::write(&left, b"half").unwrap();
        fs::write(&others, b"theirs").unwrap();
        let first = Temporary::beside(&folder.path().join("m.bin")).unwrap();
        let second = Temporary::beside(&folder.path().join("m.bin")).unwrap();
        remove_abandoned(&folder.path().join("m.bin"));
        assert!(!left.exists() && others.exists());
        assert!(first.path().exists() && second.path().exists());
    }
}
