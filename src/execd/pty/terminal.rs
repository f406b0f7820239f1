//! Starting the shell of a terminal: on a pseudo-terminal, or on three pipes.
//!
//! Owns the descriptors' making. What is written and read through them is the session's business.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode as FileMode, OFlags};
use rustix::pty::{OpenptFlags, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use smol::Async;

use super::Mode;
use crate::execd::Engine;
use crate::execd::environment::Environment;
use crate::execd::pump::{Pipes, Stream, pipe};
use crate::execd::spawn::{Child, SpawnError, Spec, find_bash};

/// The size of a terminal until its client tells its own.
const COLUMNS_AND_ROWS: (u16, u16) = (80, 24);

/// What programs take the terminal for, unless the environment says.
const TERM: &str = "xterm-256color";

/// A shell, where its input goes, and where its output comes from.
pub(super) struct Terminal {
    pub child: Child,
    /// On a pseudo-terminal also what its size and its foreground job are asked of.
    pub input: Async<OwnedFd>,
    pub output: Pipes,
}

/// Starts a shell. May block.
pub(super) fn start(
    engine: &Engine,
    mode: Mode,
    environment: &Environment,
    directory: Option<&Path>,
    command: Option<&str>,
) -> Result<Terminal, SpawnError> {
    let program = find_bash(&engine.environment)?;
    let mut arguments = ["bash", "--norc", "--noprofile"].map(OsStr::new).to_vec();
    if let Some(command) = command {
        arguments.extend([OsStr::new("-c"), OsStr::new(command)]);
    }
    let mut environment = environment.clone();
    if mode == Mode::Pty {
        environment.set_default("TERM", TERM);
    }
    let mut spec = Spec {
        program: &program,
        arguments: &arguments,
        environment: &environment,
        directory,
        credentials: None,
        descriptors: &[],
        terminal: false,
    };
    match mode {
        Mode::Pty => {
            let (ours, theirs) = pair().map_err(SpawnError::descriptors("open a terminal"))?;
            let theirs = theirs.as_fd();
            let descriptors = [theirs, theirs, theirs];
            spec.descriptors = &descriptors;
            spec.terminal = true;
            let watched = |terminal: OwnedFd| {
                Async::new(terminal).map_err(SpawnError::descriptors("watch a terminal"))
            };
            let reader = ours.try_clone().map_err(SpawnError::descriptors("dup"))?;
            let (input, reader) = (watched(ours)?, watched(reader)?);
            Ok(Terminal {
                child: engine.children.spawn(&spec)?,
                input,
                output: Pipes::of_terminal(reader),
            })
        }
        Mode::Pipe => {
            let make = || pipe().map_err(SpawnError::descriptors("pipe"));
            let (output, child_output) = make()?;
            let (error, child_error) = make()?;
            let (child_input, input) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
                .map_err(SpawnError::descriptors("pipe"))?;
            let input = Async::new(input).map_err(SpawnError::descriptors("pipe"))?;
            let descriptors = [
                child_input.as_fd(),
                child_output.as_fd(),
                child_error.as_fd(),
            ];
            spec.descriptors = &descriptors;
            Ok(Terminal {
                child: engine.children.spawn(&spec)?,
                input,
                output: Pipes::new([(Stream::Stdout, output), (Stream::Stderr, error)]),
            })
        }
    }
}

/// A pseudo-terminal: our side and that of its processes.
fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    unlockpt(&ours)?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    // By descriptor where the kernel can (4.13): the path may be that of another mount.
    let peer = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let theirs = rustix::pty::ioctl_tiocgptpeer(&ours, peer).or_else(|_| {
        let name = ptsname(&ours, Vec::new())?;
        rustix::fs::open(name, flags, FileMode::empty())
    })?;
    resize(&ours, COLUMNS_AND_ROWS.0, COLUMNS_AND_ROWS.1)?;
    Ok((ours, theirs))
}

/// Tells a terminal its size; its foreground job gets `SIGWINCH`.
pub(super) fn resize(terminal: impl AsFd, columns: u16, rows: u16) -> io::Result<()> {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    Ok(tcsetwinsize(terminal, size)?)
}
