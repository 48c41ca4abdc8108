//! The kernel's rare events, as an asynchronous stream.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use aya::Ebpf;
use aya::maps::{MapData, RingBuf};
use aya_log::EbpfLogger;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;
use tracing::warn;
use vipd_common::maps::KernelEvent;

/// The program's logger: writes to the `log` crate, which tracing-subscriber takes over.
pub(super) struct Logger {
    /// Readable when there is something to write.
    ready: OwnedFd,
    flush: Box<dyn FnMut() + Send>,
}

impl Logger {
    /// Of a loaded program; `None` if it does not log.
    pub(super) fn of(ebpf: &mut Ebpf) -> Option<Self> {
        let mut logger = match EbpfLogger::init(ebpf) {
            Ok(logger) => logger,
            Err(aya_log::Error::MapNotFound) => return None,
            Err(error) => {
                warn!(%error, "the XDP program's own log messages will not be shown");
                return None;
            }
        };
        match logger.as_fd().try_clone_to_owned() {
            Ok(ready) => Some(Self { ready, flush: Box::new(move || logger.flush()) }),
            Err(error) => {
                warn!(%error, "the XDP program's own log messages will not be shown");
                None
            }
        }
    }

    async fn write(self) {
        let Self { ready, mut flush } = self;
        // SAFETY: an OwnedFd stays open and the same for as long as the AsyncFd owns it.
        let ready = match unsafe { AsyncFd::register_with_interest(ready, Interest::READABLE) } {
            Ok(ready) => ready,
            Err(error) => {
                warn!(%error, "the XDP program's own log messages will not be shown");
                return;
            }
        };
        while let Ok(mut guard) = ready.readable().await {
            guard.clear_ready();
            flush();
        }
    }
}

/// Events in the order in which the program wrote them. What was written while no daemon ran
/// comes first.
pub struct Events {
    ring: AsyncFd<RingBuf<MapData>>,
    logger: Option<JoinHandle<()>>,
}

impl Events {
    pub(super) fn new(ring: RingBuf<MapData>, logger: Option<Logger>) -> io::Result<Self> {
        // SAFETY: a RingBuf's descriptor is the map's, open for as long as the AsyncFd owns it.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }?;
        let logger = logger.map(|logger| tokio::spawn(logger.write()));
        Ok(Self { ring, logger })
    }

    /// The next event. Safe to cancel: an event is taken only when it is returned.
    pub async fn next(&mut self) -> io::Result<KernelEvent> {
        loop {
            if let Some(event) = self.take() {
                return Ok(event);
            }
            let mut guard = self.ring.readable_mut().await?;
            // Cleared before the next look, so that what comes in between wakes again.
            guard.clear_ready();
            if let Some(event) = self.take() {
                return Ok(event);
            }
        }
    }

    fn take(&mut self) -> Option<KernelEvent> {
        // The ring is bounded, and so is this loop: it ends at the first well-formed entry.
        while let Some(entry) = self.ring.get_mut().next() {
            match parse(&entry) {
                Some(event) => return Some(event),
                None => warn!(bytes = entry.len(), "an event of unknown size from the XDP program"),
            }
        }
        None
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        if let Some(logger) = &self.logger {
            logger.abort();
        }
    }
}

/// An entry of the ring; `None` if it has another size.
fn parse(bytes: &[u8]) -> Option<KernelEvent> {
    if bytes.len() != size_of::<KernelEvent>() {
        return None;
    }
    // SAFETY: the length was checked; KernelEvent is `Pod` (every bit pattern is valid) and is
    // read without regard to alignment.
    Some(unsafe { bytes.as_ptr().cast::<KernelEvent>().read_unaligned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_of_another_size_is_no_event() {
        let bytes = [7_u8; size_of::<KernelEvent>()];
        assert_eq!(parse(&bytes).map(|event| event.kind), Some(0x0707_0707));
        assert_eq!(parse(&bytes[1..]), None);
        assert_eq!(parse(&[0; 64]), None);
    }
}
