//! The failover record of a vipd on this machine (`--vipd`). Its times are CLOCK_MONOTONIC, some of
//! them the kernel's own, and so are the probe's: they stand on one axis.

use std::net::SocketAddr;
use std::path::Path;

use super::moment::Moment;
use super::report::Source;
use super::shots::Window;
use crate::control::{self, Request, Response};
use crate::status::{Failover, Status};

/// What the vipd behind `socket` says of the time of the run, or why it doesn't (a note). `service`
/// is the VIP and port that were probed: if vipd knows it, other services are left out.
///
/// # Errors
///
/// It can't be asked.
pub async fn moments(
    socket: &Path,
    window: &Window,
    service: Option<SocketAddr>,
) -> Result<Vec<Moment>, String> {
    let unknown = |why: &dyn std::fmt::Display| format!("vipd's own times are missing: {why}");
    match control::ask(socket, Request::Status).await {
        Ok(Response::Status(status)) => Ok(of_run(&status, window, service)),
        Ok(Response::Error(why)) => Err(unknown(&why)),
        Ok(_) => Err(unknown(&"it answers something else")),
        Err(error) => Err(unknown(&error)),
    }
}

fn of_run(status: &Status, window: &Window, service: Option<SocketAddr>) -> Vec<Moment> {
    let is_probed =
        |it: &&Failover| service.is_some_and(|service| it.service == service.to_string());
    let is_known =
        status.services.iter().any(|it| Some(SocketAddr::new(it.vip, it.port)) == service);
    let mut moments = vec![];
    let mut before: Option<&Failover> = None;
    for it in status.failovers.iter().filter(|it| !is_known || is_probed(it)) {
        // Services that moved together have one record each.
        if before.is_some_and(|before| before.is_with(it)) {
            continue;
        }
        before = Some(it);
        // With several services it must be said whose flip it is.
        let whose = if is_known { String::new() } else { format!(" ({})", it.service) };
        for (what, at) in it.timeline.moments() {
            if (window.origin..=window.end).contains(&at) {
                let what = format!("{what}{whose}");
                moments.push(Moment { at, source: Source::Vipd, who: String::new(), what });
            }
        }
    }
    moments.sort_by_key(|it| it.at);
    moments
}

#[cfg(test)]
mod tests;
