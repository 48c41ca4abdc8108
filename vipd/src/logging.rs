//! Log lines on their way to standard error. A thread writes them: whoever reads there may stop
//! (Ctrl-S in a terminal, a journal that hangs), and a failover must not wait for that.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

/// Lines that wait at most; the next ones are lost, and counted.
const LINES: usize = 4096;
/// The longest that the end of the program waits for its last lines.
const PATIENCE: Duration = Duration::from_secs(1);

/// Takes lines and never blocks. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Log {
    queue: SyncSender<Entry>,
    lost: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Entry {
    Line(Vec<u8>),
    /// To be answered when everything before it is written.
    Flush(SyncSender<()>),
}

impl Log {
    /// Starts the thread that writes to `sink`.
    ///
    /// # Errors
    ///
    /// No thread can be started.
    pub fn start(sink: impl Write + Send + 'static) -> io::Result<Self> {
        let (queue, entries) = sync_channel(LINES);
        let lost = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&lost);
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write_all(sink, &entries, &counter))?;
        Ok(Self { queue, lost })
    }

    /// Waits until what was logged is written, a second at most.
    pub fn finish(&self) {
        let deadline = Instant::now() + PATIENCE;
        let (written, done) = sync_channel(1);
        let mut request = Entry::Flush(written);
        while let Err(TrySendError::Full(refused)) = self.queue.try_send(request) {
            if Instant::now() >= deadline {
                return;
            }
            request = refused;
            std::thread::sleep(Duration::from_millis(1));
        }
        // In time or not: the program ends.
        let _ = done.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

/// Each call is one entry; tracing-subscriber writes a line by one.
impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self.queue.try_send(Entry::Line(line.to_owned())) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            Err(TrySendError::Full(_)) => {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_all(mut sink: impl Write, entries: &Receiver<Entry>, lost: &AtomicU64) {
    for entry in entries {
        // There is nowhere to report that standard error is closed.
        let _ = match entry {
            Entry::Line(line) => sink.write_all(&line),
            Entry::Flush(written) => {
                let _ = written.send(());
                Ok(())
            }
        };
        let lost = lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let _ = writeln!(sink, "{lost} log lines were lost: nobody read them in time");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use super::*;

    /// Blocks while the other half is locked.
    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_stopped_holds_nobody_up_and_hears_how_much_it_missed() {
        let sink = Sink::default();
        let mut log = Log::start(sink.clone()).unwrap();
        let stopped = sink.0.lock().unwrap();
        for _ in 0..2 * LINES {
            log.write_all(b"line\n").unwrap();
        }
        drop(stopped);
        log.finish();
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        let lines = text.matches("line\n").count();
        assert!((LINES..2 * LINES).contains(&lines), "{lines}");
        assert!(text.contains("log lines were lost"), "{text}");
    }
}
