//! What administrators, switches and other hosts' caches do.

use std::net::IpAddr;
use std::process::Command;

use anyhow::{Result, ensure};
use vipd_tests::Lab;
use vipd_tests::namespace::output;
use vipd_tests::wait::{PATIENCE, wait_until};
use vipd_tests::witness::{Witness, witnessed};

use crate::{host_mode, wait_demoted};

#[test]
fn an_address_that_somebody_deletes_is_put_back() {
    witnessed(host_mode(), address_deleted);
}

#[test]
fn a_client_that_ignores_announcements_is_led_on_by_the_old_host() {
    witnessed(host_mode(), deaf_client);
}

#[test]
fn a_client_that_ignores_announcements_is_led_on_after_a_planned_failover() {
    // The old master lives, and would take what comes: its own vipd keeps that from it.
    witnessed(host_mode(), |lab, witness| {
        let old = lab.master()?;
        lab.client.ignore_announcements(&vips(lab))?;
        lab.sentinels[0].fail_over()?;
        let new = lab.wait_failed_over(old)?;
        witness.wait_served_by(lab, new)?;
        wait_demoted(lab, old)?;
        Ok(new)
    });
}

#[test]
fn the_vip_follows_a_host_to_another_port_of_the_switch() {
    witnessed(host_mode(), |lab, witness| {
        let old = lab.master()?;
        lab.nodes[old].host().move_cable()?;
        witness.wait_served_by(lab, old)?;
        lab.nodes[old].kill()?;
        let new = lab.wait_failed_over(old)?;
        witness.wait_served_by(lab, new)?;
        lab.nodes[old].host().move_cable_back()?;
        lab.nodes[old].start()?;
        wait_demoted(lab, old)?;
        lab.wait_serving(new)?;
        Ok(new)
    });
}

#[test]
fn an_interface_that_goes_down_and_comes_back_has_the_vip_again() {
    witnessed(host_mode(), |lab, witness| {
        let master = lab.master()?;
        let host = lab.nodes[master].host();
        host.namespace.ip_batch("link set eth0 down\nlink set eth0 up\n")?;
        for vip in vips(lab) {
            wait_until("the address is there", PATIENCE, || host.has_address(vip))?;
        }
        // Sentinel may take it for a failure, or not.
        wait_until("the VIP is served", PATIENCE, || {
            let master = lab.master()?;
            let by = lab.nodes[master].run_id();
            let mut connection = lab.dialer().connect()?;
            Ok(vipd_tests::client::run_id(&mut connection)? == by)
        })?;
        let master = lab.master()?;
        witness.wait_served_by(lab, master)?;
        Ok(master)
    });
}

pub fn address_deleted(lab: &mut Lab, witness: &Witness) -> Result<usize> {
    let master = lab.master()?;
    let host = lab.nodes[master].host();
    for vip in vips(lab) {
        ensure!(host.has_address(vip)?, "the owner does not have {vip}");
        let length = if vip.is_ipv4() { 32 } else { 128 };
        let interface = if vip.is_ipv4() { "eth0" } else { "lo" };
        host.namespace.ip_batch(&format!("addr del {vip}/{length} dev {interface}\n"))?;
        wait_until("the address is put back", PATIENCE, || host.has_address(vip))?;
    }
    witness.wait_served_by(lab, master)?;
    Ok(master)
}

pub fn deaf_client(lab: &mut Lab, witness: &Witness) -> Result<usize> {
    let old = lab.master()?;
    let old_host = lab.nodes[old].host().mac;
    lab.client.ignore_announcements(&vips(lab))?;
    for vip in vips(lab).into_iter().filter(IpAddr::is_ipv4) {
        // Nor does it ever look for itself.
        lab.client.pin_neighbour(vip, old_host)?;
    }
    lab.nodes[old].kill()?;
    let new = lab.wait_failed_over(old)?;
    witness.wait_served_by(lab, new)?;
    ensure!(stays_pinned(lab)?, "the client has learned of the new host");
    lab.nodes[old].start()?;
    wait_demoted(lab, old)?;
    witness.wait_served_by(lab, new)?;
    Ok(new)
}

fn vips(lab: &Lab) -> Vec<IpAddr> {
    lab.services().into_iter().map(|service| service.ip()).collect()
}

/// Whether the client's entries for the VIPs are those that it was given.
fn stays_pinned(lab: &Lab) -> Result<bool> {
    let mut ip = Command::new("ip");
    let listed =
        output(ip.args(["-n", lab.client.namespace.name(), "neigh", "show", "nud", "permanent"]))?;
    Ok(vips(lab).iter().filter(|vip| vip.is_ipv4()).all(|vip| listed.contains(&format!("{vip} "))))
}
