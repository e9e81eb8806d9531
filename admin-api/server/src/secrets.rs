//! Secrets at rest: sealed with a key that is not in the store.
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use penstock_admin_types::SEALED;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::{Value, json};
use std::fs::OpenOptions;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Seals and opens secrets with AES-256-GCM.
///
/// The nonce is a keyed hash of the secret itself (as in RFC 8452's synthetic IVs), so that the same secret gives the same
/// sealed text and a PUT that changes nothing is seen to change nothing. What it tells a thief of the store: which
/// secrets are equal.
pub(crate) struct Sealer {
    seal: LessSafeKey,
    nonce: hmac::Key,
}

#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("key file {}: {error}", path.display())]
    File { path: PathBuf, error: std::io::Error },
    #[error("key file {}: holds {length} bytes, not 64", path.display())]
    Length { path: PathBuf, length: usize },
    #[error("key file {}: others may read it (mode {mode:o}); it must have mode 0600", path.display())]
    Mode { path: PathBuf, mode: u32 },
    #[error("a secret in the store cannot be opened with this controller's key")]
    Open,
    #[error(
        "the secrets in the store are sealed with another key than this controller's secrets.key: all controllers of a site have the same"
    )]
    OtherKey,
    #[error("the system has no randomness to give")]
    Random,
}

impl Sealer {
    /// Opens the key file, or makes one with mode 0600.
    pub(crate) fn open(path: &Path) -> Result<Self, SecretError> {
        let file = |error| SecretError::File { path: path.to_owned(), error };
        let mut material = Zeroizing::new(Vec::new());
        match OpenOptions::new().read(true).open(path) {
            Ok(mut f) => {
                let mode = f.metadata().map_err(file)?.permissions().mode() & 0o777;
                if mode & 0o077 != 0 {
                    return Err(SecretError::Mode { path: path.to_owned(), mode });
                }
                f.read_to_end(&mut material).map_err(file)?;
            }
            Err(e) if e.kind() == ErrorKind::NotFound => {
                material.resize(64, 0);
                SystemRandom::new().fill(&mut material).map_err(|_| SecretError::Random)?;
                let mut f = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(file)?;
                f.write_all(&material).and_then(|()| f.sync_all()).map_err(file)?;
            }
            Err(e) => return Err(file(e)),
        }
        let length = material.len();
        let (Some(seal), Some(nonce), 64) = (material.get(..32), material.get(32..), length) else {
            return Err(SecretError::Length { path: path.to_owned(), length });
        };
        let seal = UnboundKey::new(&AES_256_GCM, seal).map_err(|_| SecretError::Random)?;
        Ok(Self { seal: LessSafeKey::new(seal), nonce: hmac::Key::new(hmac::HMAC_SHA256, nonce) })
    }

    pub(crate) fn seal(&self, secret: &str) -> Result<Value, SecretError> {
        let tag = hmac::sign(&self.nonce, secret.as_bytes());
        let nonce = tag.as_ref().get(..NONCE_LEN).unwrap_or_default().to_vec();
        let mut text = secret.as_bytes().to_vec();
        let unique = Nonce::try_assume_unique_for_key(&nonce).map_err(|_| SecretError::Random)?;
        self.seal.seal_in_place_append_tag(unique, Aad::empty(), &mut text).map_err(|_| SecretError::Random)?;
        Ok(json!({ SEALED: STANDARD.encode([nonce, text].concat()) }))
    }

    /// Seals in place, unless it is sealed already.
    pub(crate) fn seal_value(&self, v: &mut Value) -> Result<(), SecretError> {
        if v.get(SEALED).is_none() {
            let secret = Zeroizing::new(v.as_str().map_or_else(|| v.to_string(), str::to_owned));
            *v = self.seal(&secret)?;
        }
        Ok(())
    }

    pub(crate) fn open_value(&self, v: &Value) -> Result<Zeroizing<String>, SecretError> {
        let text = v.get(SEALED).and_then(Value::as_str).ok_or(SecretError::Open)?;
        let mut bytes = Zeroizing::new(STANDARD.decode(text).map_err(|_| SecretError::Open)?);
        let (nonce, sealed) = bytes.split_at_mut_checked(NONCE_LEN).ok_or(SecretError::Open)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SecretError::Open)?;
        let open = self.seal.open_in_place(nonce, Aad::empty(), sealed).map_err(|_| SecretError::Open)?;
        String::from_utf8(open.to_vec()).map(Zeroizing::new).map_err(|_| SecretError::Open)
    }

    /// A sealed WireGuard key (base64 of 32 bytes).
    pub(crate) fn open_key(&self, v: &Value) -> Result<[u8; 32], SecretError> {
        let text = self.open_value(v)?;
        let bytes = Zeroizing::new(STANDARD.decode(text.trim()).map_err(|_| SecretError::Open)?);
        bytes.as_slice().try_into().map_err(|_| SecretError::Open)
    }
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("penstock-key-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        path
    }

    #[test]
    fn a_secret_survives_a_restart_and_is_not_in_the_sealed_text() {
        let path = place("restart");
        let sealed = Sealer::open(&path).unwrap().seal("correct horse").unwrap();
        assert!(!sealed.to_string().contains("correct"));
        let again = Sealer::open(&path).unwrap();
        assert_eq!(again.open_value(&sealed).unwrap().as_str(), "correct horse");
        assert_eq!(again.seal("correct horse").unwrap(), sealed);
        std::fs::remove_file(&path).unwrap();
        let other = Sealer::open(&path).unwrap();
        assert!(matches!(other.open_value(&sealed), Err(SecretError::Open)));
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_key_file_that_others_may_read_is_refused() {
        let path = place("mode");
        Sealer::open(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(Sealer::open(&path), Err(SecretError::Mode { mode: 0o644, .. })));
        std::fs::remove_file(&path).unwrap();
    }
}
