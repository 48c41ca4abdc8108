//! What happens to a master.

use std::net::{IpAddr, SocketAddr};
use std::process::Child;

use anyhow::Result;
use clap::ValueEnum;
use vipd_tests::host::Host;
use vipd_tests::switchover;
use vipd_tests::{Lab, Mode};

/// What happens to the master.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Scenario {
    /// SIGKILL: its port refuses from then on.
    Kill,
    /// Its cable is pulled: nobody says anything.
    Gone,
    /// SIGSTOP: its host still accepts connections for it.
    Stop,
    /// SENTINEL FAILOVER.
    Planned,
    /// `vipd switchover`: for vipd only.
    Switchover,
    /// It is cut off from its replicas and the other Sentinels, and not from its clients; after 4 s it
    /// is back. Not with `--self`.
    Partition,
    /// SIGKILL; after 4 s it is started again. Not with `--self`.
    Back,
}

impl Scenario {
    /// Its name on the command line, in tables and documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Gone => "gone",
            Self::Stop => "stop",
            Self::Planned => "planned",
            Self::Switchover => "switchover",
            Self::Partition => "partition",
            Self::Back => "back",
        }
    }

    /// What it is, in a few words.
    pub fn what(self) -> &'static str {
        match self {
            Self::Kill => "SIGKILL",
            Self::Gone => "host gone",
            Self::Stop => "SIGSTOP",
            Self::Planned => "SENTINEL FAILOVER",
            Self::Switchover => "vipd switchover",
            Self::Partition => "cut off from all but its clients",
            Self::Back => "SIGKILL, and started again",
        }
    }

    /// Whether somebody wants it.
    pub fn is_planned(self) -> bool {
        matches!(self, Self::Planned | Self::Switchover)
    }

    /// Whether the comparison undoes it while the clients are watched.
    pub fn is_passing(self) -> bool {
        matches!(self, Self::Stop | Self::Partition | Self::Back)
    }

    /// Makes it happen to node `master`. Returns a command whose end is part of it.
    pub fn strike(self, lab: &mut Lab, master: usize) -> Result<Option<Child>> {
        match self {
            Self::Kill | Self::Back => lab.nodes[master].kill(),
            Self::Gone => lab.nodes[master].host().link_down(),
            Self::Stop => lab.nodes[master].freeze(),
            Self::Planned => lab.sentinels[0].fail_over(),
            Self::Partition => lab.nodes[master].host().cut_off_except_addresses(&clients(lab)),
            Self::Switchover => {
                let daemon = if lab.options().mode == Mode::Host { master } else { 0 };
                return switchover::begin(&lab.daemons[daemon], &[]).map(Some);
            }
        }?;
        Ok(None)
    }

    /// Undoes it.
    pub fn undo(self, lab: &mut Lab, node: usize) -> Result<()> {
        match self {
            Self::Kill | Self::Back => lab.nodes[node].start(),
            Self::Gone => lab.nodes[node].host().link_up(),
            Self::Stop => lab.nodes[node].thaw(),
            Self::Partition => lab.nodes[node].host().rejoin(),
            Self::Planned | Self::Switchover => Ok(()),
        }
    }
}

/// From where the master of a partition is still seen: the clients' side. With a director that is
/// what the clients' traffic comes from, which vipd makes the VIP itself if it can.
fn clients(lab: &Lab) -> Vec<IpAddr> {
    let director = (lab.options().mode != Mode::Host).then(|| lab.director());
    let hosts = [&lab.client, &lab.observer].into_iter().chain(director);
    hosts.flat_map(Host::addresses).chain(lab.services().iter().map(SocketAddr::ip)).collect()
}
