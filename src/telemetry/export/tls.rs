//! TLS to a receiver: trusted certificates and the client's own, from the files the settings name.
//!
//! A file that cannot be used is an error, never a silent fall back to other trust.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::http::tls::{HTTP_1, HTTP_2, Identity, Tls, Verify};
use crate::telemetry::env::{Otlp, Protocol};

/// The most bytes of a certificate or key file. The bundle of all public authorities has 200 KiB.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("cannot read {}: {cause}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        cause: std::io::Error,
    },
    /// Only one half of the client's identity is configured.
    #[error("a client certificate needs its key and a key its certificate: set both")]
    Half,
    /// The content of a file is not usable.
    #[error(transparent)]
    Content(#[from] crate::http::tls::Error),
}

/// The client side of TLS for one receiver.
///
/// # Errors
///
/// See [`Error`].
pub fn client(otlp: &Otlp) -> Result<Tls, Error> {
    let verify = match &otlp.certificate {
        Some(path) => Verify::Authorities(read(path)?),
        None => Verify::Public,
    };
    let identity = match (&otlp.client_certificate, &otlp.client_key) {
        (None, None) => None,
        (Some(certificates), Some(key)) => Some(Identity {
            certificates: read(certificates)?,
            key: read(key)?,
        }),
        _ => return Err(Error::Half),
    };
    let protocol = match otlp.protocol {
        Protocol::Grpc => HTTP_2,
        Protocol::HttpProtobuf | Protocol::HttpJson => HTTP_1,
    };
    Ok(Tls::new(verify, identity.as_ref(), &[protocol])?)
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let mut content = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE).read_to_end(&mut content))
        .map_err(|cause| Error::File {
            path: path.to_owned(),
            cause,
        })?;
    Ok(content)
}
