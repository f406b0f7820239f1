//! The certificate of the egress sidecar, with the tools that really install it, in file systems of
//! the test's own.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::Signal;
use support::otlp::Receiver;
use support::tls::Authority;

use crate::scene::{Running, Scene, shells};
use support::becomes;

const WANTED: (&str, &str) = ("OPENSANDBOX_EGRESS_MITMPROXY_TRANSPARENT", "Yes");

/// `/opt` is empty, and what is written to `/etc` and `/usr/local` is gone afterwards.
const PRIVATE: &str = "exec unshare --mount --propagation private sh -ec '\
    mount -t tmpfs none /opt; \
    mkdir -p /opt/opensandbox /opt/over/etc/upper /opt/over/etc/work; \
    mkdir -p /opt/over/usr/local/upper /opt/over/usr/local/work; \
    for tree in etc usr/local; do \
        above=/opt/over/$tree; \
        mount -t overlay none -o lowerdir=/$tree,upperdir=$above/upper,workdir=$above/work /$tree; \
    done; \
    exec \"$@\"' sh \"$@\"";

/// What the script calls the certificate.
const CERTIFICATE: &str = "opt/opensandbox/mitmproxy-ca-cert.pem";

/// A scene with those file systems; `None` where they cannot be had, which was then said.
fn scene(shell: &[&'static str]) -> Option<Scene> {
    let mut scene = Scene::new(shell);
    let can = Command::new("sh")
        .args(["-c", PRIVATE, "sh", "true"])
        .output()
        .unwrap();
    if !can.status.success() {
        let why = String::from_utf8_lossy(&can.stderr);
        support::skipped(&format!("needs overlays of its own: {why}"));
        return None;
    }
    scene.wrapped(PRIVATE);
    Some(scene)
}

/// The script's own view of the file system.
fn root(running: &Running) -> PathBuf {
    PathBuf::from(format!("/proc/{}/root", running.pid()))
}

/// Puts a certificate where the sidecar does, and as it does.
fn export(running: &Running, authority: &Authority) {
    let path = root(running).join(CERTIFICATE);
    let temporary = path.with_extension("tmp");
    fs::copy(authority.root_file(), &temporary).unwrap();
    fs::rename(&temporary, &path).unwrap();
}

#[test]
fn execd_does_not_wait_for_the_certificate_and_the_command_does() {
    for shell in shells() {
        let Some(scene) = scene(&shell) else { return };
        let authority = Authority::new();
        let server = Receiver::start_tls(authority.server_config(false));
        let url = format!("https://localhost:{}/", server.address().port());
        // What the command sees: the system's roots, and those of the variables.
        let command = format!(
            "env > user.env; \
             env -u SSL_CERT_FILE curl --silent --show-error --output /dev/null {url}; \
             echo system $? >> trusted; \
             curl --silent --show-error --output /dev/null {url}; echo bundle $? >> trusted; \
             cat \"$SSL_CERT_FILE\" > bundle; \
             certutil -L -d sql:$HOME/.pki/nssdb >> nss"
        );
        let mut running = scene.start(&[WANTED], &["-c", &command]);
        // execd runs, knows the paths, and a bundle is there already.
        scene.text("execd.starts");
        let bundle = "/opt/opensandbox/merged-ca-certificates.pem";
        for (name, value) in [
            (
                "NODE_EXTRA_CA_CERTS",
                "/opt/opensandbox/mitmproxy-ca-cert.pem",
            ),
            ("REQUESTS_CA_BUNDLE", bundle),
            ("SSL_CERT_FILE", bundle),
        ] {
            let seen = scene.variable("execd.env", name);
            assert_eq!(seen.as_deref(), Some(value), "{name}");
        }
        let roots = fs::read_to_string("/etc/ssl/certs/ca-certificates.crt").unwrap();
        let early = fs::read_to_string(root(&running).join(&bundle[1..])).unwrap();
        assert!(early.contains(roots.trim_end()));
        assert!(!scene.path("user.env").exists());
        export(&running, &authority);
        assert_eq!(running.code(), 0, "{}", scene.said());
        assert_eq!(
            scene.text("trusted"),
            "system 0\nbundle 0\n",
            "{}",
            scene.said()
        );
        let bundle = scene.text("bundle");
        let certificate = fs::read_to_string(authority.root_file()).unwrap();
        assert!(bundle.contains(certificate.trim_end()));
        assert!(bundle.matches("BEGIN CERTIFICATE").count() > 10);
        assert!(scene.text("nss").contains("opensandbox-mitmproxy"));
        assert!(!scene.said().contains("bootstrap: "), "{}", scene.said());
        // Nothing of it is on the machine.
        let anchors = "/usr/local/share/ca-certificates/opensandbox-mitmproxy-ca.crt";
        assert!(!std::path::Path::new(anchors).exists());
    }
}

#[test]
fn a_pre_script_finds_the_certificate_installed() {
    for shell in shells() {
        let Some(scene) = scene(&shell) else { return };
        let authority = Authority::new();
        fs::write(
            scene.path("pre"),
            "grep -c BEGIN /usr/local/share/ca-certificates/opensandbox-mitmproxy-ca.crt > found\n",
        )
        .unwrap();
        let mut running = scene.start(&[WANTED, ("EXECD_BOOTSTRAP_PRE_SCRIPT", "pre")], &["true"]);
        assert!(becomes(|| {
            root(&running)
                .join("opt/opensandbox/merged-ca-certificates.pem")
                .exists()
        }));
        export(&running, &authority);
        assert_eq!(running.code(), 0, "{}", scene.said());
        assert_eq!(scene.text("found"), "1\n");
    }
}

#[test]
fn a_certificate_that_does_not_come_is_told_and_no_more() {
    for shell in shells() {
        let Some(mut scene) = scene(&shell) else {
            return;
        };
        scene.constant("osb_ca_patience", 3);
        let mut running = scene.start(&[WANTED], &["-c", "echo started; exit 5"]);
        assert_eq!(running.code(), 5, "{}", scene.said());
        let said = scene.said();
        assert!(
            said.contains("mitmproxy-ca-cert.pem did not appear"),
            "{said}"
        );
        assert!(said.contains("\nstarted\n"), "{said}");
    }
}

#[test]
fn a_stop_does_not_wait_for_the_certificate() {
    for shell in shells() {
        let Some(scene) = scene(&shell) else { return };
        let mut running = scene.start(&[WANTED], &["touch", "started"]);
        scene.text("execd.starts");
        running.signal(Signal::TERM);
        assert_eq!(running.code(), 0);
        assert_eq!(scene.text("execd.signals"), "TERM\n");
        assert!(!scene.path("started").exists());
    }
}

#[test]
fn where_nothing_can_be_written_the_certificate_alone_is_trusted() {
    for shell in shells() {
        let Some(mut scene) = scene(&shell) else {
            return;
        };
        let authority = Authority::new();
        let certificate = authority.root_file();
        scene.wrapped(&PRIVATE.replace(
            "exec \"$@\"'",
            &format!(
                "mount -t tmpfs none /opt/opensandbox; cp {} /{CERTIFICATE}; \
                 for tree in /opt/opensandbox /etc /usr/local; do mount -o remount,ro $tree; done; \
                 exec \"$@\"'",
                certificate.display()
            ),
        ));
        let mut running = scene.start(&[WANTED], &["-c", "env > user.env"]);
        assert_eq!(running.code(), 0, "{}", scene.said());
        for name in ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"] {
            let seen = scene.variable("user.env", name);
            assert_eq!(seen.as_deref(), Some(&*format!("/{CERTIFICATE}")), "{name}");
        }
        let said = scene.said();
        assert!(
            said.contains("cannot write /opt/opensandbox/merged"),
            "{said}"
        );
        assert!(said.contains("update-ca-certificates failed"), "{said}");
    }
}
