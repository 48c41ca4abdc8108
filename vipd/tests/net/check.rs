//! `vipd check` on a host with VIPs of both families, in every mode. Nobody is a Sentinel here: what
//! the Sentinels and the nodes say is another test's.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;

use crate::lab::{Netns, ipv6, unique, veth};

struct Lab {
    own: Netns,
    peer: Netns,
    directory: PathBuf,
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn lab() -> Lab {
    let (own, peer) = (Netns::new("own"), Netns::new("peer"));
    veth(
        (&own, "eth0", "198.18.12.50/24", "02:00:00:00:0c:50"),
        (&peer, "eth0", "198.18.12.66/24", "02:00:00:00:0c:66"),
    );
    ipv6([(&own, "eth0", "fd98:18::c:50/64"), (&peer, "eth0", "fd98:18::c:66/64")]);
    let directory = std::env::temp_dir().join(unique("check"));
    std::fs::create_dir(&directory).expect("mkdir");
    Lab { own, peer, directory }
}

impl Lab {
    /// The report, spaces squeezed.
    fn check(&self, vips: &[(&str, &str)]) -> String {
        let mut text = String::from("[daemon]\ninterfaces = [\"eth0\"]\n");
        let directory = self.directory.display();
        text += &format!("control_socket = \"{directory}/sock\"\n");
        text += &format!("pin_dir = \"/sys/fs/bpf/{}\"\n", unique("check"));
        if vips.iter().any(|(_, mode)| *mode != "real") {
            text += "[sentinel]\nendpoints = [\"127.0.0.1:1\"]\n";
        }
        for (address, mode) in vips {
            text += &format!("[[vip]]\naddress = \"{address}\"\nmode = \"{mode}\"\n");
            if *mode != "real" {
                text += "[[vip.service]]\nport = 8000\nmaster = \"mymaster\"\n";
            }
        }
        let file = self.directory.join("vipd.toml");
        std::fs::write(&file, text).expect("configuration");
        let output = Command::new("ip")
            .args(["netns", "exec", &self.own.name, env!("CARGO_BIN_EXE_vipd"), "check"])
            .arg("--config")
            .arg(&file)
            .output()
            .expect("vipd check");
        let said =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        said.lines().map(|it| it.split_whitespace().collect::<Vec<_>>().join(" ") + "\n").collect()
    }

    fn says(&self, vips: &[(&str, &str)], lines: &[&str]) {
        let report = self.check(vips);
        for line in lines {
            assert!(report.contains(line), "{line}\n{report}");
        }
    }
}

#[test]
fn a_vip_is_asked_for_in_its_family() {
    let lab = lab();
    let vips = [("198.18.12.250", "nat"), ("fd98:18::c:250", "host")];
    lab.says(
        &vips,
        &[
            "ok VIP 198.18.12.250 free on eth0: nobody answers ARP",
            "ok VIP fd98:18::c:250 free on eth0: nobody answers neighbour discovery",
            "up, 02:00:00:00:0c:50, 198.18.12.50/24, fd98:18::c:50/64, driver veth",
        ],
    );
    lab.peer.ip("addr add 198.18.12.250/24 dev eth0");
    lab.peer.ip("addr add fd98:18::c:250/64 dev eth0 nodad");
    lab.says(
        &vips,
        &[
            "FAIL VIP 198.18.12.250 is in use on eth0 by 02:00:00:00:0c:66",
            "FAIL VIP fd98:18::c:250 is in use on eth0 by 02:00:00:00:0c:66",
        ],
    );
    let real = [("198.18.12.250", "real"), ("fd98:18::c:250", "real"), ("fd98:18::c:1", "real")];
    lab.says(
        &real,
        &[
            "ok VIP 198.18.12.250 is answered for on eth0 by 02:00:00:00:0c:66, the director",
            "ok VIP fd98:18::c:250 is answered for on eth0 by 02:00:00:00:0c:66, the director",
            "warn VIP fd98:18::c:1 no director: nobody answers neighbour discovery for it",
            "`vipd run` would serve (2 warnings)",
        ],
    );
}

#[test]
fn a_vip_on_this_host_is_right_or_wrong_by_its_mode() {
    let lab = lab();
    for vip in ["198.18.12.250/32", "fd98:18::c:250/128"] {
        lab.own.ip(&format!("addr add {vip} dev eth0"));
    }
    let held = |mode| [("198.18.12.250", mode), ("fd98:18::c:250", mode)];
    for mode in ["nat", "dsr"] {
        lab.says(
            &held(mode),
            &[
                "FAIL VIP 198.18.12.250 is an address of this host, on eth0",
                "-> `ip address del fd98:18::c:250/128 dev eth0`, or another VIP",
            ],
        );
    }
    lab.says(
        &held("host"),
        &[
            "ok VIP 198.18.12.250 is held by this host, on eth0",
            "warn VIP fd98:18::c:250 is on eth0, where the kernel speaks from it, and not on lo",
        ],
    );
    lab.says(
        &held("real"),
        &[
            "ok VIP 198.18.12.250 is held by this host, on eth0",
            "warn VIP fd98:18::c:250 is on eth0, where the kernel speaks from it, and not on lo",
        ],
    );
}

#[test]
fn what_the_host_lacks_is_named() {
    let lab = lab();
    let outside = [("198.18.13.250", "host"), ("fd98:19::1", "dsr")];
    lab.says(
        &outside,
        &[
            "warn VIP 198.18.13.250 is in no network of the interfaces (198.18.12.50/24)",
            "warn VIP fd98:19::1 is in no network of the interfaces (fd98:18::c:50/64)",
        ],
    );
    lab.own.run(|| {
        std::fs::write("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "1").expect("sysctl");
    });
    lab.says(
        &[("fd98:18::c:250", "nat")],
        &[
            "FAIL VIP fd98:18::c:250 needs IPv6, which is disabled on eth0",
            "-> `sysctl net.ipv6.conf.eth0.disable_ipv6=0`",
        ],
    );
}

#[test]
fn whether_something_would_serve_the_vip_is_seen_beforehand() {
    let lab = lab();
    let vips = [("198.18.12.250", "host")];
    lab.says(&vips, &["warn VIP 198.18.12.250 nothing listens on port 8000 of this host"]);
    let narrow = lab.own.run(|| TcpListener::bind("198.18.12.50:8000").expect("bind"));
    lab.says(
        &vips,
        &[
            "FAIL VIP 198.18.12.250 whatever listens on port 8000 does so on 198.18.12.50 only",
            "-> write `bind * -::*` in redis.conf",
        ],
    );
    drop(narrow);
    let _wide = lab.own.run(|| TcpListener::bind("0.0.0.0:8000").expect("bind"));
    lab.says(&vips, &["ok VIP 198.18.12.250 served by what listens on 0.0.0.0:8000"]);
}
