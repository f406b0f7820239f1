use super::*;
use crate::ingress::route::Mode;
use std::fs;

/// Every setting, and a file of routes so that no Kubernetes is looked for.
fn read_with(pairs: &[(&str, &str)]) -> (Result<Config, String>, Vec<String>) {
    let directory = tempfile::tempdir().unwrap();
    let routes = directory.path().join("routes.toml");
    fs::write(&routes, "[sandboxes]\n").unwrap();
    let mut all = vec![
        ("OPENSANDBOX_INGRESS_PROVIDER_TYPE", "static"),
        ("OPENSANDBOX_INGRESS_ROUTES", routes.to_str().unwrap()),
    ];
    all.extend(pairs);
    let settings = [SETTINGS, provider::SETTINGS].concat();
    let values = Values::from_pairs(&settings, &all);
    let mut warnings = Vec::new();
    let files = |path: &Path| match path.to_str() {
        Some("/ca.pem") => Ok("no certificate".to_owned()),
        _ => Err(io::ErrorKind::NotFound.into()),
    };
    let config = Config::read(&values, &files, &mut warnings);
    (
        config.map_err(|error| error.to_string()),
        warnings.iter().map(ToString::to_string).collect(),
    )
}

fn read(pairs: &[(&str, &str)]) -> Config {
    let (config, warnings) = read_with(pairs);
    assert_eq!(warnings, [""; 0]);
    config.unwrap()
}

#[test]
fn defaults_are_those_of_the_contract() {
    let config = read(&[]);
    assert_eq!(config.listen.to_string(), ":28888");
    assert_eq!(config.proxy.mode, Mode::Header);
    assert!(matches!(config.keys, KeySource::None));
    assert!(config.renew.is_none());
    assert_eq!(config.proxy.connections, proxy::MAX_CONNECTIONS);
    assert!(config.proxy.ports.contain(44772));
    assert_eq!(config.proxy.tunnel_idle, None);
    let lifetime = |config: &Config| config.proxy.connection_lifetime;
    assert_eq!(lifetime(&config), Some(proxy::CONNECTION_LIFETIME));
    assert_eq!(lifetime(&read(&[(CONNECTION_LIFETIME, "0")])), None);
    assert_eq!(config.proxy.response_time, None);
    let renew = read(&[(RENEW, "true")]).renew.unwrap().settings;
    assert_eq!(renew.redis, Dsn::parse("redis://127.0.0.1:6379/0").unwrap());
    assert_eq!(renew.queue_key, "opensandbox:renew:intent");
    assert_eq!(renew.queue_max_len, None);
    assert_eq!(renew.min_interval, Some(Duration::from_secs(60)));
}

#[test]
fn numbers_are_those_of_go() {
    for (text, port) in [
        ("8080", ":8080"),
        ("0x1F90", ":8080"),
        ("8_080", ":8080"),
        ("0", ":0"),
    ] {
        assert_eq!(read(&[(PORT, text)]).listen.to_string(), port);
    }
    let renew = |pairs: &[(&str, &str)]| {
        let pairs = [&[(RENEW, "true")], pairs].concat();
        read(&pairs).renew.unwrap().settings
    };
    let settings = renew(&[(QUEUE_MAX_LEN, "0b1010"), (MIN_INTERVAL, "1_0")]);
    assert_eq!(settings.queue_max_len, Some(10));
    assert_eq!(settings.min_interval, Some(Duration::from_secs(10)));
    let settings = renew(&[(QUEUE_MAX_LEN, "-1"), (MIN_INTERVAL, "-60")]);
    assert_eq!(settings.queue_max_len, None);
    assert_eq!(settings.min_interval, None);
}

#[test]
fn addresses_are_names_or_literal() {
    for (address, listen) in [
        ("127.0.0.1", "127.0.0.1:28888"),
        ("::1", "[::1]:28888"),
        ("[::1]", "[::1]:28888"),
        ("localhost", "localhost:28888"),
    ] {
        assert_eq!(read(&[(ADDRESS, address)]).listen.to_string(), listen);
    }
}

#[test]
fn what_the_go_component_finds_out_too_late_is_refused_at_once() {
    for (pairs, expected) in [
        (
            &[(MODE, "both")][..],
            "OPENSANDBOX_INGRESS_MODE=\"both\" (from environment) is not valid: expected header, host, wildcard or uri",
        ),
        (
            &[(PORT, "70000")],
            "OPENSANDBOX_INGRESS_PORT=\"70000\" (from environment) is not valid: expected a port number up to 65535",
        ),
        (
            &[(PORT, "http")],
            "OPENSANDBOX_INGRESS_PORT=\"http\" (from environment) is not valid: expected a whole number",
        ),
        (
            &[(PORT, "-1")],
            "OPENSANDBOX_INGRESS_PORT=\"-1\" (from environment) is not valid: expected a port number up to 65535",
        ),
        (
            &[(ADDRESS, "a b")],
            "OPENSANDBOX_INGRESS_ADDRESS=\"a b\" (from environment) is not valid: expected an address or a name, without a port",
        ),
        (
            &[(KEYS, "A=YQ==")],
            "parse secure-access-keys: key_id must be lowercase [0-9a-z], got 'A'",
        ),
        (
            &[(KEYS_FILE, "/missing")],
            "OPENSANDBOX_INGRESS_SECURE_ACCESS_KEYS_FILE=\"/missing\" (from environment) is not valid: expected a file of keys (/missing: no such file)",
        ),
        (
            &[(DENIED_PORTS, "0")],
            "OPENSANDBOX_INGRESS_DENIED_PORTS=\"0\" (from environment) is not valid: expected ports from 1 to 65535 and ranges of them, such as 80,8000-8999",
        ),
        (
            &[(TRUSTED, "10.0.0.0/33")],
            "OPENSANDBOX_INGRESS_TRUSTED_PROXIES=\"10.0.0.0/33\" (from environment) is not valid: expected addresses and networks, such as 10.0.0.0/8,fd00::1",
        ),
        (
            &[(CONNECTIONS, "0")],
            "OPENSANDBOX_INGRESS_MAX_CONNECTIONS=\"0\" (from environment) is not valid: expected a number above 0",
        ),
        (
            &[(TUNNEL_IDLE, "5")],
            "OPENSANDBOX_INGRESS_TUNNEL_IDLE_TIMEOUT=\"5\" (from environment) is not valid: expected a duration such as 500ms, 20s or 1m30s",
        ),
        (
            &[(MIN_INTERVAL, "1m")],
            "OPENSANDBOX_INGRESS_RENEW_INTENT_MIN_INTERVAL=\"1m\" (from environment) is not valid: expected a whole number",
        ),
        (
            &[(RENEW, "true"), (REDIS, "redis://:s3cret@h:x")],
            "OPENSANDBOX_INGRESS_RENEW_INTENT_REDIS_DSN=\"********\" (from environment) is not valid: expected an address with a port from 1 to 65535",
        ),
        (
            &[
                (RENEW, "true"),
                (REDIS, "rediss://h"),
                (REDIS_CA, "/ca.pem"),
            ],
            "OPENSANDBOX_INGRESS_RENEW_INTENT_REDIS_CA_FILE=\"/ca.pem\" (from environment) is not valid: expected the CA certificates: no usable PEM section: no items found",
        ),
    ] {
        let (config, _) = read_with(pairs);
        assert_eq!(config.unwrap_err(), expected);
    }
}

#[test]
fn a_redis_that_is_not_used_may_be_anything() {
    let config = read(&[(REDIS, "nonsense")]);
    assert!(config.renew.is_none());
}

#[test]
fn keys_given_directly_win_over_a_file_with_a_warning() {
    let (config, warnings) = read_with(&[(KEYS, "a=YQ=="), (KEYS_FILE, "/missing")]);
    assert!(matches!(config.unwrap().keys, KeySource::Given(_)));
    assert_eq!(
        warnings,
        [
            r#"OPENSANDBOX_INGRESS_SECURE_ACCESS_KEYS_FILE="/missing" is not used, using the keys given directly instead"#
        ]
    );
    assert!(matches!(read(&[(KEYS, "  ")]).keys, KeySource::None));
}

#[test]
fn an_unknown_level_is_info() {
    let (config, warnings) = read_with(&[("OPENSANDBOX_INGRESS_LOG_LEVEL", "loud")]);
    assert_eq!(config.unwrap().log_threshold, Threshold::Info);
    assert_eq!(warnings.len(), 1);
}

#[test]
fn the_text_of_the_default_is_that_of_the_constant() {
    let text = |variable: &str| {
        let setting = SETTINGS.iter().find(|setting| setting.variable == variable);
        setting.unwrap().default
    };
    assert_eq!(text(CONNECTIONS), proxy::MAX_CONNECTIONS.to_string());
    let interval = config::duration(&format!("{}s", text(MIN_INTERVAL)));
    assert_eq!(interval, Some(Duration::from_secs(60)));
}
