//! What follows the flip. Nothing here can fail: the new master is served.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::procedure::{GLANCE, Procedure};
use super::report::{Progress, Why};
use super::site::Site;
use super::undo::ATTEMPTS;
use super::{Switched, checks, micros};
use crate::redis_node::Role;

/// For a majority of the Sentinels to name the new master.
const SETTLING: Duration = Duration::from_secs(10);
/// For the Sentinels' answers.
const LOOK: Duration = Duration::from_secs(1);

impl<S: Site> Procedure<'_, S> {
    /// The old master becomes a replica; the pause ends then, and in time whatever hangs.
    pub(super) async fn settle(
        &mut self,
        old: SocketAddr,
        new: SocketAddr,
    ) -> Result<Switched, Why> {
        let flip = self.paused.map(|it| it.since.elapsed()).unwrap_or_default();
        let mut work = pin!(hand_over(self.site, self.progress, self.debts.paused, old, new));
        let (demoted, mut warnings) = loop {
            tokio::select! {
                biased;
                done = &mut work => break done,
                () = self.pause_is_due() => self.end_pause().await,
            }
        };
        self.end_pause().await;
        warnings.extend(self.restore_priorities().await);
        let view = *self.site.view().borrow();
        let first_packet = view.first_packet.map(|at| flip + at.since(view.since));
        Ok(Switched {
            from: old,
            to: new,
            stall_us: micros(first_packet.unwrap_or(flip)),
            flip_us: micros(flip),
            paused_us: micros(self.paused.and_then(|it| it.length).unwrap_or_default()),
            demoted,
            warnings,
        })
    }
}

async fn hand_over<S: Site>(
    site: &S,
    progress: &Progress,
    paused: bool,
    old: SocketAddr,
    new: SocketAddr,
) -> (bool, Vec<String>) {
    let mut warnings = Vec::new();
    // They may hold connections from before: what these still have must not be executed.
    if paused {
        warnings.extend(cut_off(site, old).await);
    }
    let demoted = if agreed(site, new).await {
        match demote(site, progress, old, new).await {
            Ok(()) => true,
            Err(warning) => {
                warnings.push(warning);
                false
            }
        }
    } else {
        warnings.push(format!("no majority of the Sentinels names {new} yet"));
        false
    };
    (demoted, warnings)
}

async fn cut_off<S: Site>(site: &S, old: SocketAddr) -> Option<String> {
    let mut last = None;
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            sleep(GLANCE).await;
        }
        match site.kill_clients(old).await {
            Ok(()) => return None,
            Err(error) => last = Some(error),
        }
    }
    last.map(|error| format!("the clients of {old} could not be cut off: {error}"))
}

/// Waits until a majority of the Sentinels names the new master.
async fn agreed<S: Site>(site: &S, new: SocketAddr) -> bool {
    let deadline = Instant::now() + SETTLING;
    loop {
        let sentinels = site.sentinels(LOOK).await;
        if checks::named_by(&sentinels, new) > sentinels.len() / 2 {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        sleep(GLANCE).await;
    }
}

/// A majority of the Sentinels has the new master by now, so none of them will promote the old
/// one's data again. They would demote it as well, some 10 s later.
async fn demote<S: Site>(
    site: &S,
    progress: &Progress,
    old: SocketAddr,
    new: SocketAddr,
) -> Result<(), String> {
    match site.role(old).await {
        Ok(Role::Replica { .. }) => {
            progress.step(format_args!("{old} is a replica already"));
            return Ok(());
        }
        Ok(_) => {}
        Err(error) => return Err(format!("the old master {old} {error}")),
    }
    site.demote(old, new).await.map_err(|error| {
        format!(
            "{old} could not be made a replica: {error}; Sentinel does so in some 10 s, and until \
             then whoever writes to it without the VIP loses that"
        )
    })?;
    progress.step(format_args!("{old} is a replica of {new}"));
    Ok(())
}
