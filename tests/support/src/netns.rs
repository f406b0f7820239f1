//! Network namespaces: a private loopback, a private packet filter, private ports.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd as _;
use std::process::{Command, Output};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, UnshareFlags};

/// How long a cable may take to carry, and how often it is asked.
const CARRIER_PATIENCE: Duration = Duration::from_secs(30);
const CARRIER_POLL: Duration = Duration::from_millis(10);

/// Whether this process may create namespaces and change packet filters.
///
/// # Errors
///
/// Why not.
pub fn permitted() -> std::io::Result<()> {
    let probe = || {
        // SAFETY: the thread unshares only its own network namespace, not its descriptor table,
        // and ends right away.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
    };
    let result = std::thread::spawn(probe).join();
    Ok(result.expect("the probing thread")?)
}

/// Whether this process may create namespaces and change packet filters; if not, says loudly
/// that the test was skipped, and why it needs that.
#[must_use]
pub fn require_root(why: &str) -> bool {
    let result = permitted();
    if let Err(error) = &result {
        crate::skipped(&format!(
            "needs root ({why}); creating a network namespace: {error}"
        ));
    }
    result.is_ok()
}

/// A network namespace with its loopback up; gone when dropped and nothing inside is left.
pub struct Namespace {
    handle: File,
    thread: u32,
    /// Dropping it ends the thread that holds the namespace.
    _release: mpsc::Sender<()>,
    _holder: JoinHandle<()>,
}

impl Namespace {
    /// A namespace with nothing but its loopback.
    #[must_use]
    pub fn new() -> Self {
        let (release, released) = mpsc::channel::<()>();
        let (ready, opened) = mpsc::channel();
        let holder = std::thread::Builder::new()
            .name("netns".to_owned())
            .spawn(move || {
                // SAFETY: the thread unshares only its own network namespace, not its descriptor
                // table, and creates its sockets after that.
                unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
                    .expect("unshare the network namespace");
                let thread = rustix::thread::gettid()
                    .as_raw_nonzero()
                    .get()
                    .cast_unsigned();
                let handle = File::open("/proc/thread-self/ns/net").expect("open the namespace");
                ready.send((handle, thread)).expect("the creator waits");
                let _released = released.recv();
            })
            .expect("start the namespace's thread");
        let (handle, thread) = opened.recv().expect("the namespace's thread");
        let namespace = Self {
            handle,
            thread,
            _release: release,
            _holder: holder,
        };
        namespace.ip("link set lo up");
        namespace
    }

    /// Two namespaces joined by a cable: `left` is 192.0.2.1 and 2001:db8::1, `right` is
    /// 192.0.2.2 and 2001:db8::2, and each is the other's default route.
    #[must_use]
    pub fn pair() -> (Self, Self) {
        let (left, right) = (Self::new(), Self::new());
        left.ip(&format!(
            "link add eth0 type veth peer name eth0 netns {}",
            right.thread
        ));
        for namespace in [&left, &right] {
            namespace.ip("link set eth0 up");
        }
        for (namespace, own, other) in [(&left, 1, 2), (&right, 2, 1)] {
            namespace.wait_for_carrier();
            namespace.ip(&format!("addr add {}/24 dev eth0", Self::cable_v4(own)));
            namespace.ip(&format!(
                "addr add {}/64 dev eth0 nodad",
                Self::cable_v6(own)
            ));
            namespace.ip(&format!("route add default via {}", Self::cable_v4(other)));
            namespace.ip(&format!(
                "-6 route add default via {}",
                Self::cable_v6(other)
            ));
        }
        (left, right)
    }

    /// The kernel announces a carrier up to a second late, and drops what is sent before.
    fn wait_for_carrier(&self) {
        let deadline = Instant::now() + CARRIER_PATIENCE;
        loop {
            let link = self.run("ip", &["-o", "link", "show", "eth0"]);
            if String::from_utf8_lossy(&link.stdout).contains("state UP") {
                return;
            }
            assert!(Instant::now() < deadline, "eth0 has no carrier");
            std::thread::sleep(CARRIER_POLL);
        }
    }

    /// The IPv4 address of end `end` (1 or 2) of [`Namespace::pair`].
    #[must_use]
    pub fn cable_v4(end: u8) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, end).into()
    }

    /// The IPv6 address of end `end` (1 or 2) of [`Namespace::pair`].
    #[must_use]
    pub fn cable_v6(end: u8) -> IpAddr {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, end.into()).into()
    }

    /// Runs `work` on a thread inside; its sockets, threads and processes belong there too.
    ///
    /// # Panics
    ///
    /// When `work` does.
    pub fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let kind = Some(LinkNameSpaceType::Network);
                rustix::thread::move_into_link_name_space(self.handle.as_fd(), kind)
                    .expect("enter the namespace");
                work()
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs a program inside and waits for it.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    #[must_use]
    pub fn run(&self, program: &str, arguments: &[&str]) -> Output {
        self.enter(|| Command::new(program).args(arguments).output())
            .unwrap_or_else(|error| panic!("run {program}: {error}"))
    }

    /// Runs `ip` with the words of `arguments` inside.
    ///
    /// # Panics
    ///
    /// When it fails.
    pub fn ip(&self, arguments: &str) {
        let words: Vec<_> = arguments.split(' ').collect();
        let output = self.run("ip", &words);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ip {arguments}: {errors}");
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, UdpSocket};

    use super::{CARRIER_PATIENCE, Namespace, require_root};
    use crate::dns::{Reply, Upstream, ask, response_code, rtype};

    #[test]
    fn a_pair_is_joined_and_apart_from_the_rest() {
        if !require_root("network namespaces") {
            return;
        }
        let (left, right) = Namespace::pair();
        for address in [Namespace::cable_v4(2), Namespace::cable_v6(2)] {
            let address = SocketAddr::new(address, 53);
            let upstream = right.enter(|| Upstream::start_at(address));
            upstream.otherwise(Reply::refused());
            let answer = left.enter(|| ask(address, "a.test", rtype::A, CARRIER_PATIENCE));
            assert_eq!(answer.as_deref().map(response_code), Some(5));
        }
        let taken = left.enter(|| UdpSocket::bind((Namespace::cable_v4(2), 0)));
        assert!(taken.is_err(), "an address of the other end");
    }
}
