//! A certificate authority for one test: server and client certificates as files and as rustls
//! configurations.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// A certificate and its key, PEM, in files.
pub struct Identity {
    certificate: rcgen::Certificate,
    key: KeyPair,
    certificate_file: PathBuf,
    key_file: PathBuf,
}

impl Identity {
    /// The file that holds the certificate.
    #[must_use]
    pub fn certificate_file(&self) -> &Path {
        &self.certificate_file
    }

    /// The file that holds the PKCS #8 key.
    #[must_use]
    pub fn key_file(&self) -> &Path {
        &self.key_file
    }

    fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.certificate.der().clone()]
    }

    fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::try_from(self.key.serialize_der()).expect("a PKCS #8 key")
    }
}

/// A root that signs for `localhost`, `127.0.0.1` and `::1`.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
    directory: tempfile::TempDir,
}

impl Authority {
    /// A fresh root.
    #[must_use]
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "opensandbox test root");
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("self-signed root");
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("root.pem"), certificate.pem()).expect("write root");
        Self {
            root: certificate.der().clone(),
            issuer: Issuer::new(params, key),
            directory,
        }
    }

    /// The file that holds the root certificate.
    #[must_use]
    pub fn root_file(&self) -> PathBuf {
        self.directory.path().join("root.pem")
    }

    /// A certificate for a server at `localhost`, `127.0.0.1` or `::1`.
    #[must_use]
    pub fn server(&self) -> Identity {
        let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        self.issue("server", &names, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A certificate for a client.
    #[must_use]
    pub fn client(&self) -> Identity {
        self.issue("client", &[], ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn issue(&self, name: &str, names: &[String], usage: ExtendedKeyUsagePurpose) -> Identity {
        let mut params = CertificateParams::new(names).expect("parameters");
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        params.extended_key_usages.push(usage);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        let certificate_file = self.directory.path().join(format!("{name}.pem"));
        let key_file = self.directory.path().join(format!("{name}.key"));
        std::fs::write(&certificate_file, certificate.pem()).expect("write certificate");
        std::fs::write(&key_file, key.serialize_pem()).expect("write key");
        Identity {
            certificate,
            key,
            certificate_file,
            key_file,
        }
    }

    /// A server configuration that offers `h2` and `http/1.1`, and demands a certificate of this
    /// authority from its clients when `require_client` says so.
    #[must_use]
    pub fn server_config(&self, require_client: bool) -> rustls::ServerConfig {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let identity = self.server();
        let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("protocol versions");
        let builder = if require_client {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(self.root.clone()).expect("root");
            let verifier =
                rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
                    .build()
                    .expect("verifier");
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        let mut config = builder
            .with_single_cert(identity.chain(), identity.private_key())
            .expect("server identity");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}
