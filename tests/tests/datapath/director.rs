//! The state that most cases begin with.

use vipd_common::addr::Ipv4Bytes;
use vipd_common::maps::{Address, FlowKey, ServiceState};
use vipd_common::verdict::Verdict;

use crate::family::Family;
use crate::frames::{
    BACKEND_PORT, CLIENT, CLIENT_PORT, DIRECTOR, DIRECTOR_MAC, R1, R1_MAC, R2, R2_MAC,
    SERVICE_PORT, Tcp, VIP,
};
use crate::kernel::{Kernel, Xdp_, nat_backend};

/// The service's index.
pub const SERVICE: u32 = 0;
/// Slot of r1, the master.
pub const R1_SLOT: u16 = 1;
/// Slot of r2, the next one.
pub const R2_SLOT: u16 = 2;
/// The generation that r1 is master in.
pub const GENERATION: u32 = 1;

/// A director in mode `nat` with one NIC, whose service is up.
pub fn director<F: Family>() -> Kernel<F> {
    prepare(Kernel::load(DIRECTOR_MAC))
}

/// The same on an object that is loaded already.
pub fn prepare<F: Family>(mut kernel: Kernel<F>) -> Kernel<F> {
    kernel.address(VIP, Address::NAT | Address::ANNOUNCE | Address::ECHO);
    kernel.address(DIRECTOR, Address::SOURCE);
    kernel.service(VIP, SERVICE_PORT, SERVICE);
    kernel.backend(R1_SLOT, nat_backend(R1, BACKEND_PORT, R1_MAC, DIRECTOR));
    kernel.backend(R2_SLOT, nat_backend(R2, BACKEND_PORT, R2_MAC, DIRECTOR));
    kernel.active(SERVICE, ServiceState::Up, R1_SLOT, GENERATION);
    kernel
}

/// The cutover to r2.
pub fn flip(kernel: &mut Kernel<impl Family>) {
    kernel.active(SERVICE, ServiceState::Up, R2_SLOT, GENERATION + 1);
}

/// The client's handshake with the master, every frame compared. Its port is free, so NAT keeps it.
#[track_caller]
pub fn connect(kernel: &mut Kernel<impl Family>) {
    let syn = Tcp::to_vip("S");
    let port = CLIENT_PORT;
    kernel.expect("SYN", &syn.frame(), (Verdict::NatNew, Xdp_::Tx), &syn.at_r1(port).frame());
    let syn_ack = Tcp::from_r1("SA", port);
    let to_client = (Verdict::NatToClient, Xdp_::Tx);
    kernel.expect("SYN-ACK", &syn_ack.frame(), to_client, &syn_ack.at_client().frame());
    let ack = Tcp::to_vip("A").seq(1001, 5001);
    let to_backend = (Verdict::NatToBackend, Xdp_::Tx);
    kernel.expect("ACK", &ack.frame(), to_backend, &ack.at_r1(port).frame());
}

/// The key of the client's half of that connection.
pub fn client_key() -> FlowKey<Ipv4Bytes> {
    FlowKey::new(
        (CLIENT.octets(), CLIENT_PORT.to_be_bytes()),
        (VIP.octets(), SERVICE_PORT.to_be_bytes()),
    )
}

/// The key of the master's half.
pub fn backend_key() -> FlowKey<Ipv4Bytes> {
    FlowKey::new(
        (R1.octets(), BACKEND_PORT.to_be_bytes()),
        (DIRECTOR.octets(), CLIENT_PORT.to_be_bytes()),
    )
}
