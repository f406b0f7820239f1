//! The network namespace: `/proc/net/dev` and `/proc/net/sockstat` (proc_net(5)).
//!
//! Sockets are counted by the kernel's own counters; walking the descriptors of every process
//! would cost milliseconds and need privileges.

use std::ops::AddAssign;

use super::text::{lines, number, words};

/// Bytes through all interfaces, the loopback included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes received.
    pub received: u64,
    /// Bytes sent.
    pub sent: u64,
}

impl Traffic {
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let mut traffic = Self::default();
        // Two lines of headings.
        for line in lines(text).skip(2).filter(|line| !line.is_empty()) {
            // An interface name may hold a colon, as aliases do; the numbers never.
            let colon = line.iter().rposition(|byte| *byte == b':')?;
            let mut counters = words(line.get(colon + 1..)?);
            traffic.received = traffic.received.wrapping_add(number(counters.next()?)?);
            traffic.sent = traffic.sent.wrapping_add(number(counters.nth(7)?)?);
        }
        Some(traffic)
    }
}

/// Sockets in use, whatever their state; those that only wait for late packets are not in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    /// TCP sockets.
    pub tcp: u64,
    /// UDP sockets.
    pub udp: u64,
}

impl Connections {
    /// Reads `sockstat` and `sockstat6` alike.
    pub(super) fn parse(text: &[u8]) -> Self {
        let mut sockets = Self::default();
        for line in lines(text) {
            let mut fields = words(line);
            let count = match fields.next() {
                Some(b"TCP:" | b"TCP6:") => &mut sockets.tcp,
                Some(b"UDP:" | b"UDP6:") => &mut sockets.udp,
                _ => continue,
            };
            if fields.next() == Some(b"inuse") {
                *count = fields.next().and_then(number).unwrap_or_default();
            }
        }
        sockets
    }
}

impl AddAssign for Connections {
    fn add_assign(&mut self, other: Self) {
        self.tcp = self.tcp.saturating_add(other.tcp);
        self.udp = self.udp.saturating_add(other.udp);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DEVICES: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:  264272    3275    0    0    0     0          0         0   264272    3275    0    0    0     0       0          0
eth0:1:12345678 9 0 0 0 0 0 0 1000 2 0 0 0 0 0 0
";

    #[test]
    fn a_kernels_texts() {
        assert_eq!(
            Traffic::parse(DEVICES.as_bytes()),
            Some(Traffic {
                received: 264_272 + 12_345_678,
                sent: 264_272 + 1000,
            })
        );
        let text = "sockets: used 16\nTCP: inuse 1 orphan 0 tw 5 alloc 1 mem 397\n\
            UDP: inuse 2 mem 0\nUDPLITE: inuse 9\nRAW: inuse 9\nFRAG: inuse 9 memory 0\n";
        assert_eq!(
            Connections::parse(text.as_bytes()),
            Connections { tcp: 1, udp: 2 }
        );
    }

    #[test]
    fn a_line_cut_short_is_no_reading() {
        assert_eq!(Traffic::parse(b"a\nb\nlo: 1 2 3"), None);
        assert_eq!(Traffic::parse(b"a\nb\nno colon"), None);
        assert_eq!(Traffic::parse(b"a\nb\n"), Some(Traffic::default()));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(text in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Traffic::parse(&text);
            let _ = Connections::parse(&text);
        }

        #[test]
        fn a_changed_text_never_panics(position in 0..DEVICES.len(), byte in any::<u8>()) {
            let mut text = DEVICES.as_bytes().to_vec();
            text[position] = byte;
            let _ = Traffic::parse(&text);
        }
    }
}
