//! `argv` to applet to exit code; nothing else.

fn main() {}
