//! TLS for clients: rustls with ring, and nothing else.
//!
//! Owns which certificates are trusted, which one is presented, and the handshake. Verification is
//! only ever left out by [`Verify::Nothing`], which a setting has to name.

use std::io;
use std::net::{IpAddr, TcpStream};
use std::sync::Arc;

use futures_rustls::TlsConnector;
use futures_rustls::client::TlsStream;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use smol::Async;

/// What cannot be used as configured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is not PEM, or holds nothing of the kind wanted.
    #[error("{what}: no usable PEM section: {cause}")]
    Pem {
        /// Which input.
        what: &'static str,
        /// What the parser said.
        cause: rustls_pki_types::pem::Error,
    },
    /// The name to verify is none.
    #[error("the TLS server name {0:?} is neither a DNS name nor an address")]
    Name(String),
    /// rustls refuses the certificates or the key.
    #[error("{what}: {cause}")]
    Refused {
        /// Which input.
        what: &'static str,
        /// What rustls said.
        cause: rustls::Error,
    },
}

/// Which servers are trusted.
#[derive(Clone, Debug, Default)]
pub enum Verify {
    /// Those with a certificate of a public authority (the list of Mozilla).
    #[default]
    Public,
    /// Those with a certificate of an authority in this PEM text, and no others.
    Authorities(Vec<u8>),
    /// Any. The traffic can be read and changed by whoever is in between.
    Nothing,
}

/// The certificate a client presents, in PEM.
#[derive(Clone)]
pub struct Identity {
    /// The chain, the client's own certificate first.
    pub certificates: Vec<u8>,
    /// The private key: PKCS#8, PKCS#1 or SEC1.
    pub key: Vec<u8>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Identity(..)")
    }
}

/// How a client speaks TLS.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ClientConfig>,
    /// The name to verify, whatever the host is called.
    name: Option<ServerName<'static>>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Tls")
            .field("alpn", &self.config.alpn_protocols)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// The application protocol of HTTP/1.1 (RFC 7301).
pub const HTTP_1: &[u8] = b"http/1.1";

/// The application protocol of HTTP/2 (RFC 9113 section 3.2).
pub const HTTP_2: &[u8] = b"h2";

impl Tls {
    /// Prepares TLS 1.2 and 1.3 that offers the `alpn` protocols.
    ///
    /// # Errors
    ///
    /// A certificate or the key cannot be used.
    pub fn new(verify: Verify, identity: Option<&Identity>, alpn: &[&[u8]]) -> Result<Self, Error> {
        let provider = Arc::new(ring::default_provider());
        let refused = |what| move |cause| Error::Refused { what, cause };
        let verifier: Arc<dyn ServerCertVerifier> = match verify {
            Verify::Nothing => Arc::new(Unverified(provider.clone())),
            Verify::Public => {
                let roots = webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect();
                verifier(roots, &provider)?
            }
            Verify::Authorities(pem) => {
                let what = "the CA certificates";
                let mut roots = RootCertStore::empty();
                for certificate in certificates(what, &pem)? {
                    roots.add(certificate).map_err(refused(what))?;
                }
                verifier(roots, &provider)?
            }
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(refused("TLS"))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let chain = certificates("the client certificate", &identity.certificates)?;
                let what = "the client key";
                let key = PrivateKeyDer::from_pem_slice(&identity.key)
                    .map_err(|cause| Error::Pem { what, cause })?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(refused("the client certificate and key"))?
            }
        };
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(Self {
            config: Arc::new(config),
            name: None,
        })
    }

    /// Asks for, and verifies, `name` instead of the host that is connected to.
    ///
    /// # Errors
    ///
    /// It is neither a DNS name nor an address.
    pub fn server_name(mut self, name: &str) -> Result<Self, Error> {
        let parsed = ServerName::try_from(name.to_owned());
        self.name = Some(parsed.map_err(|_| Error::Name(name.to_owned()))?);
        Ok(self)
    }

    /// Does the handshake with the server called `host`, a DNS name or an address.
    pub(super) async fn handshake(
        &self,
        host: &str,
        socket: Async<TcpStream>,
    ) -> io::Result<TlsStream<Async<TcpStream>>> {
        let name = match (&self.name, host.parse::<IpAddr>()) {
            (Some(name), _) => name.clone(),
            (None, Ok(address)) => ServerName::IpAddress(address.into()),
            (None, Err(_)) => ServerName::try_from(host.to_owned()).map_err(io::Error::other)?,
        };
        TlsConnector::from(self.config.clone())
            .connect(name, socket)
            .await
    }
}

fn certificates(what: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(rustls_pki_types::pem::Error::NoItemsFound),
        Err(cause) => Err(cause),
    }
    .map_err(|cause| Error::Pem { what, cause })
}

fn verifier(
    roots: RootCertStore,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, Error> {
    let built =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
    built.map(|verifier| verifier as _).map_err(|cause| {
        let cause = rustls::Error::InvalidCertificate(CertificateError::Other(rustls::OtherError(
            Arc::new(cause),
        )));
        Error::Refused {
            what: "the CA certificates",
            cause,
        }
    })
}

/// Trusts any certificate; the server must still hold the key of the one it shows.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unusable_inputs_are_named() {
        for (verify, identity, message) in [
            (
                Verify::Authorities(b"junk".to_vec()),
                None,
                "the CA certificates: ",
            ),
            (
                Verify::Public,
                Some(Identity {
                    certificates: Vec::new(),
                    key: Vec::new(),
                }),
                "the client certificate: ",
            ),
        ] {
            let error = Tls::new(verify, identity.as_ref(), &[HTTP_1]).unwrap_err();
            assert!(error.to_string().starts_with(message), "{error}");
        }
        Tls::new(Verify::Public, None, &[HTTP_1]).unwrap();
    }

    #[test]
    fn debug_output_does_not_carry_the_key() {
        let identity = Identity {
            certificates: b"c".to_vec(),
            key: b"secret".to_vec(),
        };
        assert_eq!(format!("{identity:?}"), "Identity(..)");
    }
}
