//! The threads that write the log and export it take second place: where there is too little
//! processor time for everything, what they tell of comes first.

/// What such a thread adds to the nice value it was started with. With 5 it still gets a quarter of
/// the time of a processor it shares with one that is busy, so that it comes to its end too.
const STEP: i32 = 5;

/// Makes the calling thread one of them, and no other of the process.
pub(super) fn step_back() {
    // Linux keeps the nice value by thread. Where it may not be changed it stays.
    let _ = rustix::process::nice(STEP);
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::getpriority_process;

    #[test]
    fn only_the_calling_thread_steps_back() {
        let before = getpriority_process(None).unwrap();
        let stepped = std::thread::spawn(|| {
            step_back();
            getpriority_process(None).unwrap()
        });
        // The least a thread can have is 19.
        assert_eq!(stepped.join().unwrap(), (before + STEP).min(19));
        assert_eq!(getpriority_process(None).unwrap(), before);
    }
}
