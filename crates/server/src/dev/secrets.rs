//! The keys that `dev` makes for itself on its first start.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cuitty_webhooks_domain::seal::KeyRing;
use rand::Rng as _;
use rand::rngs::StdRng;

/// Bytes of an admin key.
const ADMIN_KEY_BYTES: usize = 24;

/// The admin key of a data directory.
pub(super) fn admin_key(directory: &Path, rng: &mut StdRng) -> anyhow::Result<String> {
    persisted(&directory.join("admin.key"), || {
        let mut bytes = [0; ADMIN_KEY_BYTES];
        rng.fill_bytes(&mut bytes);
        format!("whk_{}", URL_SAFE_NO_PAD.encode(bytes))
    })
}

/// The sealing key of a data directory, as `sealing.keys` takes it. Without it, its endpoints' secrets are lost.
pub(super) fn sealing_key(directory: &Path, rng: &mut StdRng) -> anyhow::Result<String> {
    persisted(&directory.join("sealing.key"), || {
        format!("dev:{}", *KeyRing::generate_key(rng))
    })
}

/// The content of `path`, made and written for nobody but its owner when there is no such file.
fn persisted(path: &Path, make: impl FnOnce() -> String) -> anyhow::Result<String> {
    match fs::read_to_string(path) {
        Ok(text) => return Ok(text.trim().to_owned()),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
    let text = make();
    // Whole or not at all: a key of which a crash left a part would be taken for the key.
    let draft = path.with_extension("new");
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)
        .and_then(|mut file| {
            writeln!(file, "{text}")?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&draft, path));
    written.with_context(|| format!("cannot write {}", path.display()))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn keys_are_made_once_and_are_their_owners_only() {
        let directory = tempfile::tempdir().unwrap();
        let mut rng = StdRng::seed_from_u64(1);
        let keys = |rng: &mut StdRng| {
            (
                admin_key(directory.path(), rng).unwrap(),
                sealing_key(directory.path(), rng).unwrap(),
            )
        };
        let first = keys(&mut rng);
        assert_eq!(keys(&mut rng), first);
        assert_eq!(first.0.len(), 36);
        KeyRing::parse(&[first.1.split_once(':').unwrap()]).unwrap();
        for name in ["admin.key", "sealing.key"] {
            let mode = fs::metadata(directory.path().join(name))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }
}
