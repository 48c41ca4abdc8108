//! What a start would meet, found out without starting: for `vipd check`.

use aya::EbpfLoader;
use vipd_common::maps;

use super::{DatapathError, OBJECT, OpenSettings, layout, pins, program, raise_memlock_limit};
use crate::bpffs::PinDir;

/// Entries of the big tables while the program is tried.
const FEW: u32 = 1_024;

/// Has the kernel make the maps (small ones) and verify the program, and lets go of both. Nothing
/// is attached or pinned.
pub fn try_load() -> Result<(), DatapathError> {
    raise_memlock_limit();
    let mut loader = EbpfLoader::new();
    loader.map_max_entries(maps::FLOWS, FEW).map_max_entries(maps::HALF_OPEN, FEW);
    let mut ebpf = loader.load(OBJECT).map_err(DatapathError::load)?;
    program(&mut ebpf)?.load().map_err(DatapathError::load)
}

/// Every pinned map that a start with these settings would refuse to take over. Takes no lock and
/// changes nothing.
pub fn unusable_pins(settings: &OpenSettings) -> Result<Vec<DatapathError>, DatapathError> {
    let Some(directory) = PinDir::existing(&settings.pin_dir)? else { return Ok(Vec::new()) };
    let layout = pins::layout_path(&directory);
    let expected = layout::expected(settings);
    Ok(expected.iter().filter_map(|map| map.check_pin(&layout.join(map.name)).err()).collect())
}
