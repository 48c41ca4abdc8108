//! The XDP program on single frames, in the kernel (`BPF_PROG_TEST_RUN`): verdict, counter and
//! every byte of what comes out.

mod arp;
mod clients;
mod differential;
mod director;
mod dsr;
mod family;
mod flood;
mod frames;
mod groups;
mod host;
mod icmp;
mod ipv6;
#[expect(dead_code, reason = "shared with the benchmark")]
mod kernel;
mod malformed;
mod nat;
mod ndp;
mod pending;
mod refused;
mod release;
mod site;
mod vlan;

#[test]
fn the_verifier_accepts_the_program_with_room_to_spare() {
    let kernel = kernel::Kernel::<family::Ipv4>::load(frames::DIRECTOR_MAC);
    for program in ["vipd", "vipd6"] {
        let walked = kernel.verified_instructions(program);
        println!("{program}: {walked}");
        assert!(walked < 500_000, "{program}: {walked} of a million");
    }
}
