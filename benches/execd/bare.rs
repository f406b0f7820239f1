//! What everything is compared with: the same shell and the same bytes, and nothing around them.

use std::collections::VecDeque;
use std::ffi::CString;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::ptr;
use std::time::{Duration, Instant};

/// How long something takes.
pub fn timed(work: impl FnOnce()) -> Duration {
    let begin = Instant::now();
    work();
    begin.elapsed()
}

/// A quantile in microseconds.
pub fn quantile(times: &mut [Duration], percent: usize) -> f64 {
    times.sort_unstable();
    times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e6
}

/// Starts `true` in the shell with nothing around it.
pub fn posix_spawn(shell: &Path) -> libc::pid_t {
    unsafe extern "C" {
        static environ: *const *mut libc::c_char;
    }
    let path = CString::new(shell.as_os_str().as_encoded_bytes()).expect("a path");
    let arguments = [path.clone(), c"-c".to_owned(), c"true".to_owned()];
    let mut pointers: Vec<_> = arguments
        .iter()
        .map(|text| text.as_ptr().cast_mut())
        .collect();
    pointers.push(ptr::null_mut());
    let mut pid = 0;
    // SAFETY: every pointer is to a terminated string or vector that outlives the call, and nothing
    // changes the environment meanwhile.
    let result = unsafe {
        libc::posix_spawn(
            &raw mut pid,
            path.as_ptr(),
            ptr::null(),
            ptr::null(),
            pointers.as_ptr(),
            environ,
        )
    };
    assert_eq!(result, 0);
    pid
}

/// Waits for the end of a process.
pub fn wait(pid: libc::pid_t) {
    let mut status = 0;
    // SAFETY: the pointer is to local storage.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
}

/// Starts `many` shells, so many of them at once.
pub fn bare_loop(shell: &Path, concurrent: usize, many: usize) {
    let mut running = VecDeque::new();
    for _ in 0..many {
        if running.len() == concurrent {
            running.pop_front().into_iter().for_each(wait);
        }
        running.push_back(posix_spawn(shell));
    }
    running.into_iter().for_each(wait);
}

/// Reads what a program writes to a pipe: so many bytes.
pub fn read_pipe(program: &str, arguments: &[&str], bytes: usize) {
    let mut child = Command::new(program)
        .args(arguments)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program");
    let mut output = child.stdout.take().expect("a pipe");
    let mut buffer = vec![0; 64 * 1024];
    let mut total = 0;
    loop {
        match output.read(&mut buffer).expect("output") {
            0 => break,
            read => total += read,
        }
    }
    assert_eq!(total, bytes);
    child.wait().expect("a status");
}
