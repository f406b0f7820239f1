//! What the benchmarks share: rounds that take turns, what became of them, what a process uses,
//! and tables.
//!
//! A busy machine makes every number larger for a while. So nothing is measured alone: whatever is
//! compared takes turns, round by round, and a result is the median of the rounds with the
//! quartiles around it. What is rare, such as the slowest answer in a hundred, is estimated from
//! all rounds together instead, and measured on one core.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity};

/// Whether `cargo bench` runs this; otherwise a short run has to do, which proves that it works.
#[must_use]
pub fn measured() -> bool {
    std::env::args().any(|argument| argument == "--bench")
}

/// Whether the part of a benchmark called `name` is wanted: no part was named on the command line,
/// or a beginning of this one was.
#[must_use]
pub fn wanted(name: &str) -> bool {
    let mut named = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .peekable();
    named.peek().is_none() || named.any(|part| name.starts_with(&part))
}

/// Runs every case once a round, and returns what each gave. Each round begins with another case,
/// so that none is always the one after a certain other.
pub fn interleave<T>(rounds: usize, cases: &mut [Box<dyn FnMut() -> T + '_>]) -> Vec<Vec<T>> {
    let count = cases.len();
    let mut results: Vec<_> = cases.iter().map(|_| Vec::with_capacity(rounds)).collect();
    for round in 0..rounds {
        for turn in 0..count {
            let case = (round + turn) % count;
            results[case].push(cases[case]());
        }
    }
    results
}

/// A case: nanoseconds of each call, over a round of about this length.
pub fn timed<'a>(round: Duration, mut act: impl FnMut() + 'a) -> Box<dyn FnMut() -> f64 + 'a> {
    let round = if measured() { round } else { Duration::ZERO };
    Box::new(move || {
        let start = Instant::now();
        let mut calls = 0_u32;
        while calls == 0 || start.elapsed() < round {
            for _ in 0..16 {
                act();
            }
            calls += 16;
        }
        start.elapsed().as_secs_f64() * 1e9 / f64::from(calls)
    })
}

/// The median of some rounds, and the quartiles around it.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    /// Half of the rounds are below.
    pub median: f64,
    /// A quarter of the rounds is below.
    pub low: f64,
    /// A quarter of the rounds is above.
    pub high: f64,
}

impl Spread {
    /// Of `values`; NaN when there are none.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<_> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        Self {
            median: quantile(&values, 0.5),
            low: quantile(&values, 0.25),
            high: quantile(&values, 0.75),
        }
    }

    /// Of the ratios of two rows of rounds, round by round.
    #[must_use]
    pub fn of_ratios(above: &[f64], below: &[f64]) -> Self {
        Self::of(above.iter().zip(below).map(|(above, below)| above / below))
    }
}

/// With the precision asked for: `{:.2}` is `1.25 (1.20-1.31)`.
impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(1);
        let (median, low, high) = (self.median, self.low, self.high);
        write!(f, "{median:.digits$} ({low:.digits$}-{high:.digits$})")
    }
}

/// The value below which `share` of the sorted `values` are; NaN when there are none.
#[must_use]
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let last = values.len().saturating_sub(1);
    let position = (last as f64 * share).round() as usize;
    values.get(position).copied().unwrap_or(f64::NAN)
}

/// Bins of an octave: half of a hundredth apart, nearly.
const BINS: f64 = 128.0;

/// How often [`Estimate::of`] draws.
const DRAWS: usize = 1000;

/// Samples of a round, each kept to within half a hundredth.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    /// How many there are in each bin; the first begins at 1.
    bins: Vec<u32>,
}

impl Samples {
    /// Adds a sample. What is below 1 counts as 1.
    pub fn add(&mut self, value: f64) {
        let bin = (value.max(1.0).log2() * BINS) as usize;
        if self.bins.len() <= bin {
            self.bins.resize(bin + 1, 0);
        }
        self.bins[bin] += 1;
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.bins.iter().map(|count| *count as usize).sum()
    }

    fn merge(&mut self, other: &Self) {
        if self.bins.len() < other.bins.len() {
            self.bins.resize(other.bins.len(), 0);
        }
        for (own, other) in self.bins.iter_mut().zip(&other.bins) {
            *own += other;
        }
    }

    /// The value below which `share` of the samples are; NaN when there are none.
    #[must_use]
    pub fn quantile(&self, share: f64) -> f64 {
        let mut left = (self.count() as f64 * share) as u32;
        for (bin, count) in self.bins.iter().enumerate() {
            match left.checked_sub(*count) {
                Some(rest) => left = rest,
                None => return ((bin as f64 + 0.5) / BINS).exp2(),
            }
        }
        f64::NAN
    }
}

/// A number made of the samples of all rounds, and what it might have been: 95 in 100 draws of as
/// many rounds, with repetition, gave something between the two ends (a bootstrap of the rounds).
#[derive(Clone, Copy, Debug)]
pub struct Estimate {
    /// Of all rounds.
    pub value: f64,
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

impl Estimate {
    /// What `number` makes of the samples of each case. Rounds are drawn for all cases together,
    /// because cases of one round had the same machine.
    pub fn of<const N: usize>(
        cases: [&[Samples]; N],
        number: impl Fn(&[Samples; N]) -> f64,
    ) -> Self {
        let rounds = cases.iter().map(|case| case.len()).min().unwrap_or(0);
        let together = |drawn: &mut dyn Iterator<Item = usize>| {
            let mut all = [const { Samples { bins: Vec::new() } }; N];
            for round in drawn {
                for (all, case) in all.iter_mut().zip(cases) {
                    all.merge(&case[round]);
                }
            }
            number(&all)
        };
        let mut state = 1_u64;
        let mut draw = || {
            // Knuth's MMIX generator; the same draws for every table.
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % rounds
        };
        let mut drawn: Vec<_> = (0..DRAWS)
            .map(|_| together(&mut (0..rounds).map(|_| draw())))
            .collect();
        drawn.sort_by(f64::total_cmp);
        Self {
            value: together(&mut (0..rounds)),
            low: quantile(&drawn, 0.025),
            high: quantile(&drawn, 0.975),
        }
    }
}

/// With the precision asked for, as [`Spread`].
impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(1);
        let Self { value, low, high } = self;
        write!(f, "{value:.digits$} ({low:.digits$} to {high:.digits$})")
    }
}

/// Has some processes share one core, until it is dropped.
///
/// Between two cores of a virtual machine an answer waits for the host, which brings a halted core
/// back when it gets to it: that takes up to milliseconds. On one core that is never halted, what
/// is left of a delay is what the processes do, their threads in the background included. A sandbox
/// of one processor sees the same.
pub struct OneCore {
    before: Vec<(Pid, CpuSet)>,
    is_over: Arc<AtomicBool>,
}

impl OneCore {
    /// Moves every thread of this process, and of `others`, to the first core. The calling thread
    /// goes before all the others, if the system lets it, so that it asks when it is to ask,
    /// whatever those who are to answer are doing.
    #[must_use]
    pub fn share(others: impl IntoIterator<Item = Process>) -> Self {
        let mut first = CpuSet::new();
        first.set(0);
        let mut before = Vec::new();
        for process in std::iter::once(Process(std::process::id())).chain(others) {
            for (thread, _, _) in process.threads() {
                let thread = i32::try_from(thread).ok().and_then(Pid::from_raw);
                // One that has ended needs no core.
                if let Some(thread) = thread
                    && let Ok(cores) = sched_getaffinity(Some(thread))
                    && sched_setaffinity(Some(thread), &first).is_ok()
                {
                    before.push((thread, cores));
                }
            }
        }
        let is_over = Arc::<AtomicBool>::default();
        // Inherits the core, and runs when no other thread does.
        std::thread::spawn({
            let is_over = is_over.clone();
            move || {
                let is_idle = schedule(libc::SCHED_IDLE, 0);
                while is_idle && !is_over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            }
        });
        schedule(libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, 1);
        Self { before, is_over }
    }
}

impl Drop for OneCore {
    fn drop(&mut self) {
        schedule(libc::SCHED_OTHER, 0);
        self.is_over.store(true, Ordering::Relaxed);
        for (thread, cores) in &self.before {
            let _ended = sched_setaffinity(Some(*thread), cores);
        }
    }
}

/// Puts the calling thread into a class of the scheduler; whether that may be.
fn schedule(class: i32, priority: i32) -> bool {
    let priority = libc::sched_param {
        sched_priority: priority,
    };
    // SAFETY: the parameter outlives the call, which reads it.
    unsafe { libc::sched_setscheduler(0, class, &raw const priority) == 0 }
}

/// Moments at a fixed rate. Whoever comes too late for one goes on from there: what was missed is
/// not made up for in a burst, which nobody could answer at once.
pub struct Pace {
    interval: Duration,
    next: Instant,
}

impl Pace {
    /// So many a second.
    #[must_use]
    pub fn new(rate: u32) -> Self {
        Self {
            interval: Duration::from_secs(1) / rate,
            next: Instant::now(),
        }
    }

    /// Waits for the next moment.
    pub fn wait(&mut self) {
        std::thread::sleep(self.next.saturating_duration_since(Instant::now()));
        self.next = self.next.max(Instant::now() - self.interval) + self.interval;
    }
}

/// A process, as procfs shows it.
#[derive(Clone, Copy, Debug)]
pub struct Process(pub u32);

impl Process {
    fn path(self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.0))
    }

    /// Its threads: number, name, and processor time so far.
    #[must_use]
    pub fn threads(self) -> Vec<(u32, String, Duration)> {
        let tasks = fs::read_dir(self.path("task")).expect("the process is alive");
        let thread = |task: PathBuf| {
            // A thread may end while it is looked at.
            let name = fs::read_to_string(task.join("comm")).ok()?;
            let used = fs::read_to_string(task.join("schedstat")).ok()?;
            let used = used.split_whitespace().next()?.parse().ok()?;
            let number = task.file_name()?.to_str()?.parse().ok()?;
            Some((
                number,
                name.trim_end().to_owned(),
                Duration::from_nanos(used),
            ))
        };
        tasks.filter_map(|task| thread(task.ok()?.path())).collect()
    }

    /// Processor time of the threads that run, or of the one called `only`.
    #[must_use]
    pub fn processor_time(self, only: Option<&str>) -> Duration {
        let threads = self.threads();
        let counted = threads
            .iter()
            .filter(|(_, name, _)| only.is_none_or(|only| name == only));
        counted.map(|(_, _, used)| *used).sum()
    }

    /// A line of `/proc/PID/status` in KiB.
    fn status(self, key: &str) -> f64 {
        let status = fs::read_to_string(self.path("status")).expect("the process is alive");
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        let number = line.and_then(|line| line.trim_start_matches(':').split_whitespace().next());
        number.and_then(|number| number.parse().ok()).expect(key)
    }

    /// Resident memory in MiB: all of it, and the part that is not the binary.
    #[must_use]
    pub fn resident(self) -> (f64, f64) {
        (
            self.status("VmRSS") / 1024.0,
            self.status("RssAnon") / 1024.0,
        )
    }

    /// The most memory that was ever resident, in MiB.
    #[must_use]
    pub fn peak(self) -> f64 {
        self.status("VmHWM") / 1024.0
    }

    /// How many sockets it has open.
    #[must_use]
    pub fn sockets(self) -> usize {
        let descriptors = fs::read_dir(self.path("fd")).expect("the process is ours");
        descriptors
            .filter_map(|descriptor| fs::read_link(descriptor.ok()?.path()).ok())
            .filter(|target| target.to_string_lossy().starts_with("socket:"))
            .count()
    }
}

/// Rows of text under headings, printed with aligned columns.
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    #[must_use]
    pub fn new(headings: &[&str]) -> Self {
        Self {
            rows: vec![headings.iter().map(ToString::to_string).collect()],
        }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: &[&dyn fmt::Display]) {
        self.rows
            .push(cells.iter().map(ToString::to_string).collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        for row in &self.rows {
            let mut line = String::from("  ");
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{cell:width$}  "));
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_medians_with_their_quartiles() {
        let spread = Spread::of([5.0, 1.0, 2.0, 4.0, 3.0]);
        assert_eq!(format!("{spread:.0}"), "3 (2-4)");
        let ratios = Spread::of_ratios(&[2.0, 4.0, 9.0], &[1.0, 2.0, 3.0]);
        assert_eq!(format!("{ratios:.1}"), "2.0 (2.0-3.0)");
        assert!(Spread::of([]).median.is_nan());
    }

    #[test]
    fn quantiles_of_samples_are_near_those_of_the_values() {
        let mut samples = Samples::default();
        (0..1000).for_each(|value| samples.add(f64::from(value)));
        assert_eq!(samples.count(), 1000);
        for share in [0.1, 0.5, 0.99] {
            let off = samples.quantile(share) / (1000.0 * share);
            assert!((0.994..1.006).contains(&off), "{off}");
        }
        assert!(Samples::default().quantile(0.5).is_nan());
    }

    #[test]
    fn an_estimate_is_as_sure_as_its_rounds_agree() {
        let round = |values: std::ops::Range<u32>| {
            let mut samples = Samples::default();
            values.for_each(|value| samples.add(f64::from(value)));
            samples
        };
        let median = |[samples]: &[Samples; 1]| samples.quantile(0.5);
        let same = vec![round(100..201); 20];
        let sure = Estimate::of([&same], median);
        assert_eq!(sure.low, sure.high);
        assert!((149.0..151.0).contains(&sure.value), "{sure}");
        let differing: Vec<_> = (0..20)
            .map(|by| round(100 + by * 20..201 + by * 20))
            .collect();
        let unsure = Estimate::of([&differing], median);
        assert!(
            unsure.low < unsure.value && unsure.value < unsure.high,
            "{unsure}"
        );

        let ratio = |[above, below]: &[Samples; 2]| above.quantile(0.5) / below.quantile(0.5);
        let paired = Estimate::of([&differing, &differing], ratio);
        assert_eq!(format!("{paired:.0}"), "1 (1 to 1)");
    }

    #[test]
    fn cases_take_turns() {
        let turns = std::cell::RefCell::new(Vec::new());
        let results = interleave(
            2,
            &mut [
                Box::new(|| turns.borrow_mut().push('a')),
                Box::new(|| turns.borrow_mut().push('b')),
            ],
        );
        assert_eq!(results.len(), 2);
        assert_eq!(*turns.borrow(), ['a', 'b', 'b', 'a']);
    }

    #[test]
    fn a_process_shows_what_it_uses() {
        let process = Process(std::process::id());
        let _socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
        assert!(process.sockets() >= 1);
        let (resident, anonymous) = process.resident();
        assert!(resident > anonymous && anonymous > 0.0);
        assert!(process.peak() >= anonymous);
        assert!(process.processor_time(None) > Duration::ZERO);
        assert_eq!(process.processor_time(Some("nobody")), Duration::ZERO);
    }

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&["name", "value"]);
        table.row(&[&"a longer name", &1]);
        assert_eq!(
            table.to_string(),
            "  name           value\n  a longer name  1\n"
        );
    }
}
