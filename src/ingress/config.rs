//! The settings of ingress and their typed form (contract `ingress`, section 1).
//!
//! Owns every name, default and parse rule, besides those of the providers. Reads nothing itself:
//! the values come resolved from [`config`](crate::config). What the Go component would have
//! refused, or would have found out later, is refused here, before Kubernetes is asked anything.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::access::{Keys, Ports};
use super::forwarded::Trusted;
use super::keys::{KeyFile, KeySource};
use super::renew::dsn::{Address, Dsn, Verification};
use super::{provider, proxy, renew};
use crate::config::{self, Error, Kind, Setting, Values, Warning};
use crate::http::connect::Connector;
use crate::http::listen::Listen;
use crate::http::tls::{Tls, Verify};
use crate::telemetry::log::Threshold;

const PORT: &str = "OPENSANDBOX_INGRESS_PORT";
const ADDRESS: &str = "OPENSANDBOX_INGRESS_ADDRESS";
const MODE: &str = "OPENSANDBOX_INGRESS_MODE";
const KEYS: &str = "OPENSANDBOX_INGRESS_SECURE_ACCESS_KEYS";
const KEYS_FILE: &str = "OPENSANDBOX_INGRESS_SECURE_ACCESS_KEYS_FILE";
const ALLOWED_PORTS: &str = "OPENSANDBOX_INGRESS_ALLOWED_PORTS";
const DENIED_PORTS: &str = "OPENSANDBOX_INGRESS_DENIED_PORTS";
const TRUSTED: &str = "OPENSANDBOX_INGRESS_TRUSTED_PROXIES";
const CONNECTIONS: &str = "OPENSANDBOX_INGRESS_MAX_CONNECTIONS";
const CONNECTION_LIFETIME: &str = "OPENSANDBOX_INGRESS_CONNECTION_LIFETIME";
const RESPONSE_TIME: &str = "OPENSANDBOX_INGRESS_RESPONSE_TIMEOUT";
const TUNNEL_IDLE: &str = "OPENSANDBOX_INGRESS_TUNNEL_IDLE_TIMEOUT";
const TUNNEL_LIFETIME: &str = "OPENSANDBOX_INGRESS_TUNNEL_LIFETIME";
const DRAIN_DELAY: &str = "OPENSANDBOX_INGRESS_DRAIN_DELAY";
const DRAIN_TIME: &str = "OPENSANDBOX_INGRESS_DRAIN_TIMEOUT";
const RENEW: &str = "OPENSANDBOX_INGRESS_RENEW_INTENT_ENABLED";
const REDIS: &str = "OPENSANDBOX_INGRESS_RENEW_INTENT_REDIS_DSN";
const REDIS_CA: &str = "OPENSANDBOX_INGRESS_RENEW_INTENT_REDIS_CA_FILE";
const QUEUE_KEY: &str = "OPENSANDBOX_INGRESS_RENEW_INTENT_QUEUE_KEY";
const QUEUE_MAX_LEN: &str = "OPENSANDBOX_INGRESS_RENEW_INTENT_QUEUE_MAX_LEN";
const MIN_INTERVAL: &str = "OPENSANDBOX_INGRESS_RENEW_INTENT_MIN_INTERVAL";

/// Every setting of ingress besides those of the providers and of telemetry.
pub const SETTINGS: &[Setting] = &[
    Setting {
        flag: "port",
        variable: PORT,
        default: "28888",
        kind: Kind::Text,
        help: "Port to listen on; 0 lets the system choose",
    },
    Setting {
        flag: "address",
        variable: ADDRESS,
        default: "",
        kind: Kind::Text,
        help: "Address to listen on; without one every interface, both families",
    },
    Setting {
        flag: "mode",
        variable: MODE,
        default: "header",
        kind: Kind::Text,
        help: "Where routes are found: `header`, which is the header OpenSandbox-Ingress-To, else the host (`host` and `wildcard` mean the same), or `uri`",
    },
    Setting {
        flag: "namespace",
        variable: "OPENSANDBOX_INGRESS_NAMESPACE",
        default: "opensandbox",
        kind: Kind::Text,
        help: "Means nothing and is accepted because charts pass it: sandboxes are found in all namespaces",
    },
    Setting {
        flag: "secure-access-keys",
        variable: KEYS,
        default: "",
        kind: Kind::Secret,
        help: "Keys that signed routes are verified with, comma list of key_id=base64; the command line of a process can be read by others",
    },
    Setting {
        flag: "secure-access-keys-file",
        variable: KEYS_FILE,
        default: "",
        kind: Kind::Text,
        help: "File that holds the keys, separated by commas or line ends; read again when it changes; keys given directly win",
    },
    Setting {
        flag: "allowed-ports",
        variable: ALLOWED_PORTS,
        default: "",
        kind: Kind::List,
        help: "Ports of sandboxes that can be reached, comma list of ports and ranges such as 80,8000-8999; without one all",
    },
    Setting {
        flag: "denied-ports",
        variable: DENIED_PORTS,
        default: "",
        kind: Kind::List,
        help: "Ports of sandboxes that cannot be reached, whatever is allowed",
    },
    Setting {
        flag: "trusted-proxies",
        variable: TRUSTED,
        default: "",
        kind: Kind::List,
        help: "Whose X-Forwarded-For and X-Real-IP count, comma list of addresses and networks; without one everybody's",
    },
    Setting {
        flag: "max-connections",
        variable: CONNECTIONS,
        default: "65536",
        kind: Kind::Text,
        help: "Most client connections at once; further ones wait in the kernel",
    },
    Setting {
        flag: "connection-lifetime",
        variable: CONNECTION_LIFETIME,
        default: "1h",
        kind: Kind::Text,
        help: "How old the connection of a client may get before it ends with the exchange under way or, without one, with the next; up to a tenth less, so that not all end at once; 0 is any age",
    },
    Setting {
        flag: "response-timeout",
        variable: RESPONSE_TIME,
        default: "0",
        kind: Kind::Text,
        help: "How long a sandbox may take to begin its answer, such as 5m; 0 is any time",
    },
    Setting {
        flag: "tunnel-idle-timeout",
        variable: TUNNEL_IDLE,
        default: "0",
        kind: Kind::Text,
        help: "How long a WebSocket or another tunnel may be silent; 0 is any time",
    },
    Setting {
        flag: "tunnel-lifetime",
        variable: TUNNEL_LIFETIME,
        default: "0",
        kind: Kind::Text,
        help: "How long a WebSocket or another tunnel may last; 0 is any time",
    },
    Setting {
        flag: "drain-delay",
        variable: DRAIN_DELAY,
        default: "3s",
        kind: Kind::Text,
        help: "How long new requests are still taken after SIGTERM, while /status.ok says that this is over",
    },
    Setting {
        flag: "drain-timeout",
        variable: DRAIN_TIME,
        default: "20s",
        kind: Kind::Text,
        help: "How long requests under way may take after the drain delay",
    },
    Setting {
        flag: "renew-intent-enabled",
        variable: RENEW,
        default: "false",
        kind: Kind::Switch,
        help: "Tell the server through Redis which sandboxes are in use, so that it renews them",
    },
    Setting {
        flag: "renew-intent-redis-dsn",
        variable: REDIS,
        default: "redis://127.0.0.1:6379/0",
        kind: Kind::Secret,
        help: "Redis, as redis://, rediss:// (TLS) or unix:// URL",
    },
    Setting {
        flag: "renew-intent-redis-ca-file",
        variable: REDIS_CA,
        default: "",
        kind: Kind::Text,
        help: "Authorities trusted to certify Redis, in PEM; without one the public ones",
    },
    Setting {
        flag: "renew-intent-queue-key",
        variable: QUEUE_KEY,
        default: "opensandbox:renew:intent",
        kind: Kind::Text,
        help: "The list in Redis",
    },
    Setting {
        flag: "renew-intent-queue-max-len",
        variable: QUEUE_MAX_LEN,
        default: "0",
        kind: Kind::Text,
        help: "How long the list may grow before its oldest elements are cut off; 0 is any length",
    },
    Setting {
        flag: "renew-intent-min-interval",
        variable: MIN_INTERVAL,
        default: "60",
        kind: Kind::Text,
        help: "Least seconds between two intents for one sandbox; 0 is none",
    },
    Setting {
        flag: "log-level",
        variable: "OPENSANDBOX_INGRESS_LOG_LEVEL",
        default: "info",
        kind: Kind::Text,
        help: "debug, info, warn, error, or fatal for silence; SIGUSR1 and SIGUSR2 change it later",
    },
    Setting {
        flag: "listen-pid",
        variable: "LISTEN_PID",
        default: "",
        kind: Kind::Text,
        help: "The process that listening sockets are handed to; set by systemd",
    },
    Setting {
        flag: "listen-fds",
        variable: "LISTEN_FDS",
        default: "",
        kind: Kind::Text,
        help: "How many listening sockets are handed over; set by systemd, and used in the place of --port",
    },
];

/// What ingress was told to do.
#[derive(Debug)]
pub struct Config {
    /// Where to listen, unless sockets are handed over.
    pub listen: Listen,
    /// Where sandboxes are found.
    pub provider: provider::Config,
    /// Where the keys of signed routes come from.
    pub keys: KeySource,
    /// What the data path is told.
    pub proxy: proxy::Settings,
    /// How long new requests are taken after the end was asked for.
    pub drain_delay: Duration,
    /// How the server is told which sandboxes are in use, if it is.
    pub renew: Option<Renew>,
    /// How much is logged.
    pub log_threshold: Threshold,
}

/// How the server is told which sandboxes are in use.
#[derive(Debug)]
pub struct Renew {
    /// What is said where, and how often.
    pub settings: renew::Settings,
    /// How Redis is reached.
    pub connector: Connector,
}

impl Config {
    /// Reads the settings. `read_file` gives the content of the files they name.
    ///
    /// # Errors
    ///
    /// Something cannot be used as given.
    pub fn read(
        values: &Values,
        read_file: &dyn Fn(&Path) -> io::Result<String>,
        warnings: &mut Vec<Warning>,
    ) -> Result<Self, Error> {
        Ok(Self {
            listen: listen(values)?,
            keys: keys(values, warnings)?,
            proxy: proxy::Settings {
                mode: values
                    .get(MODE)
                    .unwrap_or_default()
                    .parse()
                    .map_err(|_| values.invalid(MODE, "header, host, wildcard or uri"))?,
                ports: ports(values)?,
                trusted: Trusted::parse(values.list(TRUSTED))
                    .map_err(|cause| values.invalid(TRUSTED, cause.to_string()))?,
                tunnel_idle: limit(values, TUNNEL_IDLE)?,
                tunnel_lifetime: limit(values, TUNNEL_LIFETIME)?,
                response_time: limit(values, RESPONSE_TIME)?,
                drain_time: duration(values, DRAIN_TIME)?,
                connections: connections(values)?,
                connection_lifetime: limit(values, CONNECTION_LIFETIME)?,
            },
            drain_delay: duration(values, DRAIN_DELAY)?,
            renew: renew(values, read_file, warnings)?,
            log_threshold: values
                .parsed(
                    "OPENSANDBOX_INGRESS_LOG_LEVEL",
                    Threshold::from_name,
                    warnings,
                )
                .unwrap_or_default(),
            // Last: where Kubernetes is, is of no interest while anything else is wrong.
            provider: provider::Config::read(values, read_file, warnings)?,
        })
    }
}

fn listen(values: &Values) -> Result<Listen, Error> {
    let port = integer(values, PORT)?;
    let port =
        u16::try_from(port).map_err(|_| values.invalid(PORT, "a port number up to 65535"))?;
    let host = values.get(ADDRESS).unwrap_or_default().trim();
    let text = if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    };
    let expected = "an address or a name, without a port";
    text.parse().map_err(|_| values.invalid(ADDRESS, expected))
}

fn keys(values: &Values, warnings: &mut Vec<Warning>) -> Result<KeySource, Error> {
    let file = values.get(KEYS_FILE);
    if let Some(text) = values.get(KEYS).filter(|text| !text.trim().is_empty()) {
        if file.is_some() {
            warnings.push(values.warning(KEYS_FILE, "the keys given directly"));
        }
        let refused = |cause| Error::Usage(format!("parse secure-access-keys: {cause}"));
        return Keys::parse(text).map(KeySource::Given).map_err(refused);
    }
    let Some(path) = file else {
        return Ok(KeySource::None);
    };
    let refused = |cause| values.invalid(KEYS_FILE, format!("a file of keys ({cause})"));
    KeyFile::open(Path::new(path))
        .map(KeySource::File)
        .map_err(refused)
}

fn ports(values: &Values) -> Result<Ports, Error> {
    let lists = |allowed, denied| Ports::parse(values.list(allowed), values.list(denied));
    // Each by itself, so that the message names the one that is wrong.
    for variable in [ALLOWED_PORTS, DENIED_PORTS] {
        lists(variable, variable).map_err(|cause| values.invalid(variable, cause.to_string()))?;
    }
    lists(ALLOWED_PORTS, DENIED_PORTS)
        .map_err(|cause| values.invalid(ALLOWED_PORTS, cause.to_string()))
}

fn connections(values: &Values) -> Result<usize, Error> {
    let number = integer(values, CONNECTIONS)?;
    usize::try_from(number)
        .ok()
        .filter(|number| *number > 0)
        .ok_or_else(|| values.invalid(CONNECTIONS, "a number above 0"))
}

fn renew(
    values: &Values,
    read_file: &dyn Fn(&Path) -> io::Result<String>,
    warnings: &mut Vec<Warning>,
) -> Result<Option<Renew>, Error> {
    // Judged even where it is not used, as flags are.
    let queue_max_len = u64::try_from(integer(values, QUEUE_MAX_LEN)?).ok();
    let min_interval = u64::try_from(integer(values, MIN_INTERVAL)?).ok();
    if !values.switch(RENEW, warnings) {
        return Ok(None);
    }
    let redis = Dsn::parse(values.get(REDIS).unwrap_or_default())
        .map_err(|cause| values.invalid(REDIS, cause.to_string()))?;
    let mut connector = Connector::default();
    if let Address::Tcp { tls: Some(how), .. } = &redis.address {
        let verify = match (how, values.get(REDIS_CA)) {
            (Verification::Skipped, _) => Verify::Nothing,
            (Verification::Full, None) => Verify::Public,
            (Verification::Full, Some(path)) => {
                let pem = read_file(Path::new(path)).map_err(|cause| {
                    values.invalid(REDIS_CA, format!("a file that can be read ({cause})"))
                })?;
                Verify::Authorities(pem.into_bytes())
            }
        };
        let tls = Tls::new(verify, None, &[])
            .map_err(|cause| values.invalid(REDIS_CA, cause.to_string()))?;
        connector = connector.tls(tls);
    }
    Ok(Some(Renew {
        settings: renew::Settings {
            redis,
            queue_key: values.require(QUEUE_KEY)?.to_owned(),
            queue_max_len: queue_max_len.filter(|most| *most > 0),
            min_interval: min_interval
                .filter(|seconds| *seconds > 0)
                .map(Duration::from_secs),
        },
        connector,
    }))
}

fn integer(values: &Values, variable: &str) -> Result<i64, Error> {
    let text = values.get(variable).unwrap_or("0");
    config::integer(text.trim()).ok_or_else(|| values.invalid(variable, "a whole number"))
}

fn duration(values: &Values, variable: &str) -> Result<Duration, Error> {
    let text = values.get(variable).unwrap_or("0");
    config::duration(text.trim())
        .ok_or_else(|| values.invalid(variable, "a duration such as 500ms, 20s or 1m30s"))
}

/// A duration; zero is no limit.
fn limit(values: &Values, variable: &str) -> Result<Option<Duration>, Error> {
    let limit = duration(values, variable)?;
    Ok(Some(limit).filter(|limit| !limit.is_zero()))
}

#[cfg(test)]
mod tests;
