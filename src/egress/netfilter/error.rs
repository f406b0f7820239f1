//! Why the kernel's packet filter could not be changed, and what to do about it.

use std::io;

use rustix::io::Errno;

/// A change to the packet filter that was not made; the kernel is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process may not change the packet filter.
    #[error(
        "changing the packet filter of this network namespace needs CAP_NET_ADMIN: give the \
         container that capability"
    )]
    NotPermitted,
    /// The kernel lacks nf_tables or a part of it.
    #[error(
        "the kernel cannot hold the {object}: {source}{}; it needs Linux 5.2 or later with \
         nf_tables, NAT and conntrack (modules nf_tables, nft_chain_nat, nft_redir, nft_ct, \
         nft_reject_inet)",
        detail(.message)
    )]
    Unsupported {
        /// The part of the table that could not be created.
        object: String,
        /// The error number.
        source: io::Error,
        /// The kernel's own words, if it gave any.
        message: Option<String>,
    },
    /// The kernel refused a change for another reason.
    #[error("the kernel refused the {object}: {source}{}", detail(.message))]
    Refused {
        /// What was to be changed.
        object: String,
        /// The error number.
        source: io::Error,
        /// The kernel's own words, if it gave any.
        message: Option<String>,
    },
    /// The conversation with the kernel failed.
    #[error("talking to the packet filter: {operation}: {source}")]
    Netlink {
        /// What was attempted.
        operation: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

fn detail(message: &Option<String>) -> String {
    message
        .as_ref()
        .map(|message| format!(" ({message})"))
        .unwrap_or_default()
}

impl Error {
    /// Whether no change of this kind can succeed here, so that the choice is to stop or to run
    /// without enforcement.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::NotPermitted | Self::Unsupported { .. })
    }

    /// The kernel's answer to the message that was to create or change `object`.
    pub(super) fn refused(object: &str, errno: Errno, message: Option<String>) -> Self {
        let (object, source) = (object.to_owned(), errno.into());
        // The codes nf_tables gives when an expression, chain type or family is not built in.
        match errno {
            Errno::NOENT
            | Errno::OPNOTSUPP
            | Errno::AFNOSUPPORT
            | Errno::PROTONOSUPPORT
            | Errno::NOSYS => Self::Unsupported {
                object,
                source,
                message,
            },
            _ => Self::Refused {
                object,
                source,
                message,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_lacks_is_told_apart_from_what_it_refuses() {
        let words = Some("Could not process".to_owned());
        let lacking = Error::refused("chain redirect", Errno::NOENT, words);
        assert!(lacking.is_unavailable());
        let text = lacking.to_string();
        assert!(
            text.starts_with("the kernel cannot hold the chain redirect: "),
            "{text}"
        );
        assert!(
            text.contains(" (Could not process); it needs Linux 5.2"),
            "{text}"
        );

        let refused = Error::refused("set upstream_v4", Errno::EXIST, None);
        assert!(!refused.is_unavailable());
        let text = refused.to_string();
        assert_eq!(
            text,
            "the kernel refused the set upstream_v4: File exists (os error 17)"
        );
    }
}
