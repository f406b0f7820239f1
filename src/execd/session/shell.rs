//! The shell of a session: one `bash` that is handed texts to run and says how each ended.
//!
//! Owns the process and its private descriptors. Decides nothing: when a run has to end, and what
//! becomes of the shell then, is the session's business.

use std::ffi::OsStr;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::LazyLock;
use std::task::Poll;

use smol::Async;

use crate::execd::Engine;
use crate::execd::command::null;
use crate::execd::environment::Environment;
use crate::execd::pump::{Pipes, Stream, pipe};
use crate::execd::spawn::{Child, SpawnError, Spec, find_bash};

/// The most bytes of a shell's state that are taken from it. A shell with more keeps running, but
/// is restored from an earlier state should it end.
pub const MAX_STATE: usize = 8 * 1024 * 1024;

/// The most bytes of an exit code.
const MAX_CODE: usize = 16;

/// The driver with its lines joined and its comments left out.
static DRIVER: LazyLock<String> = LazyLock::new(|| {
    include_str!("driver.sh")
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with('#'))
        .collect::<Vec<_>>()
        .join(" ")
});

/// A shell that waits for texts, or runs one.
pub(super) struct Shell {
    pub child: Child,
    pub output: Pipes,
    pub control: Control,
}

/// The private descriptors of a shell.
pub(super) struct Control {
    texts: Async<OwnedFd>,
    answers: Async<OwnedFd>,
    /// Bytes of answers that have not been asked for.
    read: Vec<u8>,
}

impl Shell {
    /// Starts a shell. May block.
    pub(super) fn start(
        engine: &Engine,
        environment: &Environment,
        directory: Option<&Path>,
    ) -> Result<Self, SpawnError> {
        let program = find_bash(&engine.environment)?;
        let input = null().map_err(SpawnError::descriptors("open /dev/null"))?;
        let (output, child_output) = pipe().map_err(SpawnError::descriptors("pipe"))?;
        let (answers, child_answers) = pipe().map_err(SpawnError::descriptors("pipe"))?;
        let (child_texts, texts) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(SpawnError::descriptors("pipe"))?;
        let texts = Async::new(texts).map_err(SpawnError::descriptors("pipe"))?;
        let arguments = ["bash", "--noprofile", "--norc", "-c", &DRIVER, "bash"].map(OsStr::new);
        let child = engine.children.spawn(&Spec {
            program: &program,
            arguments: &arguments,
            environment,
            directory,
            credentials: None,
            descriptors: &[
                input.as_fd(),
                child_output.as_fd(),
                child_output.as_fd(),
                child_texts.as_fd(),
                child_answers.as_fd(),
            ],
            terminal: false,
        })?;
        Ok(Self {
            child,
            output: Pipes::new([(Stream::Stdout, output)]),
            control: Control {
                texts,
                answers,
                read: Vec::new(),
            },
        })
    }
}

impl Control {
    /// Hands the shell what to run: a text that prepares the run, without which there is none, and
    /// the run. Completes with the exit code; none if the shell does not answer any more.
    pub(super) async fn run(&mut self, prepare: &[u8], text: &[u8]) -> Option<i32> {
        for part in [prepare, text] {
            let length = format!("{}\n", part.len());
            self.write(&[length.as_bytes(), part].concat()).await.ok()?;
        }
        let code = self.field(MAX_CODE).await??;
        std::str::from_utf8(&code).ok()?.parse().ok()
    }

    /// What restores the shell as it is after a run: a text for `eval`. `Some(None)` if it is too
    /// long; none if the shell does not answer.
    pub(super) async fn state(&mut self) -> Option<Option<Vec<u8>>> {
        self.field(MAX_STATE).await
    }

    async fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match rustix::io::write(self.texts.get_ref(), bytes) {
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    poll_fn(|context| self.texts.poll_writable(context)).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The next answer, up to its final byte 0; `Some(None)` if it is longer than `limit`.
    async fn field(&mut self, limit: usize) -> Option<Option<Vec<u8>>> {
        let mut too_long = false;
        let mut searched = 0;
        loop {
            let unsearched = self.read.get(searched..).unwrap_or_default();
            if let Some(end) = memchr::memchr(0, unsearched) {
                let rest = self.read.split_off(searched + end + 1);
                let mut field = std::mem::replace(&mut self.read, rest);
                field.pop();
                return Some((!too_long && field.len() <= limit).then_some(field));
            }
            if self.read.len() > limit {
                too_long = true;
                self.read.clear();
            }
            searched = self.read.len();
            let read = poll_fn(|context| {
                loop {
                    let mut chunk = [0; 4096];
                    match rustix::io::read(self.answers.get_ref(), &mut chunk) {
                        Ok(read) => {
                            self.read
                                .extend_from_slice(chunk.get(..read).unwrap_or_default());
                            return Poll::Ready(read > 0);
                        }
                        Err(rustix::io::Errno::INTR) => {}
                        Err(rustix::io::Errno::AGAIN) => {
                            match self.answers.poll_readable(context) {
                                Poll::Ready(Ok(())) => {}
                                Poll::Ready(Err(_)) => return Poll::Ready(false),
                                Poll::Pending => return Poll::Pending,
                            }
                        }
                        Err(_) => return Poll::Ready(false),
                    }
                }
            });
            if !read.await {
                return None;
            }
        }
    }
}

/// Appends bytes as one word of the shell.
pub(super) fn quote(bytes: &[u8], to: &mut Vec<u8>) {
    to.push(b'\'');
    for (index, part) in bytes.split(|byte| *byte == b'\'').enumerate() {
        if index > 0 {
            to.extend_from_slice(b"'\\''");
        }
        to.extend_from_slice(part);
    }
    to.push(b'\'');
}
