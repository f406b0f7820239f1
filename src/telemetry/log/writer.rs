//! The thread that writes the lines of one output, and tells what was lost.

use std::sync::Arc;
use std::time::SystemTime;

use slog::{b, record};

use super::Pipeline;
use super::dropped::Reason;
use super::queue::{Losses, Work};
use super::sink::{Failure, Sink};
use crate::telemetry::background;

/// Writes what comes to the pipeline's output `position` until its queue is closed and empty.
pub(super) fn run(pipeline: &Arc<Pipeline>, position: usize, sink: Sink) {
    let Some(output) = pipeline.outputs.get(position) else {
        return;
    };
    let mut writer = Writer {
        pipeline,
        position,
        sink,
        failing: false,
        untold: Losses::default(),
    };
    background::step_back();
    let mut lines = Vec::new();
    loop {
        match output.queue.next(&mut lines) {
            Work::Lines => writer.write(&lines),
            Work::Report(losses) => {
                writer.add(&losses);
                writer.tell();
            }
            Work::Finish => return,
        }
    }
}

struct Writer<'a> {
    pipeline: &'a Pipeline,
    position: usize,
    sink: Sink,
    /// The last write failed, and the other outputs have been told.
    failing: bool,
    /// Losses of this output that its reader has not been told of.
    untold: Losses,
}

impl Writer<'_> {
    fn write(&mut self, lines: &[u8]) {
        match self.sink.write(lines, SystemTime::now()) {
            Ok(()) => {
                if std::mem::take(&mut self.failing) {
                    self.tell();
                }
            }
            Err(failure) => self.fail(lines, &failure),
        }
    }

    fn fail(&mut self, lines: &[u8], failure: &Failure) {
        let rest = lines.get(failure.written..).unwrap_or_default();
        let records = rest.iter().filter(|byte| **byte == b'\n').count() as u64;
        let reason = if failure.is_closed() {
            Reason::OutputClosed
        } else {
            Reason::WriteFailed
        };
        self.pipeline.dropped.add(reason, records);
        self.untold[reason as usize] += records;
        if !std::mem::replace(&mut self.failing, true) && !failure.is_closed() {
            let name = self
                .pipeline
                .outputs
                .get(self.position)
                .map_or("", |output| &output.name);
            let others = |line: &[u8]| {
                for (position, other) in self.pipeline.outputs.iter().enumerate() {
                    if position != self.position {
                        other.queue.push(line);
                    }
                }
            };
            self.pipeline.encoded(
                &record!(
                    slog::Level::Error,
                    "",
                    &format_args!("log output failed: {}", failure.error),
                    b!("output" => name)
                ),
                others,
            );
        }
    }

    fn add(&mut self, losses: &Losses) {
        for (total, count) in self.untold.iter_mut().zip(losses) {
            *total += count;
        }
    }

    /// Writes one record for each reason records were lost for; what cannot be told now is told
    /// after the next write that succeeds.
    fn tell(&mut self) {
        for reason in Reason::ALL {
            let count = self.untold[reason as usize];
            if count == 0 {
                continue;
            }
            let sink = &mut self.sink;
            let told = self.pipeline.encoded(
                &record!(
                    slog::Level::Warning,
                    "",
                    &format_args!("log records dropped"),
                    b!("reason" => reason.as_str(), "count" => count)
                ),
                |line| sink.write(line, SystemTime::now()),
            );
            if told.is_err() {
                self.failing = true;
                return;
            }
            self.untold[reason as usize] = 0;
        }
    }
}
