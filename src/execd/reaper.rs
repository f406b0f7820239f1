//! The duty of a first process: collecting the orphans it inherits.
//!
//! Owns the wait for `SIGCHLD`. Never collects a process that was started by this one: those belong
//! to their [`Child`](super::spawn::Child), however long it takes to look.

use std::io;

use async_signal::{Signal, Signals};
use smol::future::FutureExt;
use smol::stream::StreamExt;

use super::spawn::Children;

/// Whether this process inherits orphans as the first process of its namespace.
#[must_use]
pub fn is_first_process() -> bool {
    rustix::process::getpid().is_init()
}

/// Makes this process inherit the orphans among its descendants (`PR_SET_CHILD_SUBREAPER`).
///
/// # Errors
///
/// The kernel refuses.
pub fn inherit_orphans() -> io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(
        rustix::process::getpid(),
    ))?)
}

/// Collects orphans as they end, for as long as it is polled.
///
/// # Errors
///
/// `SIGCHLD` cannot be waited for.
pub async fn run(children: Children) -> io::Result<()> {
    let mut signals = Signals::new([Signal::Child])?;
    loop {
        let collected = children.collected();
        let blocked = children.reap_orphans();
        let next = async {
            signals.next().await;
        };
        if blocked {
            // One of our own is in front of the line until its owner has looked.
            next.or(collected).await;
        } else {
            next.await;
        }
    }
}
