//! One thread for each core, with listeners, connections to sandboxes and tasks of its own.
//!
//! Owns the threads. A request never changes its thread: the client's connection, the sandbox's
//! and whatever wakes them are polled on the same one.

use std::io;
use std::sync::Arc;

use smol::channel::Receiver;

use super::ledger::Account;
use super::{Core, Shared};
use crate::http::server::Server;
use crate::lifecycle::DrainCut;
use crate::runtime::Runtime;

/// The threads that serve.
#[derive(Debug)]
pub struct Cores {
    ended: Receiver<Result<(), DrainCut>>,
}

/// Serves on every one of `servers`, each on a thread of its own, until the shutdown in `shared`.
///
/// # Errors
///
/// The system refuses a thread or a descriptor.
pub fn start(servers: Vec<Server>, shared: &Arc<Shared>) -> io::Result<Cores> {
    let (end, ended) = smol::channel::bounded(servers.len().max(1));
    for (number, server) in servers.into_iter().enumerate() {
        let (shared, end) = (shared.clone(), end.clone());
        let runtime = Runtime::for_one_thread()?;
        std::thread::Builder::new()
            .name(format!("proxy-{number}"))
            .spawn(move || {
                let outcome = runtime.block_on(serve(server, shared, &runtime));
                // The channel has room for every thread.
                let _ = end.try_send(outcome);
            })?;
    }
    Ok(Cores { ended })
}

async fn serve(server: Server, shared: Arc<Shared>, runtime: &Runtime) -> Result<(), DrainCut> {
    let spawner = runtime.spawner();
    let core = Arc::new(Core::new(shared.clone(), spawner.clone()));
    let tidying = runtime.spawn({
        let core = core.clone();
        async move { core.upstream.tidy().await }
    });
    let shutdown = shared.shutdown.clone();
    let outcome = server.serve(spawner, core, Account(shared), shutdown).await;
    tidying.cancel().await;
    outcome
}

impl Cores {
    /// Completes when every thread has served its last request.
    ///
    /// # Errors
    ///
    /// Something was cut off.
    pub async fn finished(&self) -> Result<(), DrainCut> {
        let mut outcome = Ok(());
        while let Ok(ended) = self.ended.recv().await {
            outcome = outcome.and(ended);
        }
        outcome
    }
}
