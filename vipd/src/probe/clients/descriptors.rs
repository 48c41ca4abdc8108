//! File descriptors: each client has one.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// As many as the administrator allows; the usual limit is there for programs that use `select`.
/// Where that fails, connections fail later and say so.
pub(super) fn allow_many() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
