_opensandbox() {
    local i cur prev opts cmd
    COMPREPLY=()
    if [[ "${BASH_VERSINFO[0]}" -ge 4 ]]; then
        cur="$2"
    else
        cur="${COMP_WORDS[COMP_CWORD]}"
    fi
    prev="$3"
    cmd=""
    opts=""

    for i in "${COMP_WORDS[@]:0:COMP_CWORD}"
    do
        case "${cmd},${i}" in
            ",$1")
                cmd="opensandbox"
                ;;
            opensandbox,egress)
                cmd="opensandbox__subcmd__egress"
                ;;
            opensandbox,execd)
                cmd="opensandbox__subcmd__execd"
                ;;
            opensandbox,generate)
                cmd="opensandbox__subcmd__generate"
                ;;
            opensandbox,ingress)
                cmd="opensandbox__subcmd__ingress"
                ;;
            opensandbox,supervisor)
                cmd="opensandbox__subcmd__supervisor"
                ;;
            *)
                ;;
        esac
    done

    case "${cmd}" in
        opensandbox)
            opts="-V -h --list --version --help execd egress ingress supervisor generate"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 1 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        opensandbox__subcmd__egress)
            opts="-V -h --mode --rules --policy-file --rules-dir --rules-interval --max-rules --http-addr --token --token-file --dns-port --dns-upstream --dns-upstream-follow --dns-upstream-timeout --dns-upstream-probe --dns-upstream-probe-interval --nameserver-exempt --deny-webhook --allow-unenforced --teardown-on-exit --log-level --log-rules-max --log-output --sandbox-id --fallback-sandbox-id --metrics-extra-attrs --otel-sdk-disabled --otel-metrics-exporter --otel-logs-exporter --otel-exporter-otlp-endpoint --otel-exporter-otlp-metrics-endpoint --otel-exporter-otlp-logs-endpoint --otel-exporter-otlp-protocol --otel-exporter-otlp-metrics-protocol --otel-exporter-otlp-logs-protocol --otel-exporter-otlp-headers --otel-exporter-otlp-metrics-headers --otel-exporter-otlp-logs-headers --otel-exporter-otlp-timeout --otel-exporter-otlp-metrics-timeout --otel-exporter-otlp-logs-timeout --otel-exporter-otlp-compression --otel-exporter-otlp-metrics-compression --otel-exporter-otlp-logs-compression --otel-exporter-otlp-insecure --otel-exporter-otlp-metrics-insecure --otel-exporter-otlp-logs-insecure --otel-exporter-otlp-certificate --otel-exporter-otlp-metrics-certificate --otel-exporter-otlp-logs-certificate --otel-exporter-otlp-client-certificate --otel-exporter-otlp-metrics-client-certificate --otel-exporter-otlp-logs-client-certificate --otel-exporter-otlp-client-key --otel-exporter-otlp-metrics-client-key --otel-exporter-otlp-logs-client-key --otel-service-name --otel-resource-attributes --otel-metric-export-interval --otel-metric-export-timeout --otel-blrp-schedule-delay --otel-blrp-export-timeout --otel-blrp-max-queue-size --otel-blrp-max-export-batch-size --otel-exporter-otlp-metrics-temporality-preference --otel-exporter-otlp-metrics-default-histogram-aggregation --otel-exporter-prometheus-host --otel-exporter-prometheus-port --otel-semconv-stability-opt-in --otel-log-level --otlp-node-fallback --host-ip --config --banner --print-config --version --help"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 2 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --mode)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --rules)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --policy-file)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --rules-dir)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --rules-interval)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --max-rules)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --http-addr)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --token)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --token-file)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --dns-port)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --dns-upstream)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --dns-upstream-follow)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --dns-upstream-timeout)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --dns-upstream-probe)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --dns-upstream-probe-interval)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --nameserver-exempt)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --deny-webhook)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --allow-unenforced)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --teardown-on-exit)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --log-level)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --log-rules-max)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --log-output)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --sandbox-id)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --fallback-sandbox-id)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --metrics-extra-attrs)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-sdk-disabled)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-metrics-exporter)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-logs-exporter)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-endpoint)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-metrics-endpoint)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-logs-endpoint)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-protocol)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-metrics-protocol)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-logs-protocol)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-headers)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-metrics-headers)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-logs-headers)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-timeout)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-metrics-timeout)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-logs-timeout)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-compression)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-metrics-compression)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-logs-compression)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-insecure)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-metrics-insecure)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-logs-insecure)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-certificate)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-metrics-certificate)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-logs-certificate)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-client-certificate)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-metrics-client-certificate)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-logs-client-certificate)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-client-key)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-metrics-client-key)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-logs-client-key)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-service-name)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-resource-attributes)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-metric-export-interval)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-metric-export-timeout)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-blrp-schedule-delay)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-blrp-export-timeout)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-blrp-max-queue-size)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-blrp-max-export-batch-size)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-metrics-temporality-preference)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-metrics-default-histogram-aggregation)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-prometheus-host)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-prometheus-port)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-semconv-stability-opt-in)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-log-level)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otlp-node-fallback)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --host-ip)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --config)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --banner)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        opensandbox__subcmd__execd)
            opts="-V -h --host --port --access-token --access-token-file --envs --metrics-scope --drain-timeout --end-children --clone3-compat --graceful-shutdown-timeout --jupyter-host --jupyter-token --jupyter-idle-poll-interval --log-level --log-file --log-output --sandbox-id --metrics-extra-attrs --otel-sdk-disabled --otel-metrics-exporter --otel-logs-exporter --otel-exporter-otlp-endpoint --otel-exporter-otlp-metrics-endpoint --otel-exporter-otlp-logs-endpoint --otel-exporter-otlp-protocol --otel-exporter-otlp-metrics-protocol --otel-exporter-otlp-logs-protocol --otel-exporter-otlp-headers --otel-exporter-otlp-metrics-headers --otel-exporter-otlp-logs-headers --otel-exporter-otlp-timeout --otel-exporter-otlp-metrics-timeout --otel-exporter-otlp-logs-timeout --otel-exporter-otlp-compression --otel-exporter-otlp-metrics-compression --otel-exporter-otlp-logs-compression --otel-exporter-otlp-insecure --otel-exporter-otlp-metrics-insecure --otel-exporter-otlp-logs-insecure --otel-exporter-otlp-certificate --otel-exporter-otlp-metrics-certificate --otel-exporter-otlp-logs-certificate --otel-exporter-otlp-client-certificate --otel-exporter-otlp-metrics-client-certificate --otel-exporter-otlp-logs-client-certificate --otel-exporter-otlp-client-key --otel-exporter-otlp-metrics-client-key --otel-exporter-otlp-logs-client-key --otel-service-name --otel-resource-attributes --otel-metric-export-interval --otel-metric-export-timeout --otel-blrp-schedule-delay --otel-blrp-export-timeout --otel-blrp-max-queue-size --otel-blrp-max-export-batch-size --otel-exporter-otlp-metrics-temporality-preference --otel-exporter-otlp-metrics-default-histogram-aggregation --otel-exporter-prometheus-host --otel-exporter-prometheus-port --otel-semconv-stability-opt-in --otel-log-level --otlp-node-fallback --host-ip --config --banner --print-config --version --help"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 2 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --host)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --port)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --access-token)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --access-token-file)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --envs)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --metrics-scope)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --drain-timeout)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --end-children)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --clone3-compat)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --graceful-shutdown-timeout)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --jupyter-host)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --jupyter-token)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --jupyter-idle-poll-interval)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --log-level)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --log-file)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --log-output)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --sandbox-id)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --metrics-extra-attrs)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-sdk-disabled)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-metrics-exporter)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-logs-exporter)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-endpoint)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-metrics-endpoint)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-logs-endpoint)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-protocol)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-metrics-protocol)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-logs-protocol)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-headers)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-metrics-headers)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-logs-headers)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-timeout)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-metrics-timeout)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-logs-timeout)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-compression)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-metrics-compression)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-logs-compression)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-insecure)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-metrics-insecure)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-logs-insecure)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-certificate)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-metrics-certificate)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-logs-certificate)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-client-certificate)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-metrics-client-certificate)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-logs-client-certificate)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-client-key)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-metrics-client-key)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-logs-client-key)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-service-name)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-resource-attributes)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-metric-export-interval)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-metric-export-timeout)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-blrp-schedule-delay)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-blrp-export-timeout)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-blrp-max-queue-size)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-blrp-max-export-batch-size)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-metrics-temporality-preference)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-metrics-default-histogram-aggregation)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-prometheus-host)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-prometheus-port)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-semconv-stability-opt-in)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-log-level)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otlp-node-fallback)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --host-ip)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --config)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --banner)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        opensandbox__subcmd__generate)
            opts="-V -h --version --help man completions"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 2 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        opensandbox__subcmd__ingress)
            opts="-V -h --port --address --mode --namespace --secure-access-keys --secure-access-keys-file --allowed-ports --denied-ports --trusted-proxies --max-connections --connection-lifetime --response-timeout --tunnel-idle-timeout --tunnel-lifetime --drain-delay --drain-timeout --renew-intent-enabled --renew-intent-redis-dsn --renew-intent-redis-ca-file --renew-intent-queue-key --renew-intent-queue-max-len --renew-intent-min-interval --log-level --listen-pid --listen-fds --provider-type --routes --kubeconfig --server --cluster --kube-api-qps --kube-api-burst --home --kubernetes-service-host --kubernetes-service-port --log-output --metrics-extra-attrs --otel-sdk-disabled --otel-metrics-exporter --otel-logs-exporter --otel-exporter-otlp-endpoint --otel-exporter-otlp-metrics-endpoint --otel-exporter-otlp-logs-endpoint --otel-exporter-otlp-protocol --otel-exporter-otlp-metrics-protocol --otel-exporter-otlp-logs-protocol --otel-exporter-otlp-headers --otel-exporter-otlp-metrics-headers --otel-exporter-otlp-logs-headers --otel-exporter-otlp-timeout --otel-exporter-otlp-metrics-timeout --otel-exporter-otlp-logs-timeout --otel-exporter-otlp-compression --otel-exporter-otlp-metrics-compression --otel-exporter-otlp-logs-compression --otel-exporter-otlp-insecure --otel-exporter-otlp-metrics-insecure --otel-exporter-otlp-logs-insecure --otel-exporter-otlp-certificate --otel-exporter-otlp-metrics-certificate --otel-exporter-otlp-logs-certificate --otel-exporter-otlp-client-certificate --otel-exporter-otlp-metrics-client-certificate --otel-exporter-otlp-logs-client-certificate --otel-exporter-otlp-client-key --otel-exporter-otlp-metrics-client-key --otel-exporter-otlp-logs-client-key --otel-service-name --otel-resource-attributes --otel-metric-export-interval --otel-metric-export-timeout --otel-blrp-schedule-delay --otel-blrp-export-timeout --otel-blrp-max-queue-size --otel-blrp-max-export-batch-size --otel-exporter-otlp-metrics-temporality-preference --otel-exporter-otlp-metrics-default-histogram-aggregation --otel-exporter-prometheus-host --otel-exporter-prometheus-port --otel-semconv-stability-opt-in --otel-log-level --otlp-node-fallback --host-ip --config --banner --print-config --version --help"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 2 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --port)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --address)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --mode)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --namespace)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --secure-access-keys)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --secure-access-keys-file)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --allowed-ports)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --denied-ports)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --trusted-proxies)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --max-connections)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --connection-lifetime)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --response-timeout)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --tunnel-idle-timeout)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --tunnel-lifetime)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --drain-delay)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --drain-timeout)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --renew-intent-enabled)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --renew-intent-redis-dsn)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --renew-intent-redis-ca-file)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --renew-intent-queue-key)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --renew-intent-queue-max-len)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --renew-intent-min-interval)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --log-level)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --listen-pid)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --listen-fds)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --provider-type)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --routes)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --kubeconfig)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --server)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --cluster)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --kube-api-qps)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --kube-api-burst)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --home)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --kubernetes-service-host)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --kubernetes-service-port)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --log-output)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --metrics-extra-attrs)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-sdk-disabled)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-metrics-exporter)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-logs-exporter)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-endpoint)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-metrics-endpoint)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-logs-endpoint)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-protocol)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-metrics-protocol)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-logs-protocol)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-headers)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-metrics-headers)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-logs-headers)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-timeout)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-metrics-timeout)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-logs-timeout)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-compression)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-metrics-compression)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-logs-compression)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-insecure)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-metrics-insecure)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-logs-insecure)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-certificate)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-metrics-certificate)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-logs-certificate)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-client-certificate)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-metrics-client-certificate)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-logs-client-certificate)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-client-key)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-metrics-client-key)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-logs-client-key)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-service-name)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-resource-attributes)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-metric-export-interval)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-metric-export-timeout)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-blrp-schedule-delay)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-blrp-export-timeout)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-blrp-max-queue-size)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-blrp-max-export-batch-size)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-metrics-temporality-preference)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-metrics-default-histogram-aggregation)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-prometheus-host)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-prometheus-port)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-semconv-stability-opt-in)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-log-level)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otlp-node-fallback)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --host-ip)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --config)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --banner)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        opensandbox__subcmd__supervisor)
            opts="-V -h --name --pre-start --post-exit --pre-start-timeout --post-exit-timeout --grace-period --forward-signals --backoff-min --backoff-max --backoff-jitter --stable-after --burst-window --burst-max --on-burst-exit --event-log --log-level --log-output --otel-sdk-disabled --otel-metrics-exporter --otel-logs-exporter --otel-exporter-otlp-endpoint --otel-exporter-otlp-metrics-endpoint --otel-exporter-otlp-logs-endpoint --otel-exporter-otlp-protocol --otel-exporter-otlp-metrics-protocol --otel-exporter-otlp-logs-protocol --otel-exporter-otlp-headers --otel-exporter-otlp-metrics-headers --otel-exporter-otlp-logs-headers --otel-exporter-otlp-timeout --otel-exporter-otlp-metrics-timeout --otel-exporter-otlp-logs-timeout --otel-exporter-otlp-compression --otel-exporter-otlp-metrics-compression --otel-exporter-otlp-logs-compression --otel-exporter-otlp-insecure --otel-exporter-otlp-metrics-insecure --otel-exporter-otlp-logs-insecure --otel-exporter-otlp-certificate --otel-exporter-otlp-metrics-certificate --otel-exporter-otlp-logs-certificate --otel-exporter-otlp-client-certificate --otel-exporter-otlp-metrics-client-certificate --otel-exporter-otlp-logs-client-certificate --otel-exporter-otlp-client-key --otel-exporter-otlp-metrics-client-key --otel-exporter-otlp-logs-client-key --otel-service-name --otel-resource-attributes --otel-metric-export-interval --otel-metric-export-timeout --otel-blrp-schedule-delay --otel-blrp-export-timeout --otel-blrp-max-queue-size --otel-blrp-max-export-batch-size --otel-exporter-otlp-metrics-temporality-preference --otel-exporter-otlp-metrics-default-histogram-aggregation --otel-exporter-prometheus-host --otel-exporter-prometheus-port --otel-semconv-stability-opt-in --otel-log-level --otlp-node-fallback --host-ip --config --banner --print-config --version --help"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 2 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --name)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --pre-start)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --post-exit)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --pre-start-timeout)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --post-exit-timeout)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --grace-period)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --forward-signals)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --backoff-min)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --backoff-max)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --backoff-jitter)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --stable-after)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --burst-window)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --burst-max)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --on-burst-exit)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --event-log)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --log-level)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --log-output)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-sdk-disabled)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-metrics-exporter)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-logs-exporter)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-endpoint)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-metrics-endpoint)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-logs-endpoint)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-protocol)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-metrics-protocol)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-logs-protocol)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-headers)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-metrics-headers)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-logs-headers)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-timeout)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-metrics-timeout)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-logs-timeout)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-compression)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-metrics-compression)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-logs-compression)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-insecure)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-metrics-insecure)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-logs-insecure)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-certificate)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-metrics-certificate)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-logs-certificate)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-client-certificate)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-metrics-client-certificate)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-logs-client-certificate)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-client-key)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-metrics-client-key)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-logs-client-key)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-service-name)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-resource-attributes)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-metric-export-interval)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-metric-export-timeout)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-blrp-schedule-delay)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-blrp-export-timeout)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-blrp-max-queue-size)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-blrp-max-export-batch-size)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-metrics-temporality-preference)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-otlp-metrics-default-histogram-aggregation)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-prometheus-host)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-exporter-prometheus-port)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-semconv-stability-opt-in)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otel-log-level)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --otlp-node-fallback)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --host-ip)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --config)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --banner)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
    esac
}

if [[ "${BASH_VERSINFO[0]}" -eq 4 && "${BASH_VERSINFO[1]}" -ge 4 || "${BASH_VERSINFO[0]}" -gt 4 ]]; then
    complete -F _opensandbox -o nosort -o bashdefault -o default opensandbox
else
    complete -F _opensandbox -o bashdefault -o default opensandbox
fi
