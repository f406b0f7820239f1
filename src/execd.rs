//! The daemon inside a sandbox: runs commands, persistent shells and terminals for the clients of
//! its API.
//!
//! The modules here know nothing of HTTP: they take values and give values, futures and streams.
//! Whoever serves them builds one [`Engine`] and the registries on it.

pub mod clone3;
pub mod command;
pub mod environment;
pub mod events;
pub mod lines;
pub mod metrics;
pub mod paths;
mod processes;
pub mod pty;
mod pump;
pub mod reaper;
pub mod ring;
pub mod sanitise;
pub mod session;
pub mod spawn;
mod terminate;
pub mod text;

use std::ffi::OsStr;
use std::hash::{BuildHasher, Hasher};
use std::path::PathBuf;
use std::sync::Arc;

use crate::runtime::Spawner;
use environment::Environment;
use events::Observer;
use spawn::{Children, Credentials};

/// What everything that runs processes shares. Clones share their state.
#[derive(Clone)]
pub struct Engine {
    /// Where tasks run.
    pub spawner: Spawner,
    /// The processes of this one.
    pub children: Children,
    /// Where events go.
    pub observer: Arc<Observer>,
    /// The daemon's own variables that children see; the lowest layer of every environment.
    pub environment: Arc<Environment>,
    /// Where output that is kept goes when it is too long for memory.
    pub temporary: Arc<PathBuf>,
}

impl Engine {
    /// The environment of a command: the daemon's, then the account's of the user it runs as, then
    /// that of the `EXECD_ENVS` file, then the request's.
    #[must_use]
    pub fn layered<N, V>(
        &self,
        credentials: Option<&Credentials>,
        file: environment::File,
        request: impl IntoIterator<Item = (N, V)>,
    ) -> Environment
    where
        N: Into<std::ffi::OsString>,
        V: Into<std::ffi::OsString>,
    {
        let account = credentials
            .and_then(|credentials| credentials.account.as_ref())
            .into_iter()
            .flat_map(|account| {
                [
                    ("HOME", account.home.as_str()),
                    ("USER", account.name.as_str()),
                    ("LOGNAME", account.name.as_str()),
                ]
            });
        self.environment
            .with(account)
            .with(file.variables)
            .with(request)
    }

    /// The daemon's own home directory, which `~` stands for.
    #[must_use]
    pub fn home(&self) -> Option<&OsStr> {
        self.environment.get("HOME")
    }
}

/// A random id: 32 lower-case hexadecimal digits, a version 4 UUID without its dashes.
pub(crate) fn random_id() -> String {
    use std::fmt::Write;
    let mut id = String::with_capacity(32);
    for byte in random_uuid() {
        // Writing to a string does not fail.
        let _ = write!(id, "{byte:02x}");
    }
    id
}

/// The same with its dashes.
pub(crate) fn random_dashed_id() -> String {
    let id = random_id();
    [&id[..8], &id[8..12], &id[12..16], &id[16..20], &id[20..]].join("-")
}

fn random_uuid() -> [u8; 16] {
    let mut bytes = [0; 16];
    if getrandom::fill(&mut bytes).is_err() {
        // Ids are told apart, never kept secret: the hasher's keys differ at every call.
        for half in bytes.chunks_mut(8) {
            let hasher = std::collections::hash_map::RandomState::new().build_hasher();
            half.copy_from_slice(&hasher.finish().to_le_bytes());
        }
    }
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_version_4_uuids() {
        let id = random_id();
        assert_eq!(id.len(), 32);
        assert!(
            id.bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        );
        assert_eq!(id.as_bytes()[12], b'4');
        assert!(b"89ab".contains(&id.as_bytes()[16]));
        assert_ne!(id, random_id());
        let dashed = random_dashed_id();
        let lengths: Vec<_> = dashed.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
    }
}
