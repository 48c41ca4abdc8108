//! The ways to a master that are compared.

use std::time::Duration;

use clap::ValueEnum;
use vipd_tests::{Mode, Mover, Options};

use crate::scenario::Scenario;

/// How clients find the master.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Way {
    /// vipd on a director, which translates addresses.
    VipdNat,
    /// vipd on a director; replies go straight to the client.
    VipdDsr,
    /// vipd on the Redis hosts.
    VipdHost,
    /// Sentinel's client-reconfig-script, with ip and arping, on the Redis hosts.
    Script,
    /// keepalived on the Redis hosts, with a check of the role.
    Keepalived,
    /// HAProxy on a director, with checks of the role.
    Haproxy,
    /// nftables on a director; a script that listens to the Sentinels changes the rule.
    Nftables,
    /// No VIP: a client that asks the Sentinels.
    SentinelClient,
}

/// Silence after which a Sentinel calls a node down.
pub const DOWN_AFTER: Duration = Duration::from_millis(500);
/// A Sentinel begins no failover of a master within twice this of the last.
pub const FAILOVER_TIMEOUT: Duration = Duration::from_millis(2500);

impl Way {
    /// Its name in tables and documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::VipdNat => "vipd nat",
            Self::VipdDsr => "vipd dsr",
            Self::VipdHost => "vipd host",
            Self::Script => "script",
            Self::Keepalived => "keepalived",
            Self::Haproxy => "haproxy",
            Self::Nftables => "nftables",
            Self::SentinelClient => "sentinel client",
        }
    }

    /// How it was set up, for whoever reads the figures.
    pub fn set_up(self) -> &'static str {
        match self {
            Self::VipdNat => {
                "vipd on a director, mode `nat`, defaults (early cutover, no fast fail)"
            }
            Self::VipdDsr => "vipd on a director, mode `dsr`, defaults",
            Self::VipdHost => {
                "vipd on the Redis hosts, mode `host`, `lease_ms = 500` (not above \
                 down-after-milliseconds), else defaults"
            }
            Self::Script => {
                "`client-reconfig-script` on the Redis hosts: `ip addr add` and `arping -A -c 3`"
            }
            Self::Keepalived => {
                "keepalived on the Redis hosts: VRRPv3, `advert_int 0.01`, a role check each second \
                 (its shortest), `rise 1`, `fall 1`, `garp_master_repeat 5`"
            }
            Self::Haproxy => {
                "HAProxy on a director: a role check of each node every 100 ms, `fall 1`, `rise 1`, \
                 `on-marked-down shutdown-sessions`"
            }
            Self::Nftables => {
                "nftables on a director: a `redis-cli psubscribe +switch-master` for each Sentinel \
                 changes the DNAT rule and runs `conntrack -D`"
            }
            Self::SentinelClient => {
                "no VIP: clients ask the Sentinels before each connection, and listen to none"
            }
        }
    }

    /// Whether it is vipd.
    pub fn is_vipd(self) -> bool {
        matches!(self, Self::VipdNat | Self::VipdDsr | Self::VipdHost)
    }

    /// Whether there is a VIP.
    pub fn has_vip(self) -> bool {
        self != Self::SentinelClient
    }

    /// Whether the VIP goes from one Redis host to another.
    pub fn moves_vip(self) -> bool {
        matches!(self, Self::VipdHost | Self::Script | Self::Keepalived)
    }

    /// Whether this can happen to it.
    pub fn knows(self, scenario: Scenario) -> bool {
        self.is_vipd() || scenario != Scenario::Switchover
    }

    /// The lab that it lives in.
    pub fn lab(self) -> Options {
        let options = match self {
            Self::VipdNat => Options::mode(Mode::Nat),
            Self::VipdDsr => Options::mode(Mode::Dsr),
            Self::VipdHost => Options::mode(Mode::Host),
            Self::Script => Options::moved_by(Mover::Script),
            Self::Keepalived => Options::moved_by(Mover::Keepalived),
            Self::Haproxy => Options::moved_by(Mover::HaProxy),
            Self::Nftables => Options::moved_by(Mover::NftListener),
            Self::SentinelClient => Options::moved_by(Mover::Nobody),
        };
        // As README asks for: a host that is cut off is silent when another one has been made master.
        let daemon = if self == Self::VipdHost { "lease_ms = 500\n" } else { "" };
        Options {
            down_after: DOWN_AFTER,
            failover_timeout: FAILOVER_TIMEOUT,
            daemon: daemon.to_owned(),
            ..options
        }
    }
}
