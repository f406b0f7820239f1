//! One nf_tables transaction over netlink: all of it applies at once, or nothing does.

use std::io;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, NlasIterator,
};
use netlink_packet_netfilter::nftables::NfTablesMessage;
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use rustix::io::Errno;

use super::Error;

/// The subsystem a batch is for, in its header (`NFNL_SUBSYS_NFTABLES`, linux/netfilter/nfnetlink.h).
const SUBSYSTEM: u16 = 10;
/// How long the kernel may take to answer; it does so within the call that sends.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of one answer; with capped acknowledgements it is a header and a short text.
const ANSWER_SIZE: usize = 8192;
/// Attribute of an answer that holds the kernel's own words (`NLMSGERR_ATTR_MSG`, linux/netlink.h).
const ERROR_MESSAGE: u16 = 1;
/// Bytes of the header of a netlink message.
const HEADER_SIZE: usize = 16;

/// Changes in order, each with the name of what it changes for error messages.
#[derive(Default)]
pub(super) struct Transaction {
    changes: Vec<Change>,
}

struct Change {
    object: String,
    flags: u16,
    message: NfTablesMessage,
}

impl Transaction {
    /// Adds a change; `flags` are the netlink flags besides the usual ones.
    pub(super) fn push(&mut self, object: impl Into<String>, flags: u16, message: NfTablesMessage) {
        self.changes.push(Change {
            object: object.into(),
            flags,
            message,
        });
    }
}

/// A netlink socket in the network namespace of the thread that opened it.
pub(super) struct Connection {
    socket: Socket,
    sequence: u32,
}

impl Connection {
    /// Opens the socket.
    pub(super) fn open() -> Result<Self, Error> {
        let failed = |operation| move |source| Error::Netlink { operation, source };
        let mut socket = Socket::new(NETLINK_NETFILTER).map_err(|source| {
            let errno = Errno::from_io_error(&source);
            errno.map_or_else(
                || failed("open a socket")(io::Error::other("unknown error")),
                |errno| Error::refused("netlink socket", errno, None),
            )
        })?;
        socket.bind_auto().map_err(failed("bind the socket"))?;
        // Without them errors have no text, or carry the whole request; neither is fatal.
        let _optional = socket.set_ext_ack(true);
        let _optional = socket.set_cap_ack(true);
        socket2::SockRef::from(&socket)
            .set_read_timeout(Some(ANSWER_TIMEOUT))
            .map_err(failed("bound the wait for answers"))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Applies all changes at once.
    pub(super) fn commit(&mut self, transaction: Transaction) -> Result<(), Error> {
        let begin = self.sequence.wrapping_add(1);
        let mut batch = Vec::new();
        self.append(
            &mut batch,
            0,
            NetfilterProtoFamily::Unspec,
            ControlMessage::BatchBegin,
        );
        let mut objects = Vec::with_capacity(transaction.changes.len());
        let last = transaction.changes.len().saturating_sub(1);
        for (index, change) in transaction.changes.into_iter().enumerate() {
            // One acknowledgement, of the last change, ends the wait for all.
            let acknowledge = if index == last { NLM_F_ACK } else { 0 };
            self.append(
                &mut batch,
                change.flags | acknowledge,
                NetfilterProtoFamily::Inet,
                change.message,
            );
            objects.push(change.object);
        }
        self.append(
            &mut batch,
            0,
            NetfilterProtoFamily::Unspec,
            ControlMessage::BatchEnd,
        );
        let kernel = SocketAddr::new(0, 0);
        self.socket
            .send_to(&batch, &kernel, 0)
            .map_err(|source| Error::Netlink {
                operation: "send a transaction",
                source,
            })?;
        self.outcome(begin, &objects)
    }

    fn append(
        &mut self,
        batch: &mut Vec<u8>,
        flags: u16,
        family: NetfilterProtoFamily,
        inner: impl Into<NetfilterMessageInner>,
    ) {
        self.sequence = self.sequence.wrapping_add(1);
        let resource = match family {
            NetfilterProtoFamily::Unspec => SUBSYSTEM,
            _ => 0,
        };
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let payload = NetfilterMessage::new(NetfilterHeader::new(family, 0, resource), inner);
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(payload));
        message.finalize();
        let start = batch.len();
        batch.resize(start + message.buffer_len(), 0);
        message.serialize(&mut batch[start..]);
    }

    /// Reads answers until the last change is acknowledged or one is refused. The first error is
    /// the cause; those after it are about what builds on the refused change.
    fn outcome(&self, begin: u32, objects: &[String]) -> Result<(), Error> {
        loop {
            let mut answer = Vec::with_capacity(ANSWER_SIZE);
            self.socket
                .recv(&mut answer, 0)
                .map_err(|source| Error::Netlink {
                    operation: "read the answer",
                    source,
                })?;
            let answer = NetlinkMessage::<NetfilterMessage>::deserialize(&answer);
            let answer = answer.map_err(|error| Error::Netlink {
                operation: "read the answer",
                source: io::Error::new(io::ErrorKind::InvalidData, error),
            })?;
            let NetlinkPayload::Error(error) = answer.payload else {
                continue;
            };
            // Answers to an earlier transaction, which was given up at its first error, have
            // numbers outside of this one's range.
            let position = answer.header.sequence_number.wrapping_sub(begin) as usize;
            if position > objects.len() {
                continue;
            }
            match (error.code, position) {
                (None, position) if position == objects.len() => return Ok(()),
                (None, _) => {}
                (Some(code), position) => {
                    let errno = Errno::from_raw_os_error(code.get().saturating_neg());
                    return Err(match (position, errno) {
                        (0, Errno::PERM | Errno::ACCESS) => Error::NotPermitted,
                        (0, errno) => Error::refused("transaction", errno, words(&error.header)),
                        (position, errno) => {
                            let object = objects.get(position - 1).map_or("", String::as_str);
                            Error::refused(object, errno, words(&error.header))
                        }
                    });
                }
            }
        }
    }
}

/// The kernel's own words in an answer, after the header of the refused message.
fn words(after_code: &[u8]) -> Option<String> {
    let attributes = after_code.get(HEADER_SIZE..)?;
    let text = NlasIterator::new(attributes)
        .filter_map(Result::ok)
        .find(|attribute| attribute.kind() == ERROR_MESSAGE)?;
    let text = String::from_utf8_lossy(text.value());
    Some(text.trim_end_matches('\0').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_the_kernel_follow_the_header_of_the_request() {
        let mut answer = vec![0; HEADER_SIZE];
        // NLMSGERR_ATTR_OFFS before NLMSGERR_ATTR_MSG.
        answer.extend_from_slice(&[8, 0, 2, 0, 1, 2, 3, 4]);
        answer.extend_from_slice(&[7, 0, 1, 0, b'n', b'o', 0, 0]);
        assert_eq!(words(&answer).as_deref(), Some("no"));
        assert_eq!(words(&answer[..HEADER_SIZE]), None);
        assert_eq!(words(&answer[..3]), None);
        assert_eq!(words(&answer[..HEADER_SIZE + 10]), None);
    }
}
