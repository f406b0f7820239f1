//! How we reach the API server and prove who we are: files that rotate, tokens that expire.
//!
//! Owns reading them anew before every request, which is a few times an hour, and replacing the
//! connection when what it stands on changed. Never shows a secret.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use http::{HeaderValue, Uri};
use socket2::Socket;

use super::exec::{self, Credential, Plugin};
use crate::http::client::{Client, Limits};
use crate::http::connect::Connector;
use crate::http::tls::{self, HTTP_1, Identity, Tls, Verify};
use crate::runtime::Spawner;

/// The most bytes of a file of certificates, a key or a token.
pub const MAX_FILE: u64 = 1024 * 1024;

/// How long the API server may leave what we sent, or a probe of a silent connection, without an
/// acknowledgement, before the connection counts as dead.
const DEAD_AFTER: Duration = Duration::from_secs(30);

/// Something that is given as it is, or in a file that may change.
#[derive(Clone, PartialEq, Eq)]
pub enum Material {
    /// As it is.
    Inline(Vec<u8>),
    /// In this file.
    File(PathBuf),
}

impl fmt::Debug for Material {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inline(_) => formatter.write_str("Inline(..)"),
            Self::File(path) => formatter.debug_tuple("File").field(path).finish(),
        }
    }
}

/// Text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text`.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(..)")
    }
}

/// Which API servers are trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Those with a certificate of a public authority.
    Public,
    /// Those with a certificate of these authorities.
    Authorities(Material),
    /// Any.
    Anybody,
}

/// Who we are.
#[derive(Clone, Debug, Default)]
pub struct Who {
    /// Our certificate and its key.
    pub identity: Option<(Material, Material)>,
    /// A token that does not change.
    pub token: Option<Secret>,
    /// A file that holds the token now; it wins over `token`.
    pub token_file: Option<PathBuf>,
    /// A program that gets us a token or a certificate.
    pub exec: Option<Plugin>,
}

/// Why we cannot even ask.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("cannot read {}: {cause}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// Certificates or a key are not usable.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// The plugin gave no credential.
    #[error(transparent)]
    Exec(#[from] exec::Error),
    /// A token holds what a header cannot.
    #[error("the token holds characters that a token cannot have")]
    Token,
}

/// The API server, and our account there.
#[derive(Debug)]
pub struct Access {
    server: Uri,
    trust: Trust,
    tls_server_name: Option<String>,
    who: Who,
}

/// What TLS stands on.
#[derive(Clone, Default, PartialEq, Eq)]
struct Ground {
    authorities: Option<Vec<u8>>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl Access {
    /// Checks what can be checked without asking anybody; `read` gives the content of files.
    ///
    /// # Errors
    ///
    /// The address is none, or a file or a certificate is not usable.
    pub fn new(
        server: &str,
        trust: Trust,
        tls_server_name: Option<String>,
        who: Who,
        read: &dyn Fn(&Path) -> io::Result<String>,
    ) -> Result<Self, String> {
        let access = Self {
            server: address(server)?,
            trust,
            tls_server_name,
            who,
        };
        let load = |material: &Material| match material {
            Material::Inline(content) => Ok(content.clone()),
            Material::File(path) => read(path).map(String::into_bytes).map_err(|cause| {
                let path = path.clone();
                Error::File { path, cause }
            }),
        };
        let ground = access
            .ground(None, &load)
            .map_err(|error| error.to_string())?;
        access.tls(&ground).map_err(|error| error.to_string())?;
        Ok(access)
    }

    /// The address of the API server, for people.
    #[must_use]
    pub fn server(&self) -> &Uri {
        &self.server
    }

    /// The address of something there.
    ///
    /// # Errors
    ///
    /// `path_and_query` is none.
    pub fn uri(&self, path_and_query: &str) -> Result<Uri, http::Error> {
        let scheme = self.server.scheme_str().unwrap_or("https");
        let authority = self.server.authority().map_or("", |known| known.as_str());
        let prefix = self.server.path().trim_end_matches('/');
        Uri::builder()
            .scheme(scheme)
            .authority(authority)
            .path_and_query(format!("{prefix}{path_and_query}"))
            .build()
    }

    fn ground(
        &self,
        credential: Option<&Credential>,
        load: &dyn Fn(&Material) -> Result<Vec<u8>, Error>,
    ) -> Result<Ground, Error> {
        let authorities = match &self.trust {
            Trust::Authorities(material) => Some(load(material)?),
            Trust::Public | Trust::Anybody => None,
        };
        let given = credential.and_then(|credential| credential.identity.clone());
        let identity = match (given, &self.who.identity) {
            (Some(given), _) => Some(given),
            (None, Some((certificate, key))) => Some((load(certificate)?, load(key)?)),
            (None, None) => None,
        };
        Ok(Ground {
            authorities,
            identity,
        })
    }

    fn tls(&self, ground: &Ground) -> Result<Tls, tls::Error> {
        let verify = match (&self.trust, &ground.authorities) {
            (Trust::Anybody, _) => Verify::Nothing,
            (_, Some(authorities)) => Verify::Authorities(authorities.clone()),
            (_, None) => Verify::Public,
        };
        let identity = ground
            .identity
            .as_ref()
            .map(|(certificates, key)| Identity {
                certificates: certificates.clone(),
                key: key.clone(),
            });
        let tls = Tls::new(verify, identity.as_ref(), &[HTTP_1])?;
        match &self.tls_server_name {
            Some(name) => tls.server_name(name),
            None => Ok(tls),
        }
    }
}

/// The address of a server; `https` unless it says otherwise.
fn address(text: &str) -> Result<Uri, String> {
    let refused = || format!("the server {text:?} is not an http or https address");
    let whole = if text.contains("://") {
        text.to_owned()
    } else {
        format!("https://{text}")
    };
    let uri: Uri = whole.parse().map_err(|_| refused())?;
    let known = matches!(uri.scheme_str(), Some("http" | "https"));
    let plain = uri.query().is_none()
        && uri
            .authority()
            .is_some_and(|authority| !authority.as_str().contains('@'));
    if known && plain {
        Ok(uri)
    } else {
        Err(refused())
    }
}

/// The way to the API server, as it is now.
pub struct Account {
    access: Access,
    spawner: Spawner,
    /// The client in use, and what it stands on.
    client: Option<(Ground, Client)>,
    /// What the plugin gave us last.
    credential: Option<Credential>,
}

impl fmt::Debug for Account {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Account")
            .field("access", &self.access)
            .finish_non_exhaustive()
    }
}

impl Account {
    /// Nothing is read or asked yet.
    #[must_use]
    pub fn new(access: Access, spawner: Spawner) -> Self {
        Self {
            access,
            spawner,
            client: None,
            credential: None,
        }
    }

    /// What is accessed.
    #[must_use]
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// The client to use now, and the value of `Authorization`, if there is one.
    ///
    /// # Errors
    ///
    /// A file cannot be read, or the plugin fails.
    pub async fn prepare(&mut self) -> Result<(Client, Option<HeaderValue>), Error> {
        if let Some(plugin) = &self.access.who.exec
            && !self.credential.as_ref().is_some_and(Credential::is_fresh)
        {
            self.credential = Some(plugin.run(&self.spawner).await?);
        }
        // Small files, and seldom; what `load` reads was bounded.
        let ground = self.access.ground(self.credential.as_ref(), &load)?;
        let client = match &self.client {
            Some((known, client)) if *known == ground => client.clone(),
            _ => {
                let connector = Connector::default()
                    .tls(self.access.tls(&ground)?)
                    .socket_hook(|socket: &Socket| socket.set_tcp_user_timeout(Some(DEAD_AFTER)));
                let client = Client::new(self.spawner.clone(), connector, Limits::default());
                self.client = Some((ground, client.clone()));
                client
            }
        };
        Ok((client, self.authorization()?))
    }

    /// The API server did not accept who we are: a plugin is asked again.
    pub fn refused(&mut self) {
        self.credential = None;
    }

    fn authorization(&self) -> Result<Option<HeaderValue>, Error> {
        let who = &self.access.who;
        let given = self.credential.as_ref();
        let given = given.and_then(|credential| credential.token.clone());
        let fixed = who.token.as_ref().map(|Secret(token)| token.clone());
        let token = match &who.token_file {
            None => given.or(fixed),
            Some(path) => match (load(&Material::File(path.clone())), fixed) {
                (Ok(content), _) => Some(String::from_utf8(content).map_err(|_| Error::Token)?),
                (Err(_), Some(fixed)) => Some(fixed),
                (Err(error), None) => return Err(error),
            },
        };
        let Some(token) = token else {
            return Ok(None);
        };
        let value = HeaderValue::from_str(&format!("Bearer {}", token.trim()));
        let mut value = value.map_err(|_| Error::Token)?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

/// The content of some material now.
fn load(material: &Material) -> Result<Vec<u8>, Error> {
    let path = match material {
        Material::Inline(content) => return Ok(content.clone()),
        Material::File(path) => path,
    };
    let mut content = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut content));
    read.map(|_| content).map_err(|cause| {
        let path = path.clone();
        Error::File { path, cause }
    })
}

/// What a plugin is told about trust.
pub(super) fn authorities(trust: &Trust) -> Result<Option<Vec<u8>>, Error> {
    match trust {
        Trust::Authorities(material) => load(material).map(Some),
        Trust::Public | Trust::Anybody => Ok(None),
    }
}

/// Whether a credential that expires then is still good.
pub(super) fn is_fresh(expires: Option<SystemTime>) -> bool {
    expires.is_none_or(|expires| SystemTime::now() < expires)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_joined_with_what_is_asked_for() {
        for (server, expected) in [
            ("https://10.0.0.1:6443", "https://10.0.0.1:6443/apis/x?y=z"),
            ("http://[::1]:8080/", "http://[::1]:8080/apis/x?y=z"),
            (
                "https://r.test/k8s/c-1/",
                "https://r.test/k8s/c-1/apis/x?y=z",
            ),
            ("10.0.0.1:6443", "https://10.0.0.1:6443/apis/x?y=z"),
        ] {
            let read = |_: &Path| Err(io::ErrorKind::NotFound.into());
            let access = Access::new(server, Trust::Public, None, Who::default(), &read).unwrap();
            assert_eq!(access.uri("/apis/x?y=z").unwrap().to_string(), expected);
        }
    }

    #[test]
    fn what_is_no_address_or_cannot_be_read_is_refused() {
        let read = |_: &Path| Err(io::ErrorKind::NotFound.into());
        for server in ["", "ftp://a", "https://u:p@a", "https://a?b=c", "a b"] {
            let access = Access::new(server, Trust::Public, None, Who::default(), &read);
            assert!(
                access
                    .unwrap_err()
                    .contains("is not an http or https address"),
                "{server}"
            );
        }
        let trust = Trust::Authorities(Material::File("/none/ca.crt".into()));
        let access = Access::new("https://a", trust, None, Who::default(), &read);
        assert!(
            access
                .unwrap_err()
                .starts_with("cannot read /none/ca.crt: ")
        );
    }

    #[test]
    fn secrets_are_not_shown() {
        let who = Who {
            identity: Some((
                Material::Inline(b"secret".into()),
                Material::Inline(b"secret".into()),
            )),
            token: Some(Secret::new("secret".to_owned())),
            ..Who::default()
        };
        assert!(!format!("{who:?}").contains("secret"));
    }
}
