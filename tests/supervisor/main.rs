//! The supervisor as a real process with real workers (`docs/supervisor.md`).

mod command_line;
mod footprint;
mod hooks;
mod init;
mod run;
mod signals;
mod worker;
