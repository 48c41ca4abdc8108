//! A failover of the lab, measured by `vipd probe` from the client's place, as anybody would in a
//! network of their own.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use vipd_tests::daemon::Daemon;
use vipd_tests::{Lab, Mode, Options};

use crate::story::Narrator;

/// Long enough for the last Sentinel to have its say.
const DURATION: &str = "8s";

/// Builds a lab, has the probe kill its master, and leaves its page in `page`.
pub fn run(options: Options, page: &Path) -> Result<()> {
    let tell = Narrator { silent: false };
    let mode = options.mode;
    // What is left of it belongs to the caller, who may have another directory.
    let page = std::path::absolute(page)?;
    let mut lab =
        tell.step("Building the network, starting 3 Redis, 3 Sentinels", || Lab::up(options))?;
    tell.step("Starting vipd", || lab.serve())?;
    let master = &lab.nodes[lab.master()?];
    let sentinels = lab.sentinels.iter().map(|it| it.address().to_string());
    let kill = format!("kill -9 {}", master.pid()?);
    let mut arguments = vec!["probe".to_owned(), lab.service().to_string()];
    arguments.extend(["--duration", DURATION, "--trigger", &kill].map(str::to_owned));
    arguments.extend(["--sentinel".to_owned(), sentinels.collect::<Vec<_>>().join(",")]);
    if mode != Mode::Host {
        // On the director; in mode `host` it is the next master's vipd that will tell.
        arguments.extend(["--vipd".to_owned(), lab.daemon().socket().display().to_string()]);
    }
    arguments.extend(["--html".to_owned(), page.display().to_string()]);
    tell.line(&format!(
        "On the client's host, where pid {} is {}:\n\n$ vipd {}\n",
        master.pid()?,
        master.name(),
        shell_words(&arguments)
    ));
    let status = lab
        .client
        .namespace
        .command(lab.daemons.first().map(Daemon::binary).context("the lab has no vipd")?)
        .args(&arguments)
        .status()
        .context("cannot start vipd probe")?;
    drop(lab);
    ensure!(status.success(), "vipd probe failed ({status})");
    tell.line(&format!("\nThe page is {}; everything else is removed again.", page.display()));
    Ok(())
}

fn shell_words(arguments: &[String]) -> String {
    let quoted =
        arguments.iter().map(|it| if it.contains(' ') { format!("'{it}'") } else { it.clone() });
    quoted.collect::<Vec<_>>().join(" ")
}
