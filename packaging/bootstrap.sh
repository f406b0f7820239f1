#!/bin/sh
# The first process of a sandbox: starts execd and keeps it running, then runs the user's command,
# and ends with it. POSIX sh, because it is copied into images that have nothing else.
#
#   bootstrap.sh [COMMAND [ARGUMENT]...]     runs the command
#   bootstrap.sh -c WORD...                  runs the words as one line of shell
#   bootstrap.sh                             runs a shell
#
# EXECD                       the daemon, split into words (/opt/opensandbox/execd)
# EXECD_ENVS                  variables for every command, made if missing (/opt/opensandbox/.env)
# EXECD_BOOTSTRAP_PRE_SCRIPT  read with `.` before anything is started; what it exports is seen by all
# BOOTSTRAP_CMD               runs this line of shell instead of the arguments
# BOOTSTRAP_SHELL             the shell to use; else bash, else sh
# OPENSANDBOX_EGRESS_MITMPROXY_TRANSPARENT  if true, trust the certificate of the egress sidecar
#
# docs/execd.md says more. Names here begin with osb_, since the pre-script shares them.
set -e

osb_home=/opt/opensandbox
osb_ca=$osb_home/mitmproxy-ca-cert.pem
osb_bundle=$osb_home/merged-ca-certificates.pem
# How long the certificate may take to appear, in tenths of a second.
osb_ca_patience=3000
# How long execd has to end, and how long a run is no longer a crash, in seconds.
osb_grace=10
osb_stable=60
osb_longest_pause=30

osb_stopping=
osb_interrupted=
osb_user=
osb_keeper=

osb_warn() {
    echo "bootstrap: $*" >&2
}

osb_moment() {
    sleep 0.2 2>/dev/null || sleep 1
}

# Asked to end: so are the user's command and execd, if they run, in a moment. A process that was
# forked just now still has the traps of the script, and would forget the signal when it gets rid of
# them. Traps do as little as they can: signals may interrupt them.
osb_stop() {
    osb_stopping=1
    osb_interrupted=1
    [ -z "$osb_keeper" ] || kill -TERM "$osb_keeper" 2>/dev/null || :
    if [ -n "$osb_user" ]; then
        { osb_moment && kill -TERM "$osb_user"; } >/dev/null 2>&1 &
    fi
}
trap osb_stop TERM INT HUP

# Waits for the end of a child, whose code is then in osb_status. A signal that is trapped ends a
# wait early; if one came just before, the second wait finds nobody, and the code no longer matters.
osb_await() {
    while :; do
        osb_interrupted=
        osb_status=0
        wait "$1" || osb_status=$?
        [ -n "$osb_interrupted" ] || return 0
    done
}

osb_is_true() {
    case $1 in
    1 | [Tt][Rr][Uu][Ee] | [Yy][Ee][Ss] | [Oo][Nn]) return 0 ;;
    *) return 1 ;;
    esac
}

osb_as_root() {
    if [ "$(id -u)" != 0 ] && command -v sudo >/dev/null 2>&1; then
        sudo -n "$@"
    else
        "$@"
    fi
}

# --- The certificate of the egress sidecar ---

# The first bundle of root certificates there is. certifi's is asked for only where it may take its
# time, as starting Python does.
osb_roots() {
    if [ "$1" = thorough ]; then
        for osb_python in python3 python; do
            command -v "$osb_python" >/dev/null 2>&1 || continue
            osb_file=$("$osb_python" -c 'import certifi; print(certifi.where())' 2>/dev/null) || osb_file=
            [ ! -s "$osb_file" ] || { echo "$osb_file" && return; }
            break
        done
    fi
    for osb_file in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt \
        /etc/ssl/cert.pem /etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem; do
        [ ! -s "$osb_file" ] || { echo "$osb_file" && return; }
    done
}

# Writes the bundle anew, as a whole: programs may be reading it.
osb_merge() {
    set -- "$(osb_roots "$1")" "$osb_ca"
    [ -s "$1" ] || shift
    [ -s "$osb_ca" ] || [ $# = 2 ] || return 0
    [ -s "$osb_ca" ] || set -- "$1"
    {
        for osb_file; do
            cat "$osb_file"
            echo
        done
    } 2>/dev/null >"$osb_bundle.$$" && mv -f "$osb_bundle.$$" "$osb_bundle" 2>/dev/null
}

# The paths are known before the certificate is there, so execd need not wait to be told. Until then
# the bundle has the other roots.
osb_announce_ca() {
    export NODE_EXTRA_CA_CERTS="$osb_ca"
    if (mkdir -p "$osb_home" && osb_merge quick) 2>/dev/null; then
        export SSL_CERT_FILE="$osb_bundle" REQUESTS_CA_BUNDLE="$osb_bundle"
    else
        osb_warn "cannot write $osb_bundle: programs that replace their roots will trust $osb_ca alone"
        export SSL_CERT_FILE="$osb_ca" REQUESTS_CA_BUNDLE="$osb_ca"
    fi
}

osb_install_ca() {
    if command -v update-ca-certificates >/dev/null 2>&1; then
        osb_anchors=/usr/local/share/ca-certificates
        osb_anchor=$osb_anchors/opensandbox-mitmproxy-ca.crt
        osb_update=update-ca-certificates
    elif command -v update-ca-trust >/dev/null 2>&1; then
        osb_anchors=/etc/pki/ca-trust/source/anchors
        osb_anchor=$osb_anchors/opensandbox-mitmproxy-ca.pem
        osb_update=update-ca-trust
    else
        osb_warn "this image has no tool to add $osb_ca to the system's roots"
        return
    fi
    {
        osb_as_root mkdir -p "$osb_anchors" &&
            osb_as_root cp "$osb_ca" "$osb_anchor" &&
            osb_as_root "$osb_update" >/dev/null
    } || osb_warn "$osb_update failed: the system's roots lack $osb_ca"
}

# Chrome and Chromium look here, too.
osb_install_ca_nss() {
    [ -d "${HOME:-/nonexistent}" ] && command -v certutil >/dev/null 2>&1 || return 0
    osb_nss=$HOME/.pki/nssdb
    {
        mkdir -p "$osb_nss" &&
            { [ -f "$osb_nss/cert9.db" ] || certutil -N -d "sql:$osb_nss" --empty-password; } &&
            certutil -A -d "sql:$osb_nss" -n opensandbox-mitmproxy -t C,, -i "$osb_ca"
    } || osb_warn "certutil failed: $osb_nss lacks $osb_ca"
}

osb_trust_ca() {
    [ "$REQUESTS_CA_BUNDLE" != "$osb_bundle" ] || osb_merge thorough ||
        osb_warn "cannot write $osb_bundle"
    osb_install_ca
    # The bundle of the system has changed, but it was merged before: that one has the certificate.
    osb_install_ca_nss
}

# Waits for the certificate and installs it.
osb_await_ca() {
    osb_waited=0
    while [ ! -s "$osb_ca" ] && [ "$osb_waited" -lt "$osb_ca_patience" ]; do
        [ -z "$osb_stopping" ] || return 0
        if sleep 0.1 2>/dev/null; then
            osb_waited=$((osb_waited + 1))
        else
            sleep 1
            osb_waited=$((osb_waited + 10))
        fi
    done
    if [ -s "$osb_ca" ]; then
        # In a process of its own, which a signal ends: it need not wait for the tools.
        osb_trust_ca &
        osb_user=$!
        [ -z "$osb_stopping" ] || osb_stop
        osb_await "$osb_user"
        osb_user=
    else
        osb_warn "$osb_ca did not appear within $((osb_ca_patience / 10))s: going on without it"
    fi
}

# --- execd ---

osb_now() {
    date +%s 2>/dev/null || echo 0
}

# Asked to end: so is what runs, which is execd or the pause before its next start; but only once,
# as execd takes a second request for impatience.
osb_stop_execd() {
    osb_stopping=1
    osb_interrupted=1
    [ -n "$osb_child" ] && [ -z "$osb_ending" ] || return 0
    {
        osb_moment && kill -TERM "$osb_child"
        sleep "$osb_grace" && kill -KILL "$osb_child"
    } >/dev/null 2>&1 &
    osb_ending=$!
}

osb_await_last() {
    osb_child=$!
    [ -z "$osb_stopping" ] || osb_stop_execd
    osb_await "$osb_child"
    osb_child=
}

# Runs execd until it has ended by itself, starting it anew when it crashes.
osb_keep_execd() {
    osb_child=
    osb_ending=
    osb_pause=1
    trap osb_stop_execd TERM
    trap '' INT HUP
    while [ -z "$osb_stopping" ]; do
        osb_began=$(osb_now)
        # shellcheck disable=SC2086 # EXECD may have arguments
        $EXECD &
        osb_await_last
        case $osb_status in
        # Asked to end, misconfigured, or no program: to try again changes nothing.
        0 | 2 | 64 | 126 | 127) break ;;
        esac
        [ -z "$osb_stopping" ] || break
        [ $(($(osb_now) - osb_began)) -lt "$osb_stable" ] || osb_pause=1
        osb_warn "execd ended with code $osb_status; starting it again in ${osb_pause}s"
        sleep "$osb_pause" &
        osb_await_last
        osb_pause=$((osb_pause * 2))
        [ "$osb_pause" -le "$osb_longest_pause" ] || osb_pause=$osb_longest_pause
    done
    [ -z "$osb_ending" ] || kill "$osb_ending" 2>/dev/null || :
    [ -n "$osb_stopping" ] || osb_warn "execd ended with code $osb_status and is not started again"
    exit 0
}

# --- In order ---

EXECD=${EXECD:-$osb_home/execd}
EXECD_ENVS=${EXECD_ENVS:-$osb_home/.env}
export EXECD_ENVS
if ! { mkdir -p "$(dirname "$EXECD_ENVS")" && touch "$EXECD_ENVS"; } 2>/dev/null; then
    osb_warn "cannot make EXECD_ENVS=$EXECD_ENVS"
fi

osb_ca_wanted=
if osb_is_true "${OPENSANDBOX_EGRESS_MITMPROXY_TRANSPARENT:-}"; then
    osb_ca_wanted=1
    osb_announce_ca
fi

if [ -n "${EXECD_BOOTSTRAP_PRE_SCRIPT:-}" ]; then
    # The script may want to download something.
    [ -z "$osb_ca_wanted" ] || osb_await_ca
    osb_ca_wanted=
    case $EXECD_BOOTSTRAP_PRE_SCRIPT in
    */*) osb_script=$EXECD_BOOTSTRAP_PRE_SCRIPT ;;
    # Without a slash it would be looked for in PATH.
    *) osb_script=./$EXECD_BOOTSTRAP_PRE_SCRIPT ;;
    esac
    if [ -f "$osb_script" ] && [ -r "$osb_script" ]; then
        # shellcheck disable=SC1090 # the user's
        . "$osb_script"
    else
        osb_warn "cannot read EXECD_BOOTSTRAP_PRE_SCRIPT=$EXECD_BOOTSTRAP_PRE_SCRIPT"
    fi
fi

if [ -n "${BOOTSTRAP_SHELL:-}" ]; then
    osb_shell=$BOOTSTRAP_SHELL
elif ! osb_shell=$(command -v bash) && ! osb_shell=$(command -v sh); then
    echo "error: neither bash nor sh found in PATH" >&2
    exit 1
fi
if [ -n "${BOOTSTRAP_CMD:-}" ]; then
    set -- "$osb_shell" -c "$BOOTSTRAP_CMD"
elif [ "${1:-}" = -c ]; then
    shift
    set -- "$osb_shell" -c "$*"
elif [ $# = 0 ]; then
    set -- "$osb_shell"
fi

[ -z "$osb_stopping" ] || exit 0
echo "starting OpenSandbox Execd daemon at $EXECD."
osb_keep_execd &
osb_keeper=$!
[ -z "$osb_stopping" ] || osb_stop

[ -z "$osb_ca_wanted" ] || osb_await_ca

osb_status=0
if [ -z "$osb_stopping" ]; then
    # What runs in the background gets no input from the shell unless it is given some.
    (: <&0) 2>/dev/null || exec </dev/null
    exec 3<&0
    "$@" <&3 3<&- &
    osb_user=$!
    exec 3<&-
    [ -z "$osb_stopping" ] || osb_stop
    osb_await "$osb_user"
    osb_user=
fi
osb_code=$osb_status

# execd has its chance to say goodbye. Its keeper is asked until it listens.
{ while kill -TERM "$osb_keeper"; do osb_moment; done; } >/dev/null 2>&1 &
osb_asking=$!
osb_await "$osb_keeper"
kill "$osb_asking" 2>/dev/null || :
[ -z "$osb_stopping" ] || exit 0
exit "$osb_code"
