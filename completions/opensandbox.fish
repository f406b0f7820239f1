# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_opensandbox_global_optspecs
    string join \n list V/version h/help
end

function __fish_opensandbox_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_opensandbox_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_opensandbox_using_subcommand
    set -l cmd (__fish_opensandbox_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c opensandbox -n "__fish_opensandbox_needs_command" -l list -d 'Print the names of the applets'
complete -c opensandbox -n "__fish_opensandbox_needs_command" -s V -l version -d 'Print the version'
complete -c opensandbox -n "__fish_opensandbox_needs_command" -s h -l help -d 'Print help, of an applet with help APPLET'
complete -c opensandbox -n "__fish_opensandbox_needs_command" -f -a "execd" -d 'Runs commands, shells and terminals inside a sandbox, over HTTP'
complete -c opensandbox -n "__fish_opensandbox_needs_command" -f -a "egress" -d 'Decides by name what a sandbox may reach, and records it'
complete -c opensandbox -n "__fish_opensandbox_needs_command" -f -a "ingress" -d 'Passes requests on to the sandboxes they name'
complete -c opensandbox -n "__fish_opensandbox_needs_command" -f -a "supervisor" -d 'Keeps one worker running, as process 1 of a container or below it'
complete -c opensandbox -n "__fish_opensandbox_needs_command" -f -a "generate" -d 'Writes the manual pages or the shell completions of this program'
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l host -d 'IPv4 address the API listens on' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l port -d 'Port of the API; 0 means any that is free' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l access-token -d 'Token every request must carry as X-EXECD-ACCESS-TOKEN; empty leaves the API open. As a flag it is visible to all processes' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l access-token-file -d 'File that holds the token, one final newline dropped; the token given directly wins' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l envs -d 'File of NAME=value lines that is read for every command and adds to its environment' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l metrics-scope -d 'What GET /metrics tells of: host, or cgroup for the limits and the use of execd\'s own control group' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l drain-timeout -d 'How long requests under way may take to finish after SIGTERM before what they run is ended' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l end-children -d 'End commands, sessions and terminals when execd ends; otherwise they are left to themselves' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l clone3-compat -d 'Answer clone3 with ENOSYS, for old programs in old container runtimes: 1 or true, or reexec to start again below the filter' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l graceful-shutdown-timeout -d 'Accepted for compatibility: a stream ends with its last event and is not held open' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l jupyter-host -d 'URL of the Jupyter server that runs code' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l jupyter-token -d 'Token of the Jupyter server' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l jupyter-idle-poll-interval -d 'How often a Jupyter kernel is asked whether it is idle' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l log-level -d '0 to 2 nothing, 3 errors, 4 warnings, 5 and 6 information, 7 and more everything; SIGUSR1 and SIGUSR2 change it later' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l log-file -d 'File the log goes to, in preference to --log-output' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l log-output -d 'Where the log goes: comma list of stdout, stderr and file paths; files are rotated' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l sandbox-id -d 'Identifier of the sandbox, on every metric and log record' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l metrics-extra-attrs -d 'Attributes of every metric and log record, as key=value,key2=value2' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l otel-sdk-disabled -d 'Export nothing over OpenTelemetry; the log on standard output is unaffected' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l otel-metrics-exporter -d 'Comma list of otlp, console, prometheus, none; unset: otlp when a metrics endpoint is known' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l otel-logs-exporter -d 'Comma list of otlp, console, none; unset: otlp when a logs endpoint is known' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l otel-exporter-otlp-endpoint -d 'Base URL of the OTLP receiver; /v1/metrics and /v1/logs are appended for HTTP' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l otel-exporter-otlp-metrics-endpoint -d 'URL metrics are sent to, used as it is' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l otel-exporter-otlp-logs-endpoint -d 'URL logs are sent to, used as it is' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l otel-exporter-otlp-protocol -d 'http/protobuf, http/json or grpc' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l otel-exporter-otlp-metrics-protocol -d 'The protocol, for metrics only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l otel-exporter-otlp-logs-protocol -d 'The protocol, for logs only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l otel-exporter-otlp-headers -d 'Headers of every export, as key=value,key2=value2, percent-encoded' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l otel-exporter-otlp-metrics-headers -d 'The headers, for metrics only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l otel-exporter-otlp-logs-headers -d 'The headers, for logs only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l otel-exporter-otlp-timeout -d 'Longest time one batch may take, retries included, in milliseconds' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l otel-exporter-otlp-metrics-timeout -d 'The timeout, for metrics only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l otel-exporter-otlp-logs-timeout -d 'The timeout, for logs only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l otel-exporter-otlp-compression -d 'gzip or none' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l otel-exporter-otlp-metrics-compression -d 'The compression, for metrics only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l otel-exporter-otlp-logs-compression -d 'The compression, for logs only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l otel-exporter-otlp-insecure -d 'false: a gRPC endpoint without a scheme uses TLS' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l otel-exporter-otlp-metrics-insecure -d 'The same, for metrics only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l otel-exporter-otlp-logs-insecure -d 'The same, for logs only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l otel-exporter-otlp-certificate -d 'File with the trusted certificates of the receiver, PEM' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l otel-exporter-otlp-metrics-certificate -d 'The same, for metrics only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l otel-exporter-otlp-logs-certificate -d 'The same, for logs only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l otel-exporter-otlp-client-certificate -d 'File with the client certificate chain, PEM' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l otel-exporter-otlp-metrics-client-certificate -d 'The same, for metrics only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l otel-exporter-otlp-logs-client-certificate -d 'The same, for logs only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l otel-exporter-otlp-client-key -d 'File with the client\'s private key, PEM' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l otel-exporter-otlp-metrics-client-key -d 'The same, for metrics only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l otel-exporter-otlp-logs-client-key -d 'The same, for logs only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l otel-service-name -d 'service.name of the resource; unset: opensandbox-<component>-<version>' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l otel-resource-attributes -d 'Attributes of the resource, as key=value,key2=value2, percent-encoded' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l otel-metric-export-interval -d 'Milliseconds between two metric exports' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l otel-metric-export-timeout -d 'Longest time one metric export may take, in milliseconds' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l otel-blrp-schedule-delay -d 'Longest time a log record waits for its batch, in milliseconds' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l otel-blrp-export-timeout -d 'Longest time one log export may take, in milliseconds' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l otel-blrp-max-queue-size -d 'Log records that may wait for export; further ones are dropped and counted' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l otel-blrp-max-export-batch-size -d 'Log records in one export' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l otel-exporter-otlp-metrics-temporality-preference -d 'cumulative, delta or lowmemory' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l otel-exporter-otlp-metrics-default-histogram-aggregation -d 'explicit_bucket_histogram or base2_exponential_bucket_histogram' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l otel-exporter-prometheus-host -d 'Address the scrape endpoint listens on' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l otel-exporter-prometheus-port -d 'Port the scrape endpoint listens on' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l otel-semconv-stability-opt-in -d 'http: the stable HTTP attribute keys; http/dup: both' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l otel-log-level -d 'Verbosity of the OpenTelemetry SDK about itself: none, error, warn, info, debug, trace' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l otlp-node-fallback -d 'With no endpoint set, export to port 4318 of the node (HOST_IP, else /etc/hostinfo)' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l host-ip -d 'Address of the node, for the node fallback' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l config -d 'TOML file of settings, keys named like the flags; variables and flags win over it' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l banner -d 'Print version and platform on standard output before the first log line' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -l print-config -d 'Print every setting with its value and origin, secrets masked, and exit'
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -s V -l version -d 'Print the version'
complete -c opensandbox -n "__fish_opensandbox_using_subcommand execd" -s h -l help -d 'Print help'
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l mode -d 'How the policy is enforced. `dns`: DNS answers decide, and port 53 is redirected to the filter' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l rules -d 'Initial policy as JSON; without one everything is denied' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l policy-file -d 'File the policy is loaded from, in preference to the rules, and saved to after each change over the API' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l rules-dir -d 'Directory of deny.always, allow.always and log_skip.always' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l rules-interval -d 'Seconds between looks at the files of the rules directory, 1 to 3600' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l max-rules -d 'Most rules a policy set over the API may have; 0 lifts the limit' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l http-addr -d 'Listen address of the policy API; an empty host means every interface, both families' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l token -d 'Token clients of the policy API must send as OPENSANDBOX-EGRESS-AUTH; empty leaves the API open' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l token-file -d 'File that holds the token, one final newline dropped; the token given directly wins' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l dns-port -d 'Loopback port of the DNS filter, on 127.0.0.1 and ::1, UDP and TCP' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l dns-upstream -d 'Upstream resolvers, comma list of literal addresses with optional port; unset: the nameservers of /etc/resolv.conf at the start' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l dns-upstream-follow -d 'Follow /etc/resolv.conf as it changes; only where the workload cannot write the same file' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l dns-upstream-timeout -d 'Seconds a query may wait for an upstream, 1 to 120' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l dns-upstream-probe -d 'Name the health probe asks for: the root asks for NS, any other name for A' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l dns-upstream-probe-interval -d 'Seconds between health probes, 1 to 3600' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l nameserver-exempt -d 'Resolver addresses the workload may ask directly, past the policy; comma list of literal addresses' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l deny-webhook -d 'URL that is told of each denied query; shown nowhere, as such addresses often carry a key' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l allow-unenforced -d 'Start without CAP_NET_ADMIN: names are filtered only for clients that ask the filter by themselves' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l teardown-on-exit -d 'Remove the kernel\'s redirect at a graceful stop; by default it stays, and DNS stays closed' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l log-level -d 'debug, info, warn, error, or fatal for silence; SIGUSR1 and SIGUSR2 change it later' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l log-rules-max -d 'Most rules a log record lists; a longer list is logged as its digest and count' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l log-output -d 'Where the log goes: comma list of stdout, stderr and file paths; files are rotated' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l sandbox-id -d 'Identifier of the sandbox, on every metric and log record' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l fallback-sandbox-id -d 'Identifier of the sandbox when --sandbox-id is not given' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l metrics-extra-attrs -d 'Attributes of every metric and log record, as key=value,key2=value2' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l otel-sdk-disabled -d 'Export nothing over OpenTelemetry; the log on standard output is unaffected' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l otel-metrics-exporter -d 'Comma list of otlp, console, prometheus, none; unset: otlp when a metrics endpoint is known' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l otel-logs-exporter -d 'Comma list of otlp, console, none; unset: otlp when a logs endpoint is known' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l otel-exporter-otlp-endpoint -d 'Base URL of the OTLP receiver; /v1/metrics and /v1/logs are appended for HTTP' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l otel-exporter-otlp-metrics-endpoint -d 'URL metrics are sent to, used as it is' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l otel-exporter-otlp-logs-endpoint -d 'URL logs are sent to, used as it is' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l otel-exporter-otlp-protocol -d 'http/protobuf, http/json or grpc' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l otel-exporter-otlp-metrics-protocol -d 'The protocol, for metrics only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l otel-exporter-otlp-logs-protocol -d 'The protocol, for logs only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l otel-exporter-otlp-headers -d 'Headers of every export, as key=value,key2=value2, percent-encoded' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l otel-exporter-otlp-metrics-headers -d 'The headers, for metrics only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l otel-exporter-otlp-logs-headers -d 'The headers, for logs only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l otel-exporter-otlp-timeout -d 'Longest time one batch may take, retries included, in milliseconds' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l otel-exporter-otlp-metrics-timeout -d 'The timeout, for metrics only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l otel-exporter-otlp-logs-timeout -d 'The timeout, for logs only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l otel-exporter-otlp-compression -d 'gzip or none' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l otel-exporter-otlp-metrics-compression -d 'The compression, for metrics only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l otel-exporter-otlp-logs-compression -d 'The compression, for logs only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l otel-exporter-otlp-insecure -d 'false: a gRPC endpoint without a scheme uses TLS' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l otel-exporter-otlp-metrics-insecure -d 'The same, for metrics only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l otel-exporter-otlp-logs-insecure -d 'The same, for logs only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l otel-exporter-otlp-certificate -d 'File with the trusted certificates of the receiver, PEM' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l otel-exporter-otlp-metrics-certificate -d 'The same, for metrics only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l otel-exporter-otlp-logs-certificate -d 'The same, for logs only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l otel-exporter-otlp-client-certificate -d 'File with the client certificate chain, PEM' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l otel-exporter-otlp-metrics-client-certificate -d 'The same, for metrics only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l otel-exporter-otlp-logs-client-certificate -d 'The same, for logs only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l otel-exporter-otlp-client-key -d 'File with the client\'s private key, PEM' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l otel-exporter-otlp-metrics-client-key -d 'The same, for metrics only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l otel-exporter-otlp-logs-client-key -d 'The same, for logs only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l otel-service-name -d 'service.name of the resource; unset: opensandbox-<component>-<version>' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l otel-resource-attributes -d 'Attributes of the resource, as key=value,key2=value2, percent-encoded' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l otel-metric-export-interval -d 'Milliseconds between two metric exports' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l otel-metric-export-timeout -d 'Longest time one metric export may take, in milliseconds' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l otel-blrp-schedule-delay -d 'Longest time a log record waits for its batch, in milliseconds' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l otel-blrp-export-timeout -d 'Longest time one log export may take, in milliseconds' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l otel-blrp-max-queue-size -d 'Log records that may wait for export; further ones are dropped and counted' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l otel-blrp-max-export-batch-size -d 'Log records in one export' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l otel-exporter-otlp-metrics-temporality-preference -d 'cumulative, delta or lowmemory' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l otel-exporter-otlp-metrics-default-histogram-aggregation -d 'explicit_bucket_histogram or base2_exponential_bucket_histogram' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l otel-exporter-prometheus-host -d 'Address the scrape endpoint listens on' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l otel-exporter-prometheus-port -d 'Port the scrape endpoint listens on' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l otel-semconv-stability-opt-in -d 'http: the stable HTTP attribute keys; http/dup: both' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l otel-log-level -d 'Verbosity of the OpenTelemetry SDK about itself: none, error, warn, info, debug, trace' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l otlp-node-fallback -d 'With no endpoint set, export to port 4318 of the node (HOST_IP, else /etc/hostinfo)' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l host-ip -d 'Address of the node, for the node fallback' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l config -d 'TOML file of settings, keys named like the flags; variables and flags win over it' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l banner -d 'Print version and platform on standard output before the first log line' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -l print-config -d 'Print every setting with its value and origin, secrets masked, and exit'
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -s V -l version -d 'Print the version'
complete -c opensandbox -n "__fish_opensandbox_using_subcommand egress" -s h -l help -d 'Print help'
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l port -d 'Port to listen on; 0 lets the system choose' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l address -d 'Address to listen on; without one every interface, both families' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l mode -d 'Where routes are found: `header`, which is the header OpenSandbox-Ingress-To, else the host (`host` and `wildcard` mean the same), or `uri`' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l namespace -d 'Means nothing and is accepted because charts pass it: sandboxes are found in all namespaces' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l secure-access-keys -d 'Keys that signed routes are verified with, comma list of key_id=base64; the command line of a process can be read by others' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l secure-access-keys-file -d 'File that holds the keys, separated by commas or line ends; read again when it changes; keys given directly win' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l allowed-ports -d 'Ports of sandboxes that can be reached, comma list of ports and ranges such as 80,8000-8999; without one all' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l denied-ports -d 'Ports of sandboxes that cannot be reached, whatever is allowed' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l trusted-proxies -d 'Whose X-Forwarded-For and X-Real-IP count, comma list of addresses and networks; without one everybody\'s' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l max-connections -d 'Most client connections at once; further ones wait in the kernel' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l connection-lifetime -d 'How old the connection of a client may get before it ends with the exchange under way or, without one, with the next; up to a tenth less, so that not all end at once; 0 is any age' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l response-timeout -d 'How long a sandbox may take to begin its answer, such as 5m; 0 is any time' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l tunnel-idle-timeout -d 'How long a WebSocket or another tunnel may be silent; 0 is any time' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l tunnel-lifetime -d 'How long a WebSocket or another tunnel may last; 0 is any time' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l drain-delay -d 'How long new requests are still taken after SIGTERM, while /status.ok says that this is over' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l drain-timeout -d 'How long requests under way may take after the drain delay' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l renew-intent-enabled -d 'Tell the server through Redis which sandboxes are in use, so that it renews them' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l renew-intent-redis-dsn -d 'Redis, as redis://, rediss:// (TLS) or unix:// URL' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l renew-intent-redis-ca-file -d 'Authorities trusted to certify Redis, in PEM; without one the public ones' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l renew-intent-queue-key -d 'The list in Redis' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l renew-intent-queue-max-len -d 'How long the list may grow before its oldest elements are cut off; 0 is any length' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l renew-intent-min-interval -d 'Least seconds between two intents for one sandbox; 0 is none' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l log-level -d 'debug, info, warn, error, or fatal for silence; SIGUSR1 and SIGUSR2 change it later' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l listen-pid -d 'The process that listening sockets are handed to; set by systemd' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l listen-fds -d 'How many listening sockets are handed over; set by systemd, and used in the place of --port' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l provider-type -d 'Where sandboxes are found: `batchsandbox` or `agent-sandbox` objects of Kubernetes, or `static`, the file given with --routes' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l routes -d 'File of sandboxes for provider type static, TOML or (.json) JSON; read again when it changes' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l kubeconfig -d 'Kubeconfig file; without one $HOME/.kube/config, else the service account of the pod' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l server -d 'Address of the Kubernetes API server, instead of the one in the kubeconfig' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l cluster -d 'Cluster of the kubeconfig to use, instead of the one of its current context' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l kube-api-qps -d 'Requests to the Kubernetes API server per second, on average; 0 is the default' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l kube-api-burst -d 'Requests to the Kubernetes API server at once; 0 is the default' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l home -d 'Home directory, where .kube/config is looked for' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l kubernetes-service-host -d 'Address of the API server as the pod is told it' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l kubernetes-service-port -d 'Port of the API server as the pod is told it' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l log-output -d 'Where the log goes: comma list of stdout, stderr and file paths; files are rotated' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l metrics-extra-attrs -d 'Attributes of every metric and log record, as key=value,key2=value2' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l otel-sdk-disabled -d 'Export nothing over OpenTelemetry; the log on standard output is unaffected' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l otel-metrics-exporter -d 'Comma list of otlp, console, prometheus, none; unset: otlp when a metrics endpoint is known' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l otel-logs-exporter -d 'Comma list of otlp, console, none; unset: otlp when a logs endpoint is known' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l otel-exporter-otlp-endpoint -d 'Base URL of the OTLP receiver; /v1/metrics and /v1/logs are appended for HTTP' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l otel-exporter-otlp-metrics-endpoint -d 'URL metrics are sent to, used as it is' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l otel-exporter-otlp-logs-endpoint -d 'URL logs are sent to, used as it is' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l otel-exporter-otlp-protocol -d 'http/protobuf, http/json or grpc' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l otel-exporter-otlp-metrics-protocol -d 'The protocol, for metrics only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l otel-exporter-otlp-logs-protocol -d 'The protocol, for logs only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l otel-exporter-otlp-headers -d 'Headers of every export, as key=value,key2=value2, percent-encoded' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l otel-exporter-otlp-metrics-headers -d 'The headers, for metrics only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l otel-exporter-otlp-logs-headers -d 'The headers, for logs only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l otel-exporter-otlp-timeout -d 'Longest time one batch may take, retries included, in milliseconds' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l otel-exporter-otlp-metrics-timeout -d 'The timeout, for metrics only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l otel-exporter-otlp-logs-timeout -d 'The timeout, for logs only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l otel-exporter-otlp-compression -d 'gzip or none' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l otel-exporter-otlp-metrics-compression -d 'The compression, for metrics only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l otel-exporter-otlp-logs-compression -d 'The compression, for logs only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l otel-exporter-otlp-insecure -d 'false: a gRPC endpoint without a scheme uses TLS' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l otel-exporter-otlp-metrics-insecure -d 'The same, for metrics only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l otel-exporter-otlp-logs-insecure -d 'The same, for logs only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l otel-exporter-otlp-certificate -d 'File with the trusted certificates of the receiver, PEM' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l otel-exporter-otlp-metrics-certificate -d 'The same, for metrics only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l otel-exporter-otlp-logs-certificate -d 'The same, for logs only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l otel-exporter-otlp-client-certificate -d 'File with the client certificate chain, PEM' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l otel-exporter-otlp-metrics-client-certificate -d 'The same, for metrics only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l otel-exporter-otlp-logs-client-certificate -d 'The same, for logs only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l otel-exporter-otlp-client-key -d 'File with the client\'s private key, PEM' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l otel-exporter-otlp-metrics-client-key -d 'The same, for metrics only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l otel-exporter-otlp-logs-client-key -d 'The same, for logs only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l otel-service-name -d 'service.name of the resource; unset: opensandbox-<component>-<version>' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l otel-resource-attributes -d 'Attributes of the resource, as key=value,key2=value2, percent-encoded' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l otel-metric-export-interval -d 'Milliseconds between two metric exports' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l otel-metric-export-timeout -d 'Longest time one metric export may take, in milliseconds' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l otel-blrp-schedule-delay -d 'Longest time a log record waits for its batch, in milliseconds' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l otel-blrp-export-timeout -d 'Longest time one log export may take, in milliseconds' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l otel-blrp-max-queue-size -d 'Log records that may wait for export; further ones are dropped and counted' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l otel-blrp-max-export-batch-size -d 'Log records in one export' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l otel-exporter-otlp-metrics-temporality-preference -d 'cumulative, delta or lowmemory' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l otel-exporter-otlp-metrics-default-histogram-aggregation -d 'explicit_bucket_histogram or base2_exponential_bucket_histogram' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l otel-exporter-prometheus-host -d 'Address the scrape endpoint listens on' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l otel-exporter-prometheus-port -d 'Port the scrape endpoint listens on' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l otel-semconv-stability-opt-in -d 'http: the stable HTTP attribute keys; http/dup: both' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l otel-log-level -d 'Verbosity of the OpenTelemetry SDK about itself: none, error, warn, info, debug, trace' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l otlp-node-fallback -d 'With no endpoint set, export to port 4318 of the node (HOST_IP, else /etc/hostinfo)' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l host-ip -d 'Address of the node, for the node fallback' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l config -d 'TOML file of settings, keys named like the flags; variables and flags win over it' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l banner -d 'Print version and platform on standard output before the first log line' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -l print-config -d 'Print every setting with its value and origin, secrets masked, and exit'
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -s V -l version -d 'Print the version'
complete -c opensandbox -n "__fish_opensandbox_using_subcommand ingress" -s h -l help -d 'Print help'
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l name -d 'Name of the worker in events; unset: the file name of its command' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l pre-start -d 'Executables run before each launch, without arguments or a shell; may be repeated' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l post-exit -d 'Executables run after each end of the worker, with WORKER_* variables; may be repeated' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l pre-start-timeout -d 'Time each pre-start hook has before it is killed' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l post-exit-timeout -d 'Time each post-exit hook has before it is killed' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l grace-period -d 'Time the worker has to end after SIGTERM before its process group is killed' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l forward-signals -d 'Signals passed on to the worker, of HUP, QUIT, USR1, USR2, WINCH' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l backoff-min -d 'Pause before the first restart; it doubles with each further one' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l backoff-max -d 'Longest pause before a restart' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l backoff-jitter -d 'Random share by which a pause is shortened or lengthened; 0: none' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l stable-after -d 'Run time after which the pause begins at its minimum again' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l burst-window -d 'Time within which launches count as a crash loop' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l burst-max -d 'Launches within the window that make a crash loop' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l on-burst-exit -d 'End with exit code 1 on a crash loop instead of restarting for ever' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l event-log -d 'File of events, one JSON object a line, rotated; unset: standard error' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l log-level -d 'How much is logged: debug, info, warn, error' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l log-output -d 'Where the log goes: comma list of stdout, stderr and file paths; files are rotated' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l otel-sdk-disabled -d 'Export nothing over OpenTelemetry; the log on standard output is unaffected' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l otel-metrics-exporter -d 'Comma list of otlp, console, prometheus, none; unset: otlp when a metrics endpoint is known' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l otel-logs-exporter -d 'Comma list of otlp, console, none; unset: otlp when a logs endpoint is known' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l otel-exporter-otlp-endpoint -d 'Base URL of the OTLP receiver; /v1/metrics and /v1/logs are appended for HTTP' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l otel-exporter-otlp-metrics-endpoint -d 'URL metrics are sent to, used as it is' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l otel-exporter-otlp-logs-endpoint -d 'URL logs are sent to, used as it is' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l otel-exporter-otlp-protocol -d 'http/protobuf, http/json or grpc' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l otel-exporter-otlp-metrics-protocol -d 'The protocol, for metrics only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l otel-exporter-otlp-logs-protocol -d 'The protocol, for logs only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l otel-exporter-otlp-headers -d 'Headers of every export, as key=value,key2=value2, percent-encoded' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l otel-exporter-otlp-metrics-headers -d 'The headers, for metrics only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l otel-exporter-otlp-logs-headers -d 'The headers, for logs only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l otel-exporter-otlp-timeout -d 'Longest time one batch may take, retries included, in milliseconds' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l otel-exporter-otlp-metrics-timeout -d 'The timeout, for metrics only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l otel-exporter-otlp-logs-timeout -d 'The timeout, for logs only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l otel-exporter-otlp-compression -d 'gzip or none' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l otel-exporter-otlp-metrics-compression -d 'The compression, for metrics only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l otel-exporter-otlp-logs-compression -d 'The compression, for logs only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l otel-exporter-otlp-insecure -d 'false: a gRPC endpoint without a scheme uses TLS' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l otel-exporter-otlp-metrics-insecure -d 'The same, for metrics only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l otel-exporter-otlp-logs-insecure -d 'The same, for logs only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l otel-exporter-otlp-certificate -d 'File with the trusted certificates of the receiver, PEM' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l otel-exporter-otlp-metrics-certificate -d 'The same, for metrics only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l otel-exporter-otlp-logs-certificate -d 'The same, for logs only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l otel-exporter-otlp-client-certificate -d 'File with the client certificate chain, PEM' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l otel-exporter-otlp-metrics-client-certificate -d 'The same, for metrics only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l otel-exporter-otlp-logs-client-certificate -d 'The same, for logs only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l otel-exporter-otlp-client-key -d 'File with the client\'s private key, PEM' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l otel-exporter-otlp-metrics-client-key -d 'The same, for metrics only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l otel-exporter-otlp-logs-client-key -d 'The same, for logs only' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l otel-service-name -d 'service.name of the resource; unset: opensandbox-<component>-<version>' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l otel-resource-attributes -d 'Attributes of the resource, as key=value,key2=value2, percent-encoded' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l otel-metric-export-interval -d 'Milliseconds between two metric exports' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l otel-metric-export-timeout -d 'Longest time one metric export may take, in milliseconds' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l otel-blrp-schedule-delay -d 'Longest time a log record waits for its batch, in milliseconds' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l otel-blrp-export-timeout -d 'Longest time one log export may take, in milliseconds' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l otel-blrp-max-queue-size -d 'Log records that may wait for export; further ones are dropped and counted' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l otel-blrp-max-export-batch-size -d 'Log records in one export' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l otel-exporter-otlp-metrics-temporality-preference -d 'cumulative, delta or lowmemory' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l otel-exporter-otlp-metrics-default-histogram-aggregation -d 'explicit_bucket_histogram or base2_exponential_bucket_histogram' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l otel-exporter-prometheus-host -d 'Address the scrape endpoint listens on' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l otel-exporter-prometheus-port -d 'Port the scrape endpoint listens on' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l otel-semconv-stability-opt-in -d 'http: the stable HTTP attribute keys; http/dup: both' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l otel-log-level -d 'Verbosity of the OpenTelemetry SDK about itself: none, error, warn, info, debug, trace' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l otlp-node-fallback -d 'With no endpoint set, export to port 4318 of the node (HOST_IP, else /etc/hostinfo)' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l host-ip -d 'Address of the node, for the node fallback' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l config -d 'TOML file of settings, keys named like the flags; variables and flags win over it' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l banner -d 'Print version and platform on standard output before the first log line' -r
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -l print-config -d 'Print every setting with its value and origin, secrets masked, and exit'
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -s V -l version -d 'Print the version'
complete -c opensandbox -n "__fish_opensandbox_using_subcommand supervisor" -s h -l help -d 'Print help'
complete -c opensandbox -n "__fish_opensandbox_using_subcommand generate" -s V -l version -d 'Print the version'
complete -c opensandbox -n "__fish_opensandbox_using_subcommand generate" -s h -l help -d 'Print help'
