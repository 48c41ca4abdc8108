//! What every pinned map must look like. A pinned map is reused as it is, unchecked by aya, so
//! this is what stands between a restart and another version's bytes.

use std::path::Path;

use aya::maps::{MapError, MapInfo, MapType};
use vipd_common::addr::{Ipv4Bytes, Ipv6Bytes};
use vipd_common::buckets::{Bucket, Entry};
use vipd_common::maps::{
    self, Active, AddressEntry, Backend, Confirmed, Counter, Flow, FlowKey, Group, InterfaceEntry,
    Pending, ServiceEntry,
};
use vipd_common::verdict::Verdict;
use vipd_common::wire::ip::Ip;

use super::{DatapathError, OpenSettings};

/// A map's type and sizes.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Expected {
    /// Its name.
    pub(super) name: &'static str,
    kind: MapType,
    key: usize,
    value: usize,
    /// Entries, or bytes of a ring buffer.
    pub(super) max_entries: u32,
    /// The configuration key that sets `max_entries`, and how many entries one of its units is.
    configured: Option<(&'static str, u32)>,
}

/// A table of buckets.
fn buckets<E: Entry>(name: &'static str) -> Expected {
    Expected {
        name,
        kind: MapType::Array,
        key: size_of::<u32>(),
        value: size_of::<Bucket<E>>(),
        max_entries: E::BUCKETS,
        configured: None,
    }
}

/// A flow table, with the key that configures it: two entries a connection.
fn flows<A: Ip>(name: &'static str, (key, connections): (&'static str, u32)) -> Expected {
    Expected {
        name,
        kind: MapType::LruHash,
        key: size_of::<FlowKey<A>>(),
        value: size_of::<Flow<A>>(),
        max_entries: connections.saturating_mul(2),
        configured: Some((key, 2)),
    }
}

/// A table of unanswered SYNs.
fn pending<A: Ip>(name: &'static str, max_entries: u32) -> Expected {
    Expected {
        name,
        kind: MapType::LruHash,
        key: size_of::<FlowKey<A>>(),
        value: size_of::<Pending>(),
        max_entries,
        configured: Some(("max_pending_syns", 1)),
    }
}

/// Every map of [`maps::ALL`] as this configuration needs it.
pub(super) fn expected(settings: &OpenSettings) -> [Expected; maps::ALL.len()] {
    let map = |name, kind, key, value, max_entries| Expected {
        name,
        kind,
        key,
        value,
        max_entries,
        configured: None,
    };
    let connections = ("max_connections", settings.max_connections);
    let half_open = ("max_half_open", settings.max_half_open);
    let array = MapType::Array;
    let index = size_of::<u32>();
    // Devmap values carry a program id since Linux 5.8.
    let port = if aya::features().devmap_prog_id() { 8 } else { 4 };
    [
        buckets::<AddressEntry<Ipv4Bytes>>(maps::VIPS),
        buckets::<AddressEntry<Ipv6Bytes>>(maps::VIPS6),
        buckets::<ServiceEntry<Ipv4Bytes>>(maps::SERVICES),
        buckets::<ServiceEntry<Ipv6Bytes>>(maps::SERVICES6),
        map(maps::ACTIVE, array, index, size_of::<Active>(), maps::MAX_LINES),
        map(maps::BACKENDS, array, index, size_of::<Backend>(), maps::MAX_SLOTS),
        map(maps::CONFIRMED, array, index, size_of::<Confirmed>(), maps::MAX_LINES),
        flows::<Ipv4Bytes>(maps::FLOWS, connections),
        flows::<Ipv6Bytes>(maps::FLOWS6, connections),
        flows::<Ipv4Bytes>(maps::HALF_OPEN, half_open),
        flows::<Ipv6Bytes>(maps::HALF_OPEN6, half_open),
        pending::<Ipv4Bytes>(maps::PENDING, settings.max_pending_syns),
        pending::<Ipv6Bytes>(maps::PENDING6, settings.max_pending_syns),
        buckets::<InterfaceEntry>(maps::INTERFACES),
        map(maps::PORTS, MapType::DevMapHash, index, port, maps::MAX_INTERFACES),
        map(maps::COUNTERS, MapType::PerCpuArray, index, size_of::<Counter>(), Verdict::COUNT),
        map(maps::FIRST, array, index, index, maps::MAX_LINES),
        map(maps::RIVAL_AT, array, index, size_of::<u64>(), 1),
        map(maps::REFUSED_AT, array, index, size_of::<u64>(), maps::MAX_LINES),
        map(maps::GROUPS, array, index, size_of::<Group>(), maps::MAX_GROUPS),
        map(maps::LEASE, array, index, size_of::<u64>(), 1),
        map(maps::PROGRAMS, MapType::ProgramArray, index, size_of::<u32>(), maps::MAX_PROGRAMS),
        map(maps::EVENTS, MapType::RingBuf, 0, 0, maps::EVENTS_BYTES),
    ]
}

impl Expected {
    /// Compares with the map pinned at `path`, if one is.
    pub(super) fn check_pin(&self, path: &Path) -> Result<(), DatapathError> {
        if !path.exists() {
            return Ok(());
        }
        let info = MapInfo::from_pin(path).map_err(|error| self.unreadable(error))?;
        let Some((what, found, expected)) = self.difference(&info) else { return Ok(()) };
        Err(DatapathError::MapDiffers {
            map: self.name,
            what,
            keep: self.how_to_keep(&info, what),
            found,
            expected,
        })
    }

    /// Compares with the map that was just made from the object.
    pub(super) fn check_made(&self, path: &Path) -> Result<(), DatapathError> {
        let info = MapInfo::from_pin(path).map_err(|error| self.unreadable(error))?;
        match self.difference(&info) {
            None => Ok(()),
            Some((what, found, expected)) => Err(DatapathError::Object(format!(
                "its map {} has {what} {found}, the daemon knows {expected}",
                self.name
            ))),
        }
    }

    fn unreadable(&self, error: MapError) -> DatapathError {
        DatapathError::map(format!("read what kind of map is pinned as {}", self.name), error)
    }

    fn difference(&self, info: &MapInfo) -> Option<(&'static str, String, String)> {
        let kind = info.map_type().ok();
        if kind != Some(self.kind) {
            let found = kind.map_or_else(|| "unknown".to_owned(), |kind| format!("{kind:?}"));
            return Some(("type", found, format!("{:?}", self.kind)));
        }
        let sizes = [
            ("key size", info.key_size() as usize, self.key),
            ("value size", info.value_size() as usize, self.value),
            ("max_entries", info.max_entries() as usize, self.max_entries as usize),
        ];
        sizes
            .into_iter()
            .find(|(_, found, expected)| found != expected)
            .map(|(what, found, expected)| (what, found.to_string(), expected.to_string()))
    }

    fn how_to_keep(&self, info: &MapInfo, what: &str) -> String {
        match self.configured {
            Some((key, unit)) if what == "max_entries" => {
                format!("set {key} = {} again to keep them", info.max_entries() / unit)
            }
            _ => "go on with the version that made it".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_map_of_the_contract_is_expected_once() {
        let settings = OpenSettings {
            pin_dir: "/x".into(),
            xdp_mode: crate::config::XdpMode::Auto,
            max_connections: 65_536,
            max_half_open: 16_384,
            max_pending_syns: 32_768,
        };
        let mut names: Vec<_> = expected(&settings).iter().map(|map| map.name).collect();
        let mut all = maps::ALL.to_vec();
        names.sort_unstable();
        all.sort_unstable();
        assert_eq!(names, all);
    }

    #[test]
    fn two_entries_of_the_flow_tables_are_one_connection() {
        let settings = OpenSettings {
            pin_dir: "/x".into(),
            xdp_mode: crate::config::XdpMode::Auto,
            max_connections: 1_000,
            max_half_open: u32::MAX,
            max_pending_syns: 3_000,
        };
        let of = |name| {
            expected(&settings).into_iter().find(|map| map.name == name).expect(name).max_entries
        };
        assert_eq!((of(maps::FLOWS), of(maps::FLOWS6)), (2_000, 2_000));
        assert_eq!((of(maps::HALF_OPEN), of(maps::HALF_OPEN6)), (u32::MAX, u32::MAX));
        assert_eq!((of(maps::PENDING), of(maps::PENDING6)), (3_000, 3_000));
    }
}
