//! One `dev` per data directory.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// Holds a data directory until it is dropped, or its process dies however it may.
#[derive(Debug)]
pub(super) struct DirectoryLock {
    _file: Flock<File>,
}

impl DirectoryLock {
    /// Takes the directory; an error names the process that holds it.
    pub(super) fn take(directory: &Path) -> anyhow::Result<Self> {
        let path = directory.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        let mut holder = String::new();
        file.read_to_string(&mut holder)?;
        let mut file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => file,
            Err((_, Errno::EWOULDBLOCK)) => bail!(
                "data directory {} is in use by process {}; stop that, or choose another one with --data-dir",
                directory.display(),
                holder.trim(),
            ),
            Err((_, error)) => bail!("cannot lock {}: {error}", path.display()),
        };
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_is_held_by_one_and_free_again_when_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let lock = DirectoryLock::take(directory.path()).unwrap();
        let refusal = DirectoryLock::take(directory.path()).unwrap_err().to_string();
        assert!(
            refusal.contains(&format!("in use by process {};", std::process::id())),
            "{refusal}"
        );
        drop(lock);
        DirectoryLock::take(directory.path()).unwrap();
    }
}
