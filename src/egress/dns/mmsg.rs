//! Many datagrams for one system call: `recvmmsg(2)` and `sendmmsg(2)`.
//!
//! The only part of the DNS filter that calls the system without a safe wrapper, because there is
//! none for these two. Never blocks, and never knows what is in a datagram.

use std::io;
use std::mem::{MaybeUninit, size_of, zeroed};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

/// Datagrams handled by one system call.
pub const BATCH: usize = 32;

/// Room for one batch of received datagrams.
pub struct Inbox {
    /// `BATCH` times `room`; pages that no datagram reaches stay untouched.
    bytes: Box<[u8]>,
    /// The largest datagram that can be received whole, in octets.
    room: usize,
    senders: Box<[MaybeUninit<libc::sockaddr_storage>; BATCH]>,
    received: [Received; BATCH],
}

#[derive(Clone, Copy, Default)]
struct Received {
    length: usize,
    sender_length: usize,
    cut: bool,
}

/// One received datagram.
pub struct Datagram<'a> {
    /// What arrived.
    pub bytes: &'a mut [u8],
    /// Who sent it; `None` on a connected socket.
    pub sender: Option<SocketAddr>,
    /// It was longer than there was room.
    pub cut: bool,
}

impl Inbox {
    /// Room for datagrams of up to `room` octets.
    #[must_use]
    pub fn new(room: usize) -> Self {
        Self {
            bytes: vec![0; room * BATCH].into_boxed_slice(),
            room,
            senders: Box::new([const { MaybeUninit::zeroed() }; BATCH]),
            received: [Received::default(); BATCH],
        }
    }

    /// Receives what is there, at most [`BATCH`] datagrams; how many.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when nothing is there; on a connected socket also what an earlier datagram
    /// met, such as `ConnectionRefused`.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        // SAFETY: all-zero bytes are valid values of these C structures (integers, null pointers).
        let mut vectors: [libc::iovec; BATCH] = unsafe { zeroed() };
        // SAFETY: as above.
        let mut headers: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
        let slots = self
            .bytes
            .chunks_exact_mut(self.room)
            .zip(self.senders.iter_mut());
        for ((vector, header), (bytes, sender)) in vectors.iter_mut().zip(&mut headers).zip(slots) {
            vector.iov_base = bytes.as_mut_ptr().cast();
            vector.iov_len = bytes.len();
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_name = sender.as_mut_ptr().cast();
            header.msg_hdr.msg_namelen = SENDER_LENGTH;
        }
        // SAFETY: `headers` has BATCH entries. Each points to one entry of `vectors` and one of
        // `self.senders`, each vector to a slice of its own in `self.bytes` with its true length;
        // all of them outlive the call and nothing else refers to them. A null time-out is
        // allowed; with MSG_DONTWAIT the call does not wait.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        for (received, header) in self.received.iter_mut().zip(&headers).take(count) {
            *received = Received {
                length: header.msg_len as usize,
                sender_length: header.msg_hdr.msg_namelen as usize,
                cut: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
            };
        }
        Ok(count)
    }

    /// The datagrams of the last batch, of which there were `count`.
    pub fn datagrams(&mut self, count: usize) -> impl Iterator<Item = Datagram<'_>> {
        self.bytes
            .chunks_exact_mut(self.room)
            .zip(self.senders.iter())
            .zip(&self.received)
            .take(count)
            .map(|((bytes, sender), received)| {
                let length = received.length.min(bytes.len());
                Datagram {
                    bytes: bytes.split_at_mut(length).0,
                    sender: read_address(sender, received.sender_length),
                    cut: received.cut,
                }
            })
    }
}

#[allow(clippy::cast_possible_truncation)] // 128 octets
const SENDER_LENGTH: libc::socklen_t = size_of::<libc::sockaddr_storage>() as libc::socklen_t;

fn read_address(
    storage: &MaybeUninit<libc::sockaddr_storage>,
    length: usize,
) -> Option<SocketAddr> {
    // SAFETY: the storage was zeroed when it was made, and the kernel only ever wrote addresses to
    // it; every bit pattern is a valid value.
    let storage = unsafe { storage.assume_init_ref() };
    match i32::from(storage.ss_family) {
        libc::AF_INET if length >= size_of::<libc::sockaddr_in>() => {
            // SAFETY: sockaddr_storage is larger than sockaddr_in and at least as aligned, and its
            // family says that this is what it holds.
            let address = unsafe { &*ptr::from_ref(storage).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr));
            Some(SocketAddrV4::new(ip, u16::from_be(address.sin_port)).into())
        }
        libc::AF_INET6 if length >= size_of::<libc::sockaddr_in6>() => {
            // SAFETY: as above, for sockaddr_in6.
            let address = unsafe { &*ptr::from_ref(storage).cast::<libc::sockaddr_in6>() };
            Some(
                SocketAddrV6::new(
                    Ipv6Addr::from(address.sin6_addr.s6_addr),
                    u16::from_be(address.sin6_port),
                    address.sin6_flowinfo,
                    address.sin6_scope_id,
                )
                .into(),
            )
        }
        _ => None,
    }
}

/// Datagrams waiting to be sent through one socket.
#[derive(Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

struct Entry {
    bytes: Range<usize>,
    to: Option<SocketAddr>,
    tag: u64,
}

/// An address as the kernel reads it.
enum Name {
    V4(libc::sockaddr_in),
    V6(libc::sockaddr_in6),
}

impl Name {
    #[allow(clippy::cast_possible_truncation)] // address families are small
    fn new(address: SocketAddr) -> Self {
        match address {
            SocketAddr::V4(address) => Self::V4(libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: address.port().to_be(),
                sin_addr: libc::in_addr {
                    s_addr: u32::from_ne_bytes(address.ip().octets()),
                },
                sin_zero: [0; 8],
            }),
            SocketAddr::V6(address) => Self::V6(libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: address.port().to_be(),
                sin6_flowinfo: address.flowinfo(),
                sin6_addr: libc::in6_addr {
                    s6_addr: address.ip().octets(),
                },
                sin6_scope_id: address.scope_id(),
            }),
        }
    }

    /// Where it lies, and how long it is.
    #[allow(clippy::cast_possible_truncation)] // some dozens of octets
    fn parts(&self) -> (*const libc::c_void, libc::socklen_t) {
        match self {
            Self::V4(name) => (ptr::from_ref(name).cast(), size_of_val(name) as _),
            Self::V6(name) => (ptr::from_ref(name).cast(), size_of_val(name) as _),
        }
    }
}

impl Outbox {
    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds the datagram that `write` appends, unless it appends nothing. `to` is `None` on a
    /// connected socket; `tag` comes back if sending fails.
    pub fn push(&mut self, to: Option<SocketAddr>, tag: u64, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        write(&mut self.bytes);
        let end = self.bytes.len();
        if end > start {
            self.entries.push(Entry {
                bytes: start..end,
                to,
                tag,
            });
        }
    }

    /// Sends everything and forgets it; `failed` is told of each datagram that could not be sent.
    pub fn flush(&mut self, socket: BorrowedFd<'_>, mut failed: impl FnMut(u64, io::Error)) {
        let mut rest = self.entries.as_slice();
        while let Some((first, others)) = rest.split_first() {
            match send(socket, &self.bytes, rest) {
                Ok(0) => failed(first.tag, io::ErrorKind::WriteZero.into()),
                Ok(sent) => {
                    rest = rest.get(sent..).unwrap_or_default();
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => failed(first.tag, error),
            }
            rest = others;
        }
        self.entries.clear();
        self.bytes.clear();
    }
}

/// Sends the first of `entries`; how many, at most [`BATCH`].
fn send(socket: BorrowedFd<'_>, bytes: &[u8], entries: &[Entry]) -> io::Result<usize> {
    // SAFETY: all-zero bytes are valid values of these C structures (integers, null pointers).
    let mut vectors: [libc::iovec; BATCH] = unsafe { zeroed() };
    // SAFETY: as above.
    let mut headers: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
    let mut names = [const { None }; BATCH];
    let mut count: libc::c_uint = 0;
    let slots = vectors.iter_mut().zip(&mut headers).zip(&mut names);
    for (((vector, header), name), entry) in slots.zip(entries) {
        let payload = bytes.get(entry.bytes.clone()).unwrap_or_default();
        // The kernel only reads through these pointers, whatever their type says.
        vector.iov_base = payload.as_ptr().cast_mut().cast();
        vector.iov_len = payload.len();
        header.msg_hdr.msg_iov = vector;
        header.msg_hdr.msg_iovlen = 1;
        if let Some(to) = entry.to {
            let (address, length) = name.insert(Name::new(to)).parts();
            header.msg_hdr.msg_name = address.cast_mut();
            header.msg_hdr.msg_namelen = length;
        }
        count += 1;
    }
    // The system call itself: musl's `sendmmsg` calls `sendmsg` for each message, because some
    // lengths in its headers are shorter than the kernel's and what is next to them may be anything.
    // Here it is zero.
    // SAFETY: the first `count` headers each point to one entry of `vectors`, which points into
    // `bytes` with its true length, and to an entry of `names` with its true length; all of them
    // outlive the call. On a little-endian machine a short length and the zeros after it are
    // the same number to the kernel, on a big-endian one the zeros come first.
    let sent = unsafe {
        libc::syscall(
            libc::SYS_sendmmsg,
            socket.as_raw_fd(),
            headers.as_mut_ptr(),
            count,
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
        )
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    fn exchange(any: &str) {
        let server = UdpSocket::bind(any).unwrap();
        let client = UdpSocket::bind(any).unwrap();
        let mut outbox = Outbox::default();
        let count = BATCH + 3;
        for number in 0..count {
            let to = Some(server.local_addr().unwrap());
            outbox.push(to, 0, |out| out.extend(vec![number as u8; number + 1]));
        }
        outbox.flush(client.as_fd(), |_, error| panic!("{error}"));
        assert!(outbox.is_empty());

        let mut inbox = Inbox::new(20);
        let mut numbers = Vec::new();
        while numbers.len() < count {
            let received = inbox.receive(server.as_fd()).unwrap();
            assert!(received <= BATCH);
            for datagram in inbox.datagrams(received) {
                assert_eq!(datagram.sender, Some(client.local_addr().unwrap()));
                let number = datagram.bytes[0];
                let expected = usize::from(number) + 1;
                assert_eq!(datagram.bytes.len(), expected.min(20));
                assert_eq!(datagram.cut, expected > 20);
                numbers.push(number);
            }
        }
        assert!(
            numbers
                .iter()
                .map(|number| usize::from(*number))
                .eq(0..count)
        );
        let nothing = inbox.receive(server.as_fd()).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn batches_arrive_whole_and_in_order() {
        exchange("127.0.0.1:0");
        if UdpSocket::bind("[::1]:0").is_ok() {
            exchange("[::1]:0");
        }
    }

    #[test]
    fn a_failure_names_its_datagram_and_stops_no_other() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut outbox = Outbox::default();
        let to = Some(server.local_addr().unwrap());
        outbox.push(to, 1, |out| out.extend(b"first"));
        outbox.push(to, 2, |out| out.resize(70_000, 0));
        outbox.push(to, 3, |out| out.extend(b"last"));
        outbox.push(to, 4, |_| {});
        let mut failures = Vec::new();
        outbox.flush(client.as_fd(), |tag, error| {
            failures.push((tag, error.raw_os_error()))
        });
        assert_eq!(failures, [(2, Some(libc::EMSGSIZE))]);
        let mut inbox = Inbox::new(100);
        assert_eq!(inbox.receive(server.as_fd()).unwrap(), 2);
        let last = inbox.datagrams(2).last().unwrap();
        assert_eq!(last.bytes, b"last");
    }
}
