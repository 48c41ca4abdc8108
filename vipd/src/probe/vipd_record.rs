//! The failover record of a vipd on this machine (`--vipd`).

use std::net::SocketAddr;
use std::path::Path;

use super::moment::Moment;
use super::shots::Window;

/// What the vipd behind `socket` says of the time of the run, or why it doesn't (a note). `service`
/// is the VIP and port that were probed: if vipd knows it, other services are left out.
///
/// # Errors
///
/// It can't be asked.
pub async fn moments(
    _socket: &Path,
    _window: &Window,
    _service: Option<SocketAddr>,
) -> Result<Vec<Moment>, String> {
    Err("not yet".to_owned())
}
