//! TLS for probes: asks whether the container speaks it, not who it is. A container's certificate is its tenant's own affair, and
//! the probe comes by the container's own link, so who has signed it proves nothing here; that the container has its key is proved.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme};
use std::io::{Read, Write};
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

/// Bytes of TLS records that wait to be sent; a handshake and a request take less.
const MOST_OUT: usize = 16 << 10;

static CONFIG: LazyLock<Result<Arc<ClientConfig>, String>> = LazyLock::new(|| {
    let provider = Arc::new(ring::default_provider());
    let any = Arc::new(AnySigner(provider.clone()));
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = versions.map_err(|e| e.to_string())?.dangerous().with_custom_certificate_verifier(any);
    Ok(Arc::new(config.with_no_client_auth()))
});

/// A probe's TLS session: records in by [`Session::receive`], out by [`Session::transmit`].
#[derive(Debug)]
pub(crate) struct Session {
    tls: ClientConnection,
    out: Vec<u8>,
}

impl Session {
    /// # Errors
    /// TLS cannot be had at all.
    pub(crate) fn new(to: IpAddr) -> Result<Self, String> {
        let config = CONFIG.as_ref().map_err(Clone::clone)?.clone();
        let tls = ClientConnection::new(config, ServerName::IpAddress(to.into())).map_err(|e| e.to_string())?;
        Ok(Self { tls, out: Vec::new() })
    }

    /// Queues plain text; before the handshake is done it waits for it.
    pub(crate) fn ask(&mut self, request: &[u8]) -> Result<(), String> {
        self.tls.writer().write_all(request).map_err(|e| e.to_string())
    }

    /// Takes bytes from the container; appends what they say to `answer`, which grows to `most`.
    ///
    /// # Errors
    /// What is not TLS as it should be.
    pub(crate) fn receive(&mut self, mut records: &[u8], answer: &mut Vec<u8>, most: usize) -> Result<(), String> {
        while !records.is_empty() {
            if self.tls.read_tls(&mut records).map_err(|e| e.to_string())? == 0 {
                return Ok(());
            }
            self.tls.process_new_packets().map_err(|e| format!("TLS: {e}"))?;
            let mut plain = [0; 512];
            while let Ok(n @ 1..) = self.tls.reader().read(&mut plain) {
                let room = most.saturating_sub(answer.len()).min(n);
                answer.extend_from_slice(plain.get(..room).unwrap_or_default());
            }
        }
        Ok(())
    }

    /// Gives `send` what is to be sent; it says how many bytes it took.
    pub(crate) fn transmit(&mut self, mut send: impl FnMut(&[u8]) -> usize) -> Result<(), String> {
        while self.tls.wants_write() && self.out.len() < MOST_OUT {
            self.tls.write_tls(&mut self.out).map_err(|e| e.to_string())?;
        }
        let taken = send(&self.out).min(self.out.len());
        self.out.drain(..taken);
        Ok(())
    }
}

/// Believes any certificate, but that its owner speaks.
#[derive(Debug)]
struct AnySigner(Arc<CryptoProvider>);

impl ServerCertVerifier for AnySigner {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
