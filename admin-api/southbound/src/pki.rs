use crate::identity::{CertRole, Identity, IdentityError};
use crate::tls::CONTROLLER_NAME;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType, date_time_ymd,
};
use std::fs::{DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// A certificate authority in a directory, and the certificates that it issues: `ca.pem`, `ca.key`, `<name>.pem`,
/// `<name>.key`.
///
/// ECDSA P-256. Keys have mode 0600 and no password: whoever may read the file may be the node.
#[derive(Debug)]
pub struct Pki {
    directory: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

/// What a certificate is for.
#[derive(Debug, Clone)]
pub struct Request {
    pub identity: Identity,
    /// Addresses and names by which clients reach it; a controller's northbound interface needs them.
    pub addresses: Vec<IpAddr>,
    pub names: Vec<String>,
    pub validity: Duration,
}

/// The files of a certificate that was issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    pub cert: PathBuf,
    pub key: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: std::io::Error },
    #[error("{} is there already: choose another directory or name, or remove it first", .0.display())]
    Exists(PathBuf),
    #[error("no certificate authority in {}: run `penstock pki init --dir {}` first", .0.display(), .0.display())]
    NoAuthority(PathBuf),
    #[error("`{0}` is no DNS name")]
    DnsName(String),
    #[error("the name `ca` is the authority's own")]
    Reserved,
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("certificate: {0}")]
    Certificate(#[from] rcgen::Error),
}

/// Ten years: the authority is made once for an installation.
const CA_VALIDITY: Duration = Duration::from_secs(3650 * DAY);
/// Two years and a bit.
pub const DEFAULT_VALIDITY: Duration = Duration::from_secs(825 * DAY);
const DAY: u64 = 86_400;
/// Clocks of nodes may be behind by this much.
const BACKDATED: Duration = Duration::from_secs(3600);

impl Pki {
    /// Makes an authority in a directory that has none.
    ///
    /// # Errors
    /// There is one already, or the directory cannot be written to.
    pub fn init(directory: &Path, now: SystemTime) -> Result<Self, PkiError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::OrganizationName, "Penstock");
        // Authorities must not share a name, or a peer of another one would be told of a bad signature instead.
        let key_id: String = params.key_identifier(&key).iter().take(4).map(|b| format!("{b:02x}")).collect();
        params.distinguished_name.push(DnType::CommonName, format!("Penstock CA {key_id}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_validity(&mut params, now, CA_VALIDITY);
        let certificate = params.self_signed(&key)?;
        create_directory(directory)?;
        write_new(&directory.join("ca.key"), &key.serialize_pem(), 0o600)?;
        write_new(&directory.join("ca.pem"), &certificate.pem(), 0o644)?;
        Ok(Self { directory: directory.to_owned(), issuer: Issuer::new(params, key) })
    }

    /// Opens the authority of a directory.
    ///
    /// # Errors
    /// There is none, or its files cannot be read.
    pub fn open(directory: &Path) -> Result<Self, PkiError> {
        let read = |name: &str| {
            let path = directory.join(name);
            std::fs::read_to_string(&path).map_err(|error| match error.kind() {
                ErrorKind::NotFound => PkiError::NoAuthority(directory.to_owned()),
                _ => PkiError::Io { path, error },
            })
        };
        let key = KeyPair::from_pem(&read("ca.key")?)?;
        let issuer = Issuer::from_ca_cert_pem(&read("ca.pem")?, key)?;
        Ok(Self { directory: directory.to_owned(), issuer })
    }

    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// Makes a key and a certificate for it.
    ///
    /// # Errors
    /// The name is taken, or the directory cannot be written to.
    pub fn issue(&self, request: &Request, now: SystemTime) -> Result<Issued, PkiError> {
        let name = &request.identity.name;
        if name == "ca" {
            return Err(PkiError::Reserved);
        }
        let key = KeyPair::generate()?;
        let certificate = params(request, now)?.signed_by(&key, &self.issuer)?;
        let issued = Issued {
            cert: self.directory.join(format!("{name}.pem")),
            key: self.directory.join(format!("{name}.key")),
        };
        write_new(&issued.key, &key.serialize_pem(), 0o600)?;
        write_new(&issued.cert, &certificate.pem(), 0o644)?;
        Ok(issued)
    }
}

fn params(request: &Request, now: SystemTime) -> Result<CertificateParams, PkiError> {
    let identity = &request.identity;
    let controller = identity.may_be(CertRole::Controller);
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::OrganizationName, "Penstock");
    params.distinguished_name.push(DnType::OrganizationalUnitName, identity.unit());
    params.distinguished_name.push(DnType::CommonName, identity.name.clone());
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let mut names = request.names.clone();
    if controller {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        names.push(CONTROLLER_NAME.to_owned());
    }
    for name in names {
        let dns = name.clone().try_into().map_err(|_| PkiError::DnsName(name))?;
        params.subject_alt_names.push(SanType::DnsName(dns));
    }
    params.subject_alt_names.extend(request.addresses.iter().copied().map(SanType::IpAddress));
    set_validity(&mut params, now, request.validity);
    Ok(params)
}

fn set_validity(params: &mut CertificateParams, now: SystemTime, validity: Duration) {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(BACKDATED);
    // Beyond this a year has five digits, which a certificate cannot say.
    params.not_after = epoch + now.saturating_add(validity).min(Duration::from_secs(253_402_300_799));
}

fn create_directory(directory: &Path) -> Result<(), PkiError> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o755);
    builder.create(directory).map_err(|error| PkiError::Io { path: directory.to_owned(), error })
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), PkiError> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    file.and_then(|mut f| f.write_all(text.as_bytes())).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => PkiError::Exists(path.to_owned()),
        _ => PkiError::Io { path: path.to_owned(), error },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use crate::tls::CredentialFiles;
    use std::os::unix::fs::PermissionsExt;

    fn request(name: &str, roles: &str) -> Request {
        Request {
            identity: Identity::new(name.to_owned(), roles).unwrap(),
            addresses: vec![],
            names: vec![],
            validity: DEFAULT_VALIDITY,
        }
    }

    #[test]
    fn a_certificate_says_name_and_roles_and_its_key_is_private() {
        let dir = TempDir::new("pki");
        Pki::init(dir.path(), SystemTime::now()).unwrap();
        let pki = Pki::open(dir.path()).unwrap();
        let issued = pki.issue(&request("edge1", "mux,gateway"), SystemTime::now()).unwrap();
        let files = CredentialFiles { ca: pki.ca(), cert: issued.cert, key: issued.key };
        assert_eq!(files.load().unwrap().identity().to_string(), "edge1 (mux,gateway)");
        for key in ["ca.key", "edge1.key"] {
            let mode = std::fs::metadata(dir.path().join(key)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{key}");
        }
    }

    #[test]
    fn nothing_is_overwritten() {
        let dir = TempDir::new("pki-twice");
        let pki = Pki::init(dir.path(), SystemTime::now()).unwrap();
        assert!(matches!(Pki::init(dir.path(), SystemTime::now()), Err(PkiError::Exists(_))));
        pki.issue(&request("mux1", "mux"), SystemTime::now()).unwrap();
        assert!(matches!(pki.issue(&request("mux1", "mux"), SystemTime::now()), Err(PkiError::Exists(_))));
        assert!(matches!(pki.issue(&request("ca", "mux"), SystemTime::now()), Err(PkiError::Reserved)));
    }

    #[test]
    fn without_an_authority_the_error_says_how_to_make_one() {
        let dir = TempDir::new("pki-none");
        let error = Pki::open(dir.path()).unwrap_err();
        assert!(error.to_string().contains("penstock pki init --dir"), "{error}");
    }
}
