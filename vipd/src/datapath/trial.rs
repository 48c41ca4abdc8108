//! What a start would meet, found out without starting: for `vipd check`.

use super::{
    DatapathError, OBJECT, OpenSettings, layout, load, loader, pins, raise_memlock_limit, shrink,
};
use crate::bpffs::PinDir;

/// Has the kernel make the maps (small ones) and verify the program, and lets go of both. Nothing
/// is attached or pinned.
pub fn try_load() -> Result<(), DatapathError> {
    raise_memlock_limit();
    let mut loader = loader();
    shrink(&mut loader);
    let mut ebpf = loader.load(OBJECT).map_err(DatapathError::load)?;
    load(&mut ebpf)
}

/// Every pinned map that a start with these settings would refuse to take over. Takes no lock and
/// changes nothing.
pub fn unusable_pins(settings: &OpenSettings) -> Result<Vec<DatapathError>, DatapathError> {
    let Some(directory) = PinDir::existing(&settings.pin_dir)? else { return Ok(Vec::new()) };
    let layout = pins::layout_path(&directory);
    let expected = layout::expected(settings);
    Ok(expected.iter().filter_map(|map| map.check_pin(&layout.join(map.name)).err()).collect())
}
