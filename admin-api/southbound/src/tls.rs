use crate::identity::{Identity, IdentityError};
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use x509_parser::prelude::{FromDer, X509Certificate};

/// The protocol name of the southbound link (ALPN). Versions are told apart by frames, whose error can say so.
pub const ALPN: &[u8] = b"penstock-southbound";

/// The name that every controller's certificate carries, whatever its address. Only certificates of the role `controller` have
/// it, so a node cannot pass for a controller.
pub const CONTROLLER_NAME: &str = "controller.penstock.internal";

/// Where a process finds its certificate, the key to it, and the authority that it trusts: PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialFiles {
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// Certificate, key and trust, loaded.
#[derive(Debug)]
pub struct Credentials {
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    identity: Identity,
}

#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    #[error("{what} {}: {error}", path.display())]
    File { what: &'static str, path: PathBuf, error: rustls_pki_types::pem::Error },
    #[error("certificate {}: {error}", path.display())]
    Identity { path: PathBuf, error: IdentityError },
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("TLS: the trusted authority cannot be used: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    #[error("TLS: QUIC needs a cipher suite that is not there: {0}")]
    Quic(#[from] quinn::crypto::rustls::NoInitialCipherSuite),
}

impl CredentialFiles {
    /// # Errors
    /// A file is missing or holds something else; the error names it.
    pub fn load(&self) -> Result<Credentials, CredentialError> {
        let mut roots = RootCertStore::empty();
        for ca in read_certificates("certificate authority", &self.ca)? {
            roots.add(ca)?;
        }
        let chain = read_certificates("certificate", &self.cert)?;
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|error| CredentialError::File {
            what: "private key",
            path: self.key.clone(),
            error,
        })?;
        let identity = chain
            .first()
            .ok_or(IdentityError::Missing)
            .and_then(Identity::of)
            .map_err(|error| CredentialError::Identity { path: self.cert.clone(), error })?;
        Ok(Credentials { roots: Arc::new(roots), chain, key, identity })
    }
}

/// When the first certificate of a PEM file ends.
///
/// # Errors
/// The file holds no certificate that can be read.
pub fn certificate_end(path: &Path) -> Result<SystemTime, CredentialError> {
    let certificates = read_certificates("certificate", path)?;
    let identity = |error| CredentialError::Identity { path: path.to_owned(), error };
    let first = certificates.first().ok_or_else(|| identity(IdentityError::Missing))?;
    let (_, x509) =
        X509Certificate::from_der(first).map_err(|e| identity(IdentityError::Certificate(e.to_string())))?;
    let end = u64::try_from(x509.validity().not_after.timestamp()).unwrap_or(0);
    Ok(UNIX_EPOCH + Duration::from_secs(end))
}

fn read_certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, CredentialError> {
    let error = |error| CredentialError::File { what, path: path.to_owned(), error };
    let certificates =
        CertificateDer::pem_file_iter(path).map_err(error)?.collect::<Result<Vec<_>, _>>().map_err(error)?;
    if certificates.is_empty() {
        return Err(error(rustls_pki_types::pem::Error::NoItemsFound));
    }
    Ok(certificates)
}

impl Credentials {
    /// Who this process is.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// For a server whose clients must show a certificate of the same authority. TLS 1.3 only.
    ///
    /// # Errors
    /// Key and certificate do not belong together, or the authority cannot be used.
    pub fn server_config(&self, alpn: &[&[u8]]) -> Result<ServerConfig, CredentialError> {
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots.clone(), provider()).build()?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(VERSIONS)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.chain.clone(), self.key.clone_key())?;
        config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
        Ok(config)
    }

    /// For a server whose clients show who they are in another way. TLS 1.3 only.
    ///
    /// # Errors
    /// Key and certificate do not belong together.
    pub fn open_server_config(&self, alpn: &[&[u8]]) -> Result<ServerConfig, CredentialError> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(VERSIONS)?
            .with_no_client_auth()
            .with_single_cert(self.chain.clone(), self.key.clone_key())?;
        config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
        Ok(config)
    }

    /// For a client that shows its certificate to a server of the same authority. TLS 1.3 only.
    ///
    /// # Errors
    /// Key and certificate do not belong together, or the authority cannot be used.
    pub fn client_config(&self, alpn: &[&[u8]]) -> Result<ClientConfig, CredentialError> {
        let verifier = WebPkiServerVerifier::builder_with_provider(self.roots.clone(), provider()).build()?;
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(VERSIONS)?
            .with_webpki_verifier(verifier)
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())?;
        config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
        Ok(config)
    }
}

const VERSIONS: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
