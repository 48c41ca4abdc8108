//! What vipd's XDP program itself takes, by the kernel's own account.

use anyhow::{Context, Result};
use aya::programs::{ProgramInfo, loaded_programs};
use aya::sys::{Stats, enable_stats};

use crate::cpu::Meter;
use crate::load::Load;
use crate::site::Site;
use crate::ways::Way;

/// Makes one more run of each load by each of vipd's ways, with the kernel's statistics on, which
/// slow the program a little.
pub fn print_shares(
    site: &Site,
    meter: &Meter,
    ways: &[Way],
    loads: &[Load],
    requests: &[u64],
) -> Result<()> {
    let _enabled = enable_stats(Stats::RunTime).context("cannot enable BPF statistics")?;
    println!("vipd's XDP program alone: packets a request, ns a packet, µs a request");
    for way in ways {
        let Some(program) = way.xdp_program()? else { continue };
        for (load, &requests) in loads.iter().zip(requests) {
            let before = info(program)?;
            load.run(site, meter, way, requests)?;
            let after = info(program)?;
            let packets = (after.run_count() - before.run_count()) as f64;
            let nanoseconds = (after.run_time() - before.run_time()).as_nanos() as f64;
            let requests = requests as f64;
            println!(
                "  {:<9} {:<31} {:>6.2} {:>6.0} {:>6.2}",
                way.name,
                load.to_string(),
                packets / requests,
                nanoseconds / packets,
                nanoseconds / requests / 1e3,
            );
        }
    }
    Ok(())
}

fn info(program: u32) -> Result<ProgramInfo> {
    let listed = loaded_programs().filter_map(Result::ok);
    let mut listed = listed.filter(|info| info.id() == program);
    listed.next().with_context(|| format!("there is no BPF program {program}"))
}
