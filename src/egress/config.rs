//! The settings of egress and their typed form (contract `egress-dns-policy`, sections 2 and 3).
//!
//! Owns every name, default and parse rule. Reads nothing itself: the values come resolved from
//! [`config`](crate::config). A value that decides what is enforced must parse or the start is
//! refused; a number of lesser weight falls back to its default with a warning.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::dns::is_probe_name;
use super::dns::upstream::{Source, parse_list};
use super::policy::Policy;
use super::webhook::Target;
use crate::config::{Error, Kind, Setting, Values, Warning};
use crate::http::listen::Listen;
use crate::telemetry::log::Threshold;

/// Where the upstream resolvers are found when none are configured.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Every setting of egress besides those of telemetry.
pub const SETTINGS: &[Setting] = &[
    Setting {
        flag: "mode",
        variable: "OPENSANDBOX_EGRESS_MODE",
        default: "dns",
        kind: Kind::Text,
        help: "How the policy is enforced. `dns`: DNS answers decide, and port 53 is redirected to the filter",
    },
    Setting {
        flag: "rules",
        variable: "OPENSANDBOX_EGRESS_RULES",
        default: "",
        kind: Kind::Text,
        help: "Initial policy as JSON; without one everything is denied",
    },
    Setting {
        flag: "policy-file",
        variable: "OPENSANDBOX_EGRESS_POLICY_FILE",
        default: "",
        kind: Kind::Text,
        help: "File the policy is loaded from, in preference to the rules, and saved to after each change over the API",
    },
    Setting {
        flag: "rules-dir",
        variable: "OPENSANDBOX_EGRESS_RULES_DIR",
        default: "/var/egress/rules",
        kind: Kind::Text,
        help: "Directory of deny.always, allow.always and log_skip.always",
    },
    Setting {
        flag: "rules-interval",
        variable: "OPENSANDBOX_EGRESS_RULES_INTERVAL_SEC",
        default: "60",
        kind: Kind::Text,
        help: "Seconds between looks at the files of the rules directory, 1 to 3600",
    },
    Setting {
        flag: "max-rules",
        variable: "OPENSANDBOX_EGRESS_MAX_RULES",
        default: "4096",
        kind: Kind::Text,
        help: "Most rules a policy set over the API may have; 0 lifts the limit",
    },
    Setting {
        flag: "http-addr",
        variable: "OPENSANDBOX_EGRESS_HTTP_ADDR",
        default: ":18080",
        kind: Kind::Text,
        help: "Listen address of the policy API; an empty host means every interface, both families",
    },
    Setting {
        flag: "token",
        variable: "OPENSANDBOX_EGRESS_TOKEN",
        default: "",
        kind: Kind::Secret,
        help: "Token clients of the policy API must send as OPENSANDBOX-EGRESS-AUTH; empty leaves the API open",
    },
    Setting {
        flag: "token-file",
        variable: "OPENSANDBOX_EGRESS_TOKEN_FILE",
        default: "",
        kind: Kind::Text,
        help: "File that holds the token, one final newline dropped; the token given directly wins",
    },
    Setting {
        flag: "dns-port",
        variable: "OPENSANDBOX_EGRESS_DNS_PORT",
        default: "15353",
        kind: Kind::Text,
        help: "Loopback port of the DNS filter, on 127.0.0.1 and ::1, UDP and TCP",
    },
    Setting {
        flag: "dns-upstream",
        variable: "OPENSANDBOX_EGRESS_DNS_UPSTREAM",
        default: "",
        kind: Kind::Text,
        help: "Upstream resolvers, comma list of literal addresses with optional port; unset: the nameservers of /etc/resolv.conf at the start",
    },
    Setting {
        flag: "dns-upstream-follow",
        variable: "OPENSANDBOX_EGRESS_DNS_UPSTREAM_FOLLOW",
        default: "false",
        kind: Kind::Switch,
        help: "Follow /etc/resolv.conf as it changes; only where the workload cannot write the same file",
    },
    Setting {
        flag: "dns-upstream-timeout",
        variable: "OPENSANDBOX_EGRESS_DNS_UPSTREAM_TIMEOUT",
        default: "5",
        kind: Kind::Text,
        help: "Seconds a query may wait for an upstream, 1 to 120",
    },
    Setting {
        flag: "dns-upstream-probe",
        variable: "OPENSANDBOX_EGRESS_DNS_UPSTREAM_PROBE",
        default: ".",
        kind: Kind::Text,
        help: "Name the health probe asks for: the root asks for NS, any other name for A",
    },
    Setting {
        flag: "dns-upstream-probe-interval",
        variable: "OPENSANDBOX_EGRESS_DNS_UPSTREAM_PROBE_INTERVAL_SEC",
        default: "30",
        kind: Kind::Text,
        help: "Seconds between health probes, 1 to 3600",
    },
    Setting {
        flag: "nameserver-exempt",
        variable: "OPENSANDBOX_EGRESS_NAMESERVER_EXEMPT",
        default: "",
        kind: Kind::Text,
        help: "Resolver addresses the workload may ask directly, past the policy; comma list of literal addresses",
    },
    Setting {
        flag: "deny-webhook",
        variable: "OPENSANDBOX_EGRESS_DENY_WEBHOOK",
        default: "",
        kind: Kind::Secret,
        help: "URL that is told of each denied query; shown nowhere, as such addresses often carry a key",
    },
    Setting {
        flag: "allow-unenforced",
        variable: "OPENSANDBOX_EGRESS_ALLOW_UNENFORCED",
        default: "false",
        kind: Kind::Switch,
        help: "Start without CAP_NET_ADMIN: names are filtered only for clients that ask the filter by themselves",
    },
    Setting {
        flag: "teardown-on-exit",
        variable: "OPENSANDBOX_EGRESS_TEARDOWN_ON_EXIT",
        default: "false",
        kind: Kind::Switch,
        help: "Remove the kernel's redirect at a graceful stop; by default it stays, and DNS stays closed",
    },
    Setting {
        flag: "log-level",
        variable: "OPENSANDBOX_EGRESS_LOG_LEVEL",
        default: "info",
        kind: Kind::Text,
        help: "debug, info, warn, error, or fatal for silence; SIGUSR1 and SIGUSR2 change it later",
    },
    Setting {
        flag: "log-rules-max",
        variable: "OPENSANDBOX_EGRESS_LOG_RULES_MAX",
        default: "256",
        kind: Kind::Text,
        help: "Most rules a log record lists; a longer list is logged as its digest and count",
    },
];

/// What egress was told to do.
#[derive(Clone, Debug)]
pub struct Config {
    /// Policy JSON from the environment; empty when not given.
    pub rules: String,
    /// Where the policy is loaded from and saved to.
    pub policy_file: Option<PathBuf>,
    /// Directory of the always files.
    pub rules_dir: PathBuf,
    /// Time between looks at the always files.
    pub rules_interval: Duration,
    /// Most rules of a policy set over the API; `None` is no limit.
    pub max_rules: Option<usize>,
    /// Listen address of the policy API.
    pub http_address: Listen,
    /// API token; `None` leaves the API open.
    pub token: Option<String>,
    /// Loopback port of the DNS filter.
    pub dns_port: u16,
    /// Where the upstream resolvers come from.
    pub upstreams: Source,
    /// How much is logged.
    pub log_threshold: Threshold,
    /// How long a query may wait for upstreams.
    pub upstream_timeout: Duration,
    /// Name the health probe asks for; empty is the root.
    pub probe_name: String,
    /// Time between health probes.
    pub probe_interval: Duration,
    /// Resolvers the workload may ask directly.
    pub exempt: Vec<IpAddr>,
    /// Who is told of denials.
    pub deny_webhook: Option<Target>,
    /// The sandbox as the webhook is told it: as given, not trimmed.
    pub webhook_sandbox_id: String,
    /// Start although the kernel cannot be made to redirect.
    pub allow_unenforced: bool,
    /// Remove the redirect at a graceful stop.
    pub teardown_on_exit: bool,
    /// Most rules a log record lists.
    pub log_rules_max: usize,
}

/// Longest time a query may wait for upstreams, seconds.
const MAX_UPSTREAM_TIMEOUT: u64 = 120;
/// Longest time between health probes, or between looks at the always files, seconds.
const MAX_INTERVAL: u64 = 3600;

impl Config {
    /// Reads the settings. `read_file` gives the content of the token file.
    ///
    /// # Errors
    ///
    /// The mode, the policy, a listen address, an upstream, the name to probe, the webhook or the
    /// token file cannot be used as given.
    pub fn read(
        values: &Values,
        read_file: &dyn Fn(&Path) -> std::io::Result<String>,
        warnings: &mut Vec<Warning>,
    ) -> Result<Self, Error> {
        require_mode_dns(values)?;
        let port: u16 = values
            .get("OPENSANDBOX_EGRESS_DNS_PORT")
            .and_then(|text| text.trim().parse().ok())
            .filter(|port| *port != 0)
            .ok_or_else(|| {
                values.invalid(
                    "OPENSANDBOX_EGRESS_DNS_PORT",
                    "a port number from 1 to 65535",
                )
            })?;
        let trimmed = |variable| {
            values
                .get(variable)
                .map(str::trim)
                .filter(|text| !text.is_empty())
        };
        let policy_file = trimmed("OPENSANDBOX_EGRESS_POLICY_FILE").map(PathBuf::from);
        Ok(Self {
            rules: rules(values, policy_file.is_some())?,
            policy_file,
            rules_dir: PathBuf::from(trimmed("OPENSANDBOX_EGRESS_RULES_DIR").unwrap_or_default()),
            rules_interval: seconds(
                values,
                "OPENSANDBOX_EGRESS_RULES_INTERVAL_SEC",
                MAX_INTERVAL,
                warnings,
            ),
            max_rules: values
                .number("OPENSANDBOX_EGRESS_MAX_RULES", warnings)
                .filter(|limit| *limit != 0),
            http_address: http_address(values)?,
            token: token(values, read_file)?,
            dns_port: port,
            upstreams: upstreams(values, warnings)?,
            log_threshold: log_threshold(values, warnings),
            upstream_timeout: seconds(
                values,
                "OPENSANDBOX_EGRESS_DNS_UPSTREAM_TIMEOUT",
                MAX_UPSTREAM_TIMEOUT,
                warnings,
            ),
            probe_name: probe_name(values)?,
            probe_interval: seconds(
                values,
                "OPENSANDBOX_EGRESS_DNS_UPSTREAM_PROBE_INTERVAL_SEC",
                MAX_INTERVAL,
                warnings,
            ),
            exempt: exempt(values, warnings),
            deny_webhook: deny_webhook(values)?,
            webhook_sandbox_id: values
                .get("OPENSANDBOX_EGRESS_SANDBOX_ID")
                .or_else(|| values.get("OPENSANDBOX_ID"))
                .unwrap_or_default()
                .to_owned(),
            allow_unenforced: values.switch("OPENSANDBOX_EGRESS_ALLOW_UNENFORCED", warnings),
            teardown_on_exit: values.switch("OPENSANDBOX_EGRESS_TEARDOWN_ON_EXIT", warnings),
            log_rules_max: values
                .number("OPENSANDBOX_EGRESS_LOG_RULES_MAX", warnings)
                .unwrap_or_default(),
        })
    }
}

/// Refuses every mode but `dns`: silently enforcing less than was asked for would be a hole.
fn require_mode_dns(values: &Values) -> Result<(), Error> {
    const MODE: &str = "OPENSANDBOX_EGRESS_MODE";
    let text = values.get(MODE).unwrap_or_default().to_lowercase();
    let mut tokens = text
        .split('+')
        .map(str::trim)
        .filter(|token| !token.is_empty());
    let mut dns = text.trim().is_empty();
    for token in tokens.by_ref() {
        match token {
            "dns" => dns = true,
            "nft" => {
                return Err(values.invalid(
                    MODE,
                    "dns, because this version does not enforce addresses yet: start it with mode dns, or keep the previous sidecar where addresses must be filtered",
                ));
            }
            _ => return Err(values.invalid(MODE, "dns")),
        }
    }
    if dns {
        Ok(())
    } else {
        Err(values.invalid(MODE, "dns"))
    }
}

fn http_address(values: &Values) -> Result<Listen, Error> {
    const ADDRESS: &str = "OPENSANDBOX_EGRESS_HTTP_ADDR";
    let text = values.get(ADDRESS).unwrap_or_default().trim();
    text.parse()
        .map_err(|_| values.invalid(ADDRESS, "host:port or :port, such as :18080"))
}

fn upstreams(values: &Values, warnings: &mut Vec<Warning>) -> Result<Source, Error> {
    const UPSTREAM: &str = "OPENSANDBOX_EGRESS_DNS_UPSTREAM";
    let Some(text) = values.get(UPSTREAM).filter(|text| !text.trim().is_empty()) else {
        let follow = values.switch("OPENSANDBOX_EGRESS_DNS_UPSTREAM_FOLLOW", warnings);
        let source = if follow {
            Source::Followed
        } else {
            Source::File
        };
        return Ok(source(PathBuf::from(RESOLV_CONF)));
    };
    // The cause names the variable.
    let list = parse_list(text).map_err(|cause| Error::Usage(cause.to_string()))?;
    Ok(Source::List(list))
}

/// The policy as text. It must be one, unless there is a file that may be used in its stead.
fn rules(values: &Values, or_file: bool) -> Result<String, Error> {
    const RULES: &str = "OPENSANDBOX_EGRESS_RULES";
    let text = values.get(RULES).unwrap_or_default();
    match Policy::parse(text.as_bytes()) {
        Err(cause) if !or_file => Err(Error::Usage(format!(
            "{RULES} (from {}) is not a policy: {cause}",
            values.origin(RULES)
        ))),
        _ => Ok(text.to_owned()),
    }
}

fn probe_name(values: &Values) -> Result<String, Error> {
    const PROBE: &str = "OPENSANDBOX_EGRESS_DNS_UPSTREAM_PROBE";
    let name = values.get(PROBE).unwrap_or(".").trim();
    if is_probe_name(name) {
        Ok(name.to_owned())
    } else {
        Err(values.invalid(PROBE, "a domain name, or . for the root"))
    }
}

fn deny_webhook(values: &Values) -> Result<Option<Target>, Error> {
    const WEBHOOK: &str = "OPENSANDBOX_EGRESS_DENY_WEBHOOK";
    values
        .get(WEBHOOK)
        .filter(|text| !text.trim().is_empty())
        .map(|text| Target::parse(text).map_err(|cause| values.invalid(WEBHOOK, cause.to_string())))
        .transpose()
}

/// An unknown name means `info`, as it always has.
fn log_threshold(values: &Values, warnings: &mut Vec<Warning>) -> Threshold {
    values
        .parsed(
            "OPENSANDBOX_EGRESS_LOG_LEVEL",
            Threshold::from_name,
            warnings,
        )
        .unwrap_or_default()
}

fn token(
    values: &Values,
    read_file: &dyn Fn(&Path) -> std::io::Result<String>,
) -> Result<Option<String>, Error> {
    const FILE: &str = "OPENSANDBOX_EGRESS_TOKEN_FILE";
    if let Some(token) = values.get("OPENSANDBOX_EGRESS_TOKEN") {
        return Ok(Some(token.to_owned()));
    }
    let Some(path) = values.get(FILE) else {
        return Ok(None);
    };
    let content = read_file(Path::new(path))
        .map_err(|cause| values.invalid(FILE, format!("a file that can be read ({cause})")))?;
    let token = content.strip_suffix('\n').unwrap_or(&content);
    let token = token.strip_suffix('\r').unwrap_or(token);
    if token.is_empty() {
        return Err(values.invalid(FILE, "a file that holds the token, but it is empty"));
    }
    Ok(Some(token.to_owned()))
}

/// Whole seconds from 1 to `most`; more is cut to `most`, anything else is the default.
fn seconds(values: &Values, variable: &str, most: u64, warnings: &mut Vec<Warning>) -> Duration {
    let positive = |text: &str| text.parse().ok().filter(|seconds| *seconds > 0);
    let given = values.parsed(variable, positive, warnings).unwrap_or(most);
    let used = given.min(most);
    if used < given {
        warnings.push(values.warning(variable, used.to_string()));
    }
    Duration::from_secs(used)
}

/// Literal addresses without repeats; anything else is left out with a warning.
fn exempt(values: &Values, warnings: &mut Vec<Warning>) -> Vec<IpAddr> {
    const EXEMPT: &str = "OPENSANDBOX_EGRESS_NAMESERVER_EXEMPT";
    let mut addresses = Vec::new();
    for entry in values.list(EXEMPT) {
        match entry.parse() {
            Ok(address) if addresses.contains(&address) => {}
            Ok(address) => addresses.push(address),
            Err(_) => warnings.push(Warning {
                variable: EXEMPT.to_owned(),
                value: entry.to_owned(),
                used: "the entries that are literal addresses".to_owned(),
            }),
        }
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> (Result<Config, String>, Vec<String>) {
        let values = Values::from_pairs(SETTINGS, pairs);
        let mut warnings = Vec::new();
        let files = |path: &Path| match path.to_str() {
            Some("/token") => Ok("from file\n".to_owned()),
            Some("/empty") => Ok("\n".to_owned()),
            _ => Err(std::io::ErrorKind::NotFound.into()),
        };
        let config = Config::read(&values, &files, &mut warnings);
        (
            config.map_err(|error| error.to_string()),
            warnings.iter().map(ToString::to_string).collect(),
        )
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let (config, warnings) = read(&[]);
        let config = config.unwrap();
        assert!(warnings.is_empty(), "{warnings:?}");
        assert_eq!(config.max_rules, Some(4096));
        assert_eq!(config.http_address.to_string(), ":18080");
        assert_eq!(config.upstream_timeout, Duration::from_secs(5));
        assert_eq!(config.probe_interval, Duration::from_secs(30));
        assert_eq!(config.rules_dir, Path::new("/var/egress/rules"));
        assert_eq!(config.rules_interval, Duration::from_secs(60));
        assert_eq!(config.token, None);
        assert_eq!(config.dns_port, 15353);
        assert!(matches!(config.upstreams, Source::File(path) if path == Path::new(RESOLV_CONF)));
    }

    #[test]
    fn a_mode_that_cannot_be_enforced_is_refused() {
        for mode in ["dns", " DNS ", "dns+dns", ""] {
            let (config, _) = read(&[("OPENSANDBOX_EGRESS_MODE", mode)]);
            assert!(config.is_ok(), "{mode:?}");
        }
        for mode in ["nft", "dns+nft", "nft+dns", "dns+mitm", "off"] {
            let (config, _) = read(&[("OPENSANDBOX_EGRESS_MODE", mode)]);
            let error = config.unwrap_err();
            assert!(error.contains("OPENSANDBOX_EGRESS_MODE"), "{error}");
        }
    }

    #[test]
    fn numbers_out_of_range_are_replaced_with_a_warning() {
        for (variable, text, expected) in [
            ("OPENSANDBOX_EGRESS_DNS_UPSTREAM_TIMEOUT", "0", 5),
            ("OPENSANDBOX_EGRESS_DNS_UPSTREAM_TIMEOUT", "-3", 5),
            ("OPENSANDBOX_EGRESS_DNS_UPSTREAM_TIMEOUT", "soon", 5),
            ("OPENSANDBOX_EGRESS_DNS_UPSTREAM_TIMEOUT", "121", 120),
        ] {
            let (config, warnings) = read(&[(variable, text)]);
            let timeout = config.unwrap().upstream_timeout;
            assert_eq!(timeout, Duration::from_secs(expected), "{text}");
            assert_eq!(warnings.len(), 1, "{text}: {warnings:?}");
        }
        for (text, expected) in [
            ("0", None),
            ("100", Some(100)),
            ("-1", Some(4096)),
            ("x", Some(4096)),
        ] {
            let (config, _) = read(&[("OPENSANDBOX_EGRESS_MAX_RULES", text)]);
            assert_eq!(config.unwrap().max_rules, expected, "{text}");
        }
    }

    #[test]
    fn exempt_resolvers_are_literal_addresses_once() {
        let list = "1.1.1.1, 2001:db8::1 ,invalid, 10.0.0.0/8, ,1.1.1.1";
        let (config, warnings) = read(&[("OPENSANDBOX_EGRESS_NAMESERVER_EXEMPT", list)]);
        let exempt = config.unwrap().exempt;
        assert_eq!(
            exempt,
            [
                "1.1.1.1".parse::<IpAddr>().unwrap(),
                "2001:db8::1".parse().unwrap()
            ]
        );
        assert_eq!(warnings.len(), 2, "{warnings:?}");
    }

    #[test]
    fn the_file_of_resolvers_is_followed_only_when_told_to() {
        for (text, followed) in [("true", true), ("false", false), ("maybe", false)] {
            let (config, _) = read(&[("OPENSANDBOX_EGRESS_DNS_UPSTREAM_FOLLOW", text)]);
            let upstreams = config.unwrap().upstreams;
            assert_eq!(matches!(upstreams, Source::Followed(_)), followed, "{text}");
        }
    }

    #[test]
    fn what_the_process_cannot_start_with_is_refused_by_name() {
        for (variable, text, told) in [
            ("OPENSANDBOX_EGRESS_RULES", "{bad", "is not a policy: "),
            (
                "OPENSANDBOX_EGRESS_RULES",
                r#"{"defaultAction":"alow"}"#,
                r#"unsupported defaultAction "alow""#,
            ),
            ("OPENSANDBOX_EGRESS_HTTP_ADDR", "18080", ":18080"),
            ("OPENSANDBOX_EGRESS_DNS_PORT", "0", "1 to 65535"),
            ("OPENSANDBOX_EGRESS_DNS_UPSTREAM", "dns.test", "literal IP"),
            (
                "OPENSANDBOX_EGRESS_DNS_UPSTREAM_PROBE",
                "a..b",
                "a domain name",
            ),
            ("OPENSANDBOX_EGRESS_DENY_WEBHOOK", "foo", "http or https"),
        ] {
            let error = read(&[(variable, text)]).0.unwrap_err();
            assert_eq!(error.matches(variable).count(), 1, "{error}");
            assert!(error.contains(told), "{error}");
        }
    }

    #[test]
    fn a_policy_that_a_file_may_replace_is_judged_when_the_file_was_read() {
        let pairs = [
            ("OPENSANDBOX_EGRESS_RULES", "{bad"),
            ("OPENSANDBOX_EGRESS_POLICY_FILE", "/policy.json"),
        ];
        assert_eq!(read(&pairs).0.unwrap().rules, "{bad");
    }

    #[test]
    fn the_address_of_the_webhook_is_not_shown() {
        let pair = (
            "OPENSANDBOX_EGRESS_DENY_WEBHOOK",
            "https://user:key@h.test/",
        );
        let error = read(&[pair]).0.unwrap_err();
        assert!(error.contains("without user and password"), "{error}");
        assert!(!error.contains("key"), "{error}");
    }

    #[test]
    fn the_token_comes_directly_or_from_a_file() {
        let (config, _) = read(&[("OPENSANDBOX_EGRESS_TOKEN_FILE", "/token")]);
        assert_eq!(config.unwrap().token.as_deref(), Some("from file"));
        let both = [
            ("OPENSANDBOX_EGRESS_TOKEN", "direct"),
            ("OPENSANDBOX_EGRESS_TOKEN_FILE", "/missing"),
        ];
        assert_eq!(read(&both).0.unwrap().token.as_deref(), Some("direct"));
        for path in ["/missing", "/empty"] {
            let (config, _) = read(&[("OPENSANDBOX_EGRESS_TOKEN_FILE", path)]);
            let error = config.unwrap_err();
            assert!(error.contains("OPENSANDBOX_EGRESS_TOKEN_FILE"), "{error}");
        }
    }
}
