//! `dsr` with nothing done by hand: a vipd on each Redis host holds the VIPs, and never answers for
//! them.

use anyhow::Result;
use vipd::clock::Monotonic;
use vipd_tests::wait::{PATIENCE, wait_until};
use vipd_tests::witness::{Witness, witnessed};
use vipd_tests::{Family, Lab, Mode, Options};

#[test]
fn agents_hold_the_vip_for_a_director_and_leave_nothing() {
    witnessed(with_agents(Family::V4), a_failover);
}

#[test]
fn agents_hold_a_vip_of_each_family() {
    witnessed(with_agents(Family::Both), a_failover);
}

fn with_agents(family: Family) -> Options {
    Options { agents: true, ..Options::mode(Mode::Dsr).family(family) }
}

/// Throughout, only the director may answer.
fn a_failover(lab: &mut Lab, witness: &Witness) -> Result<usize> {
    let vips: Vec<_> = lab.services().into_iter().map(|service| service.ip()).collect();
    for node in &lab.nodes {
        for &vip in &vips {
            wait_until(format_args!("{} has {vip}", node.name()), PATIENCE, || {
                node.host().has_address(vip)
            })?;
        }
    }
    let old = lab.master()?;
    lab.nodes[old].kill()?;
    let new = lab.wait_failed_over(old)?;
    witness.wait_served_by(lab, new)?;

    // An agent that is killed leaves the address; one that is stopped takes it away.
    lab.agents[new].kill()?;
    lab.agents[new].start()?;
    witness.wait_served_by(lab, new)?;
    lab.agents[old].stop()?;
    let host = lab.nodes[old].host();
    for &vip in &vips {
        wait_until("the agent has taken the VIP away", PATIENCE, || Ok(!host.has_address(vip)?))?;
    }
    for node in 0..lab.nodes.len() {
        witness.verify_no_answer_since(lab, node, Monotonic(0))?;
    }
    Ok(new)
}
