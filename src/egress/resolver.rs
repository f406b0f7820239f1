//! Names of our own connections, asked of the upstreams directly.

use std::io;
use std::sync::{Arc, OnceLock};

use super::dns::Resolver;
use crate::http::resolve::{Resolve, Resolving};

/// Resolves what telemetry and the webhook are given by name, past the policy and the redirect.
///
/// It exists before the DNS filter does, because telemetry starts first; until the filter runs,
/// every look-up fails, and its caller tries again.
#[derive(Clone, Default)]
pub struct UpstreamResolver(Arc<OnceLock<Resolver>>);

impl UpstreamResolver {
    /// From now on look-ups go to `resolver`; the first one stays.
    pub(super) fn ask(&self, resolver: Resolver) {
        self.0.get_or_init(|| resolver);
    }
}

impl Resolve for UpstreamResolver {
    fn resolve<'a>(&'a self, host: &'a str) -> Resolving<'a> {
        Box::pin(async move {
            match self.0.get() {
                Some(resolver) => resolver.lookup(host).await,
                None => Err(io::Error::new(
                    io::ErrorKind::NotConnected,
                    format!("{host} cannot be resolved before the dns filter runs"),
                )),
            }
        })
    }
}
