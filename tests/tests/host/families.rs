//! The same on IPv6, and with a VIP of each family: those stories in which the families differ.

use vipd_tests::Family;
use vipd_tests::witness::witnessed;

use crate::daemon::vipd_frozen;
use crate::failover::{cut_off, planned, shut_down};
use crate::host_mode;
use crate::network::{address_deleted, deaf_client};

#[test]
fn ipv6_moves_when_the_master_is_shut_down_and_the_old_host_never_answers_again() {
    witnessed(host_mode().family(Family::V6), shut_down);
}

#[test]
fn both_families_move_when_the_master_is_shut_down_and_the_old_host_never_answers_again() {
    witnessed(host_mode().family(Family::Both), shut_down);
}

#[test]
fn both_families_move_when_a_failover_is_planned() {
    witnessed(host_mode().family(Family::Both), planned);
}

#[test]
fn ipv6_is_let_go_by_a_host_that_only_clients_can_reach() {
    witnessed(host_mode().family(Family::V6), cut_off);
}

/// With a lease that is over before the other host takes the VIP, as it should be. Of two IPv6 hosts
/// that both answer, a client takes the one that answers last.
#[test]
fn both_families_move_away_from_a_host_whose_vipd_is_frozen() {
    witnessed(host_mode().family(Family::Both), vipd_frozen);
}

#[test]
fn a_client_that_ignores_announcements_is_led_on_in_both_families() {
    witnessed(host_mode().family(Family::Both), deaf_client);
}

#[test]
fn addresses_of_both_families_are_put_back_when_somebody_deletes_them() {
    witnessed(host_mode().family(Family::Both), address_deleted);
}
