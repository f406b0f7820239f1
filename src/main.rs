//! `argv` to applet to exit code; nothing else.

use std::process::ExitCode;

#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: opensandbox::allocator::Allocator = opensandbox::allocator::Allocator;

fn main() -> ExitCode {
    opensandbox::applet::main()
}
