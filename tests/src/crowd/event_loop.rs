//! A thread in a namespace that runs an event loop, and ends when it is told to.

use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result};
use tokio::sync::oneshot;

use crate::namespace::Namespace;

/// A running event loop. Dropping it ends it, and with it every connection made there.
#[derive(Debug)]
pub struct EventLoop {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl EventLoop {
    /// Runs the future that `work` makes, in `namespace`, until it is over and [`Self::stop`] is
    /// called. What it spawns goes on in between.
    pub fn start<F: Future<Output = ()>>(
        namespace: &Namespace,
        work: impl FnOnce() -> F + Send + 'static,
    ) -> Result<Self> {
        let namespace = namespace.clone();
        let (stop, stopped) = oneshot::channel();
        let (tell_ready, is_ready) = std::sync::mpsc::channel();
        let thread = thread::spawn(move || {
            let runtime = namespace.enter().and_then(|()| {
                tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .context("cannot make an event loop")
            });
            let (runtime, ready) = match runtime {
                Ok(runtime) => (Some(runtime), Ok(())),
                Err(error) => (None, Err(error)),
            };
            // Whoever started this waits for it.
            let _is_waiting = tell_ready.send(ready);
            let Some(runtime) = runtime else { return };
            runtime.block_on(async {
                tokio::select! {
                    () = async { work().await; std::future::pending().await } => {}
                    // Told, or the one who would tell is gone.
                    _told = stopped => {}
                }
            });
        });
        is_ready.recv().context("the event loop's thread ended")??;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }

    /// Ends it.
    pub fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("the thread of an event loop panicked");
        }
    }
}

impl Drop for EventLoop {
    fn drop(&mut self) {
        self.stop();
    }
}
