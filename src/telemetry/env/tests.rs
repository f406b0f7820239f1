use super::*;

const NODE: Option<&str> = None;

fn table(component: Component) -> Vec<Setting> {
    SETTINGS
        .iter()
        .chain(component_settings(component))
        .copied()
        .collect()
}

fn read_on(
    component: Component,
    pairs: &[(&str, &str)],
    host_info: Option<&str>,
) -> (Config, Vec<String>) {
    let values = Values::from_pairs(&table(component), pairs);
    let mut warnings = Vec::new();
    let config = Config::read_with(component, &values, &mut warnings, || {
        host_info.map(str::to_owned)
    });
    (config, warnings.iter().map(ToString::to_string).collect())
}

fn read(component: Component, pairs: &[(&str, &str)]) -> (Config, Vec<String>) {
    read_on(component, pairs, NODE)
}

/// The configuration of a component for which nothing may be wrong.
fn clean(component: Component, pairs: &[(&str, &str)]) -> Config {
    let (config, warnings) = read(component, pairs);
    assert_eq!(warnings, Vec::<String>::new());
    config
}

fn metrics_url(pairs: &[(&str, &str)]) -> (Option<String>, Vec<String>) {
    let (config, warnings) = read(Component::Execd, pairs);
    (
        config.metrics.otlp.map(|o| o.endpoint.to_string()),
        warnings,
    )
}

const ALL: [Component; 4] = [
    Component::Execd,
    Component::Egress,
    Component::Ingress,
    Component::Supervisor,
];

#[test]
fn no_setting_is_declared_twice() {
    for component in ALL {
        let table = table(component);
        for (at, setting) in table.iter().enumerate() {
            assert!(
                table[at + 1..]
                    .iter()
                    .all(|other| other.flag != setting.flag && other.variable != setting.variable),
                "{}",
                setting.variable
            );
        }
    }
}

#[test]
fn nothing_set_exports_nothing_and_says_nothing() {
    for component in ALL {
        // A node address alone means nothing while the fallback is off.
        let (config, warnings) = read_on(component, &[("HOST_IP", "10.0.0.1")], Some("10.0.0.2"));
        assert!(warnings.is_empty(), "{warnings:?}");
        assert!(config.metrics.otlp.is_none() && config.logs.otlp.is_none());
        assert!(!config.metrics.console && !config.logs.console);
        assert_eq!(config.metrics.prometheus, None);
        assert_eq!(
            config.service_name,
            format!(
                "opensandbox-{}-{}",
                component.name(),
                crate::version::VERSION
            )
        );
    }
}

#[test]
fn the_defaults_are_those_of_the_specification() {
    let config = clean(
        Component::Execd,
        &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")],
    );
    let otlp = config.metrics.otlp.expect("an endpoint");
    assert_eq!(otlp.protocol, Protocol::HttpProtobuf);
    assert_eq!(otlp.timeout, Duration::from_secs(10));
    assert!(!otlp.gzip && otlp.headers.is_empty());
    assert_eq!(config.metrics.interval, Duration::from_secs(60));
    assert_eq!(config.metrics.timeout, Duration::from_secs(30));
    assert_eq!(config.metrics.temporality, Temporality::Cumulative);
    assert!(!config.metrics.exponential_histograms);
    assert_eq!(config.logs.schedule_delay, Duration::from_secs(1));
    assert_eq!(config.logs.export_timeout, Duration::from_secs(30));
    assert_eq!(config.logs.max_queue_size, 2048);
    assert_eq!(config.logs.max_export_batch_size, 512);
    assert_eq!(config.http_keys, HttpKeys::Proposal);
    assert_eq!(config.diagnostics, Diagnostics::Level(slog::Level::Info));
}

#[test]
fn the_general_endpoint_gets_the_path_of_the_signal() {
    for (url, expected) in [
        ("http://c:4318", "http://c:4318/v1/metrics"),
        ("http://c:4318/", "http://c:4318/v1/metrics"),
        ("https://c/base/", "https://c/base/v1/metrics"),
        ("http://[::1]:4318", "http://[::1]:4318/v1/metrics"),
    ] {
        let (endpoint, warnings) = metrics_url(&[("OTEL_EXPORTER_OTLP_ENDPOINT", url)]);
        assert_eq!(endpoint.as_deref(), Some(expected));
        assert!(warnings.is_empty(), "{warnings:?}");
    }
}

#[test]
fn the_signal_endpoint_is_used_as_it_is_unless_it_has_no_path() {
    for (url, expected) in [
        ("http://c:4318/custom", "http://c:4318/custom"),
        ("http://c:4318/", "http://c:4318/"),
        ("http://c:4318", "http://c:4318/v1/metrics"),
    ] {
        let (endpoint, warnings) = metrics_url(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://other:1"),
            ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", url),
        ]);
        assert_eq!(endpoint.as_deref(), Some(expected));
        assert!(warnings.is_empty(), "{warnings:?}");
    }
}

#[test]
fn grpc_endpoints_keep_only_what_they_are() {
    let (endpoint, _) = metrics_url(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c:4317"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
    ]);
    assert_eq!(endpoint.as_deref(), Some("https://c:4317/"));
}

#[test]
fn an_endpoint_without_a_scheme_is_http_and_is_mentioned() {
    let (endpoint, warnings) = metrics_url(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "c:4318")]);
    assert_eq!(endpoint.as_deref(), Some("http://c:4318/v1/metrics"));
    assert_eq!(warnings.len(), 1 + 1, "once for each signal: {warnings:?}");
    assert!(warnings[0].contains("http://c:4318"), "{warnings:?}");

    for (insecure, scheme) in [("true", "http"), ("false", "https")] {
        let (endpoint, _) = metrics_url(&[
            ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "c:4317"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_INSECURE", insecure),
        ]);
        assert_eq!(endpoint, Some(format!("{scheme}://c:4317/")));
    }
}

#[test]
fn an_unusable_endpoint_is_named_and_not_used() {
    for url in ["ftp://c:21", "http://", "http://c:port", "unix:///socket"] {
        let (endpoint, warnings) = metrics_url(&[("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", url)]);
        assert_eq!(endpoint, None, "{url}");
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"));
    }
}

#[test]
fn credentials_in_a_url_are_not_shown() {
    let (_, warnings) = metrics_url(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://me:secret@c")]);
    assert!(!warnings.is_empty());
    assert!(!warnings.join("\n").contains("secret"), "{warnings:?}");
}

#[test]
fn exporters_are_chosen_by_list() {
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318");
    let config = clean(
        Component::Ingress,
        &[
            endpoint,
            ("OTEL_METRICS_EXPORTER", " prometheus , console"),
            ("OTEL_LOGS_EXPORTER", "none"),
        ],
    );
    assert!(config.metrics.otlp.is_none() && config.metrics.console);
    assert_eq!(config.metrics.prometheus.map(|p| p.port), Some(9464));
    assert!(config.logs.otlp.is_none() && !config.logs.console);

    let config = clean(
        Component::Ingress,
        &[endpoint, ("OTEL_METRICS_EXPORTER", "otlp,prometheus")],
    );
    assert!(config.metrics.otlp.is_some() && config.metrics.prometheus.is_some());

    let (config, warnings) = read(
        Component::Ingress,
        &[endpoint, ("OTEL_LOGS_EXPORTER", "prometheus,otlp")],
    );
    assert!(config.logs.otlp.is_some());
    assert_eq!(warnings.len(), 1, "{warnings:?}");
}

#[test]
fn otlp_without_an_endpoint_is_no_export_and_one_line() {
    let (config, warnings) = read(Component::Execd, &[("OTEL_METRICS_EXPORTER", "otlp")]);
    assert!(config.metrics.otlp.is_none());
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("no OTLP endpoint"), "{warnings:?}");
}

#[test]
fn the_general_endpoint_switches_the_logs_of_all_but_egress_on() {
    let general = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318");
    let logs = |component, pairs: &[_]| clean(component, pairs).logs.otlp.is_some();
    assert!(logs(Component::Execd, &[general]));
    assert!(logs(Component::Ingress, &[general]));
    assert!(!logs(Component::Egress, &[general]));
    let own = ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://c:4318/v1/logs");
    assert!(logs(Component::Egress, &[own]));
    assert!(logs(
        Component::Egress,
        &[general, ("OTEL_LOGS_EXPORTER", "otlp")]
    ));
    assert!(clean(Component::Egress, &[general]).metrics.otlp.is_some());
}

#[test]
fn the_whole_sdk_can_be_switched_off() {
    for on in ["true", "TRUE", "1"] {
        let config = clean(
            Component::Execd,
            &[
                ("OTEL_SDK_DISABLED", on),
                ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318"),
                ("OTEL_METRICS_EXPORTER", "otlp,console,prometheus"),
                ("OTEL_LOGS_EXPORTER", "console"),
                ("OPENSANDBOX_ID", "sb"),
            ],
        );
        assert!(config.metrics.otlp.is_none() && !config.metrics.console);
        assert!(config.metrics.prometheus.is_none() && !config.logs.console);
        assert_eq!(config.sandbox_id.as_deref(), Some("sb"));
    }
    let (config, warnings) = read(
        Component::Execd,
        &[
            ("OTEL_SDK_DISABLED", "maybe"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318"),
        ],
    );
    assert!(config.metrics.otlp.is_some());
    assert_eq!(warnings.len(), 1, "{warnings:?}");
}

#[test]
fn a_setting_of_the_signal_wins_over_the_general_one() {
    let config = clean(
        Component::Execd,
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "HTTP/JSON"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "3000"),
            ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "500"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_EXPORTER_OTLP_LOGS_COMPRESSION", "none"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=general"),
            ("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "a=metrics"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem"),
            ("OTEL_EXPORTER_OTLP_LOGS_CERTIFICATE", "/logs-ca.pem"),
            ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/client.pem"),
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/key.pem"),
            ("OTEL_EXPORTER_OTLP_LOGS_CLIENT_KEY", "/logs-key.pem"),
        ],
    );
    let (metrics, logs) = (config.metrics.otlp.unwrap(), config.logs.otlp.unwrap());
    assert_eq!(
        (metrics.protocol, logs.protocol),
        (Protocol::Grpc, Protocol::HttpJson)
    );
    assert_eq!(metrics.timeout, Duration::from_millis(500));
    assert_eq!(logs.timeout, Duration::from_secs(3));
    assert_eq!((metrics.gzip, logs.gzip), (true, false));
    assert_eq!(metrics.headers[0].1, "metrics");
    assert_eq!(logs.headers[0].1, "general");
    assert_eq!(metrics.certificate, Some(PathBuf::from("/ca.pem")));
    assert_eq!(logs.certificate, Some(PathBuf::from("/logs-ca.pem")));
    assert_eq!(metrics.client_certificate, logs.client_certificate);
    assert_eq!(metrics.client_key, Some(PathBuf::from("/key.pem")));
    assert_eq!(logs.client_key, Some(PathBuf::from("/logs-key.pem")));
}

#[test]
fn headers_are_decoded_and_never_shown() {
    let (config, warnings) = read(
        Component::Ingress,
        &[
            ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://c:4318"),
            (
                "OTEL_EXPORTER_OTLP_HEADERS",
                "Authorization=Bearer%20s3cret%3D, x-tenant = a ,broken,bad name=hidden1,x=hidden2%zz",
            ),
        ],
    );
    let otlp = config.metrics.otlp.expect("an endpoint");
    let headers: Vec<_> = otlp
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
        .collect();
    assert_eq!(
        headers,
        [("authorization", "Bearer s3cret="), ("x-tenant", "a")]
    );
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    let said = format!("{warnings:?} {otlp:?}");
    for secret in ["s3cret", "hidden1", "hidden2"] {
        assert!(!said.contains(secret), "{said}");
    }
    assert!(otlp.headers.iter().all(|(_, value)| value.is_sensitive()));
}

#[test]
fn numbers_that_do_not_parse_are_named_and_bounded() {
    let (config, warnings) = read(
        Component::Execd,
        &[
            ("OTEL_METRIC_EXPORT_INTERVAL", "soon"),
            ("OTEL_METRIC_EXPORT_TIMEOUT", "-1"),
            ("OTEL_BLRP_SCHEDULE_DELAY", "0"),
            ("OTEL_BLRP_EXPORT_TIMEOUT", "0"),
            ("OTEL_BLRP_MAX_QUEUE_SIZE", "1000000000"),
            ("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "70000"),
        ],
    );
    assert_eq!(config.metrics.interval, Duration::from_secs(60));
    assert_eq!(config.metrics.timeout, Duration::from_secs(30));
    assert_eq!(config.logs.schedule_delay, Duration::ZERO);
    assert_eq!(config.logs.export_timeout, Duration::from_secs(30));
    assert_eq!(config.logs.max_queue_size, MAX_LOG_QUEUE);
    assert_eq!(config.logs.max_export_batch_size, MAX_LOG_QUEUE);
    assert_eq!(warnings.len(), 5, "{warnings:?}");
}

#[test]
fn a_small_queue_limits_the_batch_without_a_word() {
    let config = clean(Component::Execd, &[("OTEL_BLRP_MAX_QUEUE_SIZE", "100")]);
    assert_eq!(config.logs.max_export_batch_size, 100);
}

#[test]
fn choices_that_do_not_exist_are_named() {
    let (config, warnings) = read(
        Component::Execd,
        &[
            ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://c:4318"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "carrier/pigeon"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "brotli"),
            ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "now"),
            (
                "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
                "best",
            ),
            ("OTEL_LOG_LEVEL", "shout"),
        ],
    );
    let otlp = config.metrics.otlp.expect("an endpoint");
    assert_eq!((otlp.protocol, otlp.gzip), (Protocol::HttpProtobuf, false));
    assert_eq!(config.metrics.temporality, Temporality::Cumulative);
    assert!(!config.metrics.exponential_histograms);
    assert_eq!(warnings.len(), 5, "{warnings:?}");
    assert!(
        warnings.iter().any(|w| w.contains("http/protobuf")),
        "{warnings:?}"
    );
}

#[test]
fn choices_are_read_without_case() {
    let config = clean(
        Component::Execd,
        &[
            ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "Delta"),
            (
                "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
                "base2_exponential_bucket_histogram",
            ),
            ("OTEL_LOG_LEVEL", "NONE"),
        ],
    );
    assert_eq!(config.metrics.temporality, Temporality::Delta);
    assert!(config.metrics.exponential_histograms);
    assert_eq!(config.diagnostics, Diagnostics::Off);
}

#[test]
fn the_service_name_has_its_precedence() {
    let attributes = ("OTEL_RESOURCE_ATTRIBUTES", "service.name=from-list,k=v");
    let config = clean(Component::Execd, &[attributes]);
    assert_eq!(config.service_name, "from-list");
    assert_eq!(
        config.resource_attributes,
        [("k".to_owned(), "v".to_owned())]
    );
    let config = clean(
        Component::Execd,
        &[attributes, ("OTEL_SERVICE_NAME", "own")],
    );
    assert_eq!(config.service_name, "own");
    let config = clean(
        Component::Execd,
        &[("OTEL_RESOURCE_ATTRIBUTES", "service.name=")],
    );
    assert!(config.service_name.starts_with("opensandbox-execd-"));
}

#[test]
fn resource_attributes_are_decoded_or_discarded_as_a_whole() {
    let config = clean(
        Component::Execd,
        &[(
            "OTEL_RESOURCE_ATTRIBUTES",
            " a = x%2Cy%20%C3%A4 , b=c=d, a=last,",
        )],
    );
    let expected = [("a", "last"), ("b", "c=d")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    assert_eq!(config.resource_attributes, expected);
    for wrong in ["a=1,b", "a=%", "a=%4", "a=%zz", "a=%ff", "=1"] {
        let (config, warnings) = read(Component::Execd, &[("OTEL_RESOURCE_ATTRIBUTES", wrong)]);
        assert!(config.resource_attributes.is_empty(), "{wrong}");
        assert_eq!(warnings.len(), 1, "{wrong}: {warnings:?}");
    }
}

#[test]
fn extra_attributes_are_trimmed_split_once_and_unique() {
    for (component, variable) in [
        (Component::Execd, "OPENSANDBOX_EXECD_METRICS_EXTRA_ATTRS"),
        (Component::Egress, "OPENSANDBOX_EGRESS_METRICS_EXTRA_ATTRS"),
        (
            Component::Ingress,
            "OPENSANDBOX_INGRESS_METRICS_EXTRA_ATTRS",
        ),
    ] {
        let text = " team = a ,region=eu=west, ,=x,y=,alone, team=b %20";
        let config = clean(component, &[(variable, text)]);
        let expected = [("team", "b %20"), ("region", "eu=west")];
        assert_eq!(
            config.extra_attributes,
            expected.map(|(k, v)| (k.to_owned(), v.to_owned()))
        );
    }
}

#[test]
fn the_sandbox_id_is_shared_and_cannot_be_replaced() {
    let (config, warnings) = read(
        Component::Egress,
        &[
            ("OPENSANDBOX_EGRESS_SANDBOX_ID", "sb-1"),
            (
                "OPENSANDBOX_EGRESS_METRICS_EXTRA_ATTRS",
                "sandbox_id=other,k=v",
            ),
        ],
    );
    let shared: Vec<_> = config.shared_attributes().collect();
    assert_eq!(shared, [("sandbox_id", "sb-1"), ("k", "v")]);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
}

#[test]
fn egress_falls_back_to_the_general_sandbox_id() {
    let general = ("OPENSANDBOX_ID", "general");
    let own = ("OPENSANDBOX_EGRESS_SANDBOX_ID", "own");
    let id = |component, pairs: &[_]| clean(component, pairs).sandbox_id;
    assert_eq!(
        id(Component::Egress, &[general]).as_deref(),
        Some("general")
    );
    assert_eq!(
        id(Component::Egress, &[general, own]).as_deref(),
        Some("own")
    );
    assert_eq!(id(Component::Execd, &[general]).as_deref(), Some("general"));
    assert_eq!(id(Component::Egress, &[]), None);
}

#[test]
fn the_node_fallback_is_asked_for_and_comes_last() {
    let on = ("OPENSANDBOX_OTLP_NODE_FALLBACK", "true");
    let url = |pairs: &[_], host_info| {
        let (config, warnings) = read_on(Component::Execd, pairs, host_info);
        assert!(warnings.is_empty(), "{warnings:?}");
        config.metrics.otlp.map(|otlp| otlp.endpoint.to_string())
    };
    let host_ip = ("HOST_IP", "10.1.2.3");
    assert_eq!(
        url(&[on, host_ip], Some("10.9.9.9")).as_deref(),
        Some("http://10.1.2.3:4318/v1/metrics")
    );
    assert_eq!(
        url(&[on], Some("node-7\n  10.9.9.9 10.8.8.8\n")).as_deref(),
        Some("http://10.9.9.9:4318/v1/metrics")
    );
    assert_eq!(
        url(&[on, ("HOST_IP", "fd00::1")], NODE).as_deref(),
        Some("http://[fd00::1]:4318/v1/metrics")
    );
    assert_eq!(
        url(
            &[on, host_ip, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")],
            NODE
        )
        .as_deref(),
        Some("http://10.1.2.3:4317/")
    );
    assert_eq!(url(&[on], Some("nothing here")), None);
    assert_eq!(url(&[on], NODE), None);
    assert_eq!(
        url(
            &[on, host_ip, ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:1")],
            NODE
        )
        .as_deref(),
        Some("http://c:1/v1/metrics")
    );
    let (config, warnings) = read_on(Component::Egress, &[on, host_ip], NODE);
    assert!(config.metrics.otlp.is_some() && config.logs.otlp.is_none());
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[test]
fn the_scrape_endpoint_listens_where_it_is_told() {
    let listen = |pairs: &[(&str, &str)]| {
        let all = [&[("OTEL_METRICS_EXPORTER", "prometheus")], pairs].concat();
        let (config, warnings) = read(Component::Execd, &all);
        (
            config.metrics.prometheus.expect("switched on"),
            warnings.len(),
        )
    };
    let localhost = || ["127.0.0.1", "::1"].map(|a| a.parse().unwrap()).to_vec();
    let host = |host| ("OTEL_EXPORTER_PROMETHEUS_HOST", host);
    assert_eq!(
        listen(&[]),
        (
            Prometheus {
                hosts: localhost(),
                port: 9464
            },
            0
        )
    );
    let (prometheus, warnings) = listen(&[host("0.0.0.0"), ("OTEL_EXPORTER_PROMETHEUS_PORT", "0")]);
    assert_eq!(
        (prometheus.hosts.len(), prometheus.port, warnings),
        (1, 0, 0)
    );
    assert_eq!(listen(&[host("[::]")]).1, 0);
    assert_eq!(
        listen(&[host("some.name")]),
        (
            Prometheus {
                hosts: localhost(),
                port: 9464
            },
            1
        )
    );
    let (prometheus, warnings) = listen(&[("OTEL_EXPORTER_PROMETHEUS_PORT", "70000")]);
    assert_eq!((prometheus.port, warnings), (9464, 1));
}

#[test]
fn the_http_keys_follow_the_opt_in() {
    for (value, expected) in [
        ("", HttpKeys::Proposal),
        ("database", HttpKeys::Proposal),
        ("http", HttpKeys::Stable),
        ("database, http/dup", HttpKeys::Both),
        ("http,http/dup", HttpKeys::Both),
    ] {
        let config = clean(
            Component::Ingress,
            &[("OTEL_SEMCONV_STABILITY_OPT_IN", value)],
        );
        assert_eq!(config.http_keys, expected, "{value:?}");
    }
}
