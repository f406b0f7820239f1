//! The executor of a process: sized from what the process may use, with panics contained.
//!
//! Owns the threads, the bound on blocking work and, for threads that serve connections of their
//! own, the waiting for them ([`Runtime::for_one_thread`]). Never decides what runs on them, and holds no
//! global state: whoever may start tasks is given a [`Spawner`].

mod reactor;

use std::future::Future;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use smol::future::FutureExt;
use smol::lock::Semaphore;
use smol::{Executor, Task};

use crate::lifecycle::Shutdown;

use reactor::Reactor;
pub use reactor::Registered;

/// The most executor threads a process has, whatever the machine: the reactor under them is one
/// epoll, so more threads would only contend for it.
pub const MAX_THREADS: NonZeroUsize = NonZeroUsize::new(8).unwrap();

/// The most pieces of blocking work under way at once. The pool below grows to 500 threads; in a
/// sandbox with a pids limit that would starve the workload.
pub const MAX_BLOCKING: usize = 16;

/// How many executor threads fit the process.
///
/// The standard library's count is the smallest of the affinity mask and the cgroup's CPU quota
/// (v1 and v2) rounded down, so a quota below two cores gives one thread: no stealing, and no
/// throttling in the middle of a request. One thread too when the count is unknown.
#[must_use]
pub fn threads() -> NonZeroUsize {
    std::thread::available_parallelism()
        .unwrap_or(NonZeroUsize::MIN)
        .min(MAX_THREADS)
}

/// An executor and its threads.
///
/// Dropping it stops the threads after the task each is polling, and drops the tasks that nobody
/// else holds.
#[derive(Debug)]
pub struct Runtime {
    spawner: Spawner,
    stop: Shutdown,
}

impl Runtime {
    /// Starts the threads; the one calling [`block_on`](Self::block_on) is one of them, so with
    /// `threads` = 1 none is started.
    ///
    /// # Errors
    ///
    /// The system refuses a thread, for example because of a pids limit.
    pub fn new(threads: NonZeroUsize) -> io::Result<Self> {
        let runtime = Self {
            spawner: Spawner {
                executor: Arc::new(Executor::new()),
                blocking: Arc::new(Semaphore::new(MAX_BLOCKING)),
                reactor: None,
            },
            stop: Shutdown::new(),
        };
        for number in 1..threads.get() {
            let executor = runtime.spawner.executor.clone();
            let stop = runtime.stop.clone();
            std::thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(move || smol::block_on(executor.run(stop.wait())))?;
        }
        Ok(runtime)
    }

    /// An executor for one thread, the one that calls [`block_on`](Self::block_on), with a reactor
    /// of its own for the sockets that are [registered](Spawner::register) with it.
    ///
    /// # Errors
    ///
    /// The system refuses a descriptor.
    pub fn for_one_thread() -> io::Result<Self> {
        Ok(Self {
            spawner: Spawner {
                executor: Arc::new(Executor::new()),
                blocking: Arc::new(Semaphore::new(MAX_BLOCKING)),
                reactor: Some(Arc::new(Reactor::new()?)),
            },
            stop: Shutdown::new(),
        })
    }

    /// Runs `future` and every spawned task until `future` is done.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        let running = self.spawner.executor.run(future);
        match &self.spawner.reactor {
            Some(reactor) => reactor.block_on(running),
            None => smol::block_on(running),
        }
    }

    /// Starts a task; see [`Spawner::spawn`].
    pub fn spawn<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Task<T> {
        self.spawner.spawn(future)
    }

    /// A handle for the parts that start tasks of their own.
    #[must_use]
    pub fn spawner(&self) -> Spawner {
        self.spawner.clone()
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.stop.trigger();
    }
}

/// The right to start tasks on a [`Runtime`].
#[derive(Clone, Debug)]
pub struct Spawner {
    executor: Arc<Executor<'static>>,
    blocking: Arc<Semaphore>,
    reactor: Option<Arc<Reactor>>,
}

impl Spawner {
    /// Starts a task. Dropping the handle cancels it; `detach` lets it run on its own.
    ///
    /// A task that panics takes nothing else with it: the panic reaches the process's panic hook
    /// ([`crate::lifecycle::report_panics`]), a detached task is gone, and one that is awaited
    /// panics its awaiter. A task the process cannot live without is spawned [`contained`].
    pub fn spawn<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Task<T> {
        self.executor.spawn(future)
    }

    /// Has the runtime's own reactor wait for a non-blocking socket; gives the socket back where the
    /// runtime has none.
    ///
    /// # Errors
    ///
    /// The system refuses to watch one more.
    pub fn register<S: AsFd>(&self, socket: S) -> io::Result<Result<Registered<S>, S>> {
        match &self.reactor {
            Some(reactor) => Registered::new(reactor, socket).map(Ok),
            None => Ok(Err(socket)),
        }
    }

    /// Runs blocking work (file system, `fsync`) on a thread of its own, at most [`MAX_BLOCKING`]
    /// at once; more wait their turn in order.
    pub async fn unblock<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let permit = self.blocking.acquire_arc().await;
        smol::unblock(move || {
            // Held by the work itself: a caller that stops waiting does not stop the work.
            let _permit = permit;
            work()
        })
        .await
    }
}

/// A task panicked; the panic itself went to the process's panic hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the task panicked")]
pub struct Panicked;

/// Turns a panic of `future` into a value, for tasks that are to be restarted or whose loss is to
/// fail the health check.
///
/// # Errors
///
/// The future panicked; what it captured by reference may be in the middle of a change.
pub async fn contained<T>(future: impl Future<Output = T>) -> Result<T, Panicked> {
    AssertUnwindSafe(future)
        .catch_unwind()
        .await
        .map_err(|_| Panicked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    fn runtime(threads: usize) -> Runtime {
        Runtime::new(NonZeroUsize::new(threads).unwrap()).unwrap()
    }

    #[test]
    fn the_number_of_threads_is_bounded() {
        assert!(threads() <= MAX_THREADS);
    }

    #[test]
    fn one_thread_runs_everything_on_the_caller() {
        let runtime = runtime(1);
        let here = std::thread::current().id();
        let task = runtime.spawn(async { std::thread::current().id() });
        assert_eq!(runtime.block_on(task), here);
    }

    #[test]
    fn tasks_run_on_as_many_threads_as_asked() {
        let runtime = runtime(3);
        // Each task blocks its thread until three threads are in the barrier.
        let barrier = Arc::new(Barrier::new(3));
        let tasks: Vec<_> = (0..3)
            .map(|_| {
                let barrier = barrier.clone();
                runtime.spawn(async move {
                    barrier.wait();
                    std::thread::current().name().map(str::to_owned)
                })
            })
            .collect();
        let mut names: Vec<_> = runtime.block_on(async {
            let mut names = Vec::new();
            for task in tasks {
                names.push(task.await);
            }
            names
        });
        names.retain(|name| name.as_deref().is_some_and(|n| n.starts_with("worker-")));
        names.sort();
        let workers = ["worker-1", "worker-2"].map(|name| Some(name.to_owned()));
        assert_eq!(names, workers);
    }

    #[test]
    fn a_panicking_task_takes_nothing_with_it() {
        let runtime = runtime(1);
        runtime
            .spawn(async { panic!("this panic is part of a test") })
            .detach();
        let task = runtime.spawn(contained(async { panic!("this panic is part of a test") }));
        let result: Result<(), Panicked> = runtime.block_on(task);
        assert_eq!(result, Err(Panicked));
        assert_eq!(runtime.block_on(runtime.spawn(async { 7 })), 7);
    }

    #[test]
    fn dropping_the_runtime_stops_its_threads() {
        let runtime = runtime(2);
        let executor = Arc::downgrade(&runtime.spawner.executor);
        drop(runtime);
        while executor.strong_count() > 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn blocking_work_is_bounded() {
        let runtime = runtime(1);
        let running = Arc::new(AtomicUsize::new(0));
        let most = Arc::new(AtomicUsize::new(0));
        let tasks: Vec<_> = (0..3 * MAX_BLOCKING)
            .map(|_| {
                let (running, most) = (running.clone(), most.clone());
                let spawner = runtime.spawner();
                runtime.spawn(async move {
                    let work = move || {
                        most.fetch_max(
                            running.fetch_add(1, Ordering::SeqCst) + 1,
                            Ordering::SeqCst,
                        );
                        std::thread::sleep(Duration::from_millis(2));
                        running.fetch_sub(1, Ordering::SeqCst);
                    };
                    spawner.unblock(work).await;
                })
            })
            .collect();
        runtime.block_on(async {
            for task in tasks {
                task.await;
            }
        });
        let most = most.load(Ordering::SeqCst);
        assert!((1..=MAX_BLOCKING).contains(&most), "{most}");
    }
}
