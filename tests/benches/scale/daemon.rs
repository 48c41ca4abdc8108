//! A vipd of the benchmark.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use vipd::clock::Monotonic;
use vipd::control::{self, Request, Response};
use vipd::status::{ServiceState, Status};
use vipd_tests::daemon::{Daemon, Mode, Settings};
use vipd_tests::wait::{PATIENCE, wait_until};

use crate::VIPS;
use crate::memory::{self, Memory};
use crate::site::{self, MASTERS, Site};

/// One vipd on a director of its own.
pub struct Vipd {
    daemon: Daemon,
    pins: PathBuf,
    services: usize,
}

/// One failover, as one vipd tells of it.
pub struct Measured {
    /// Moved together.
    pub services: u32,
    pub to_first_flip: Option<Duration>,
    pub role_to_flip: Option<Duration>,
    pub planned: Option<Duration>,
    pub first_to_last: Option<Duration>,
}

impl Vipd {
    /// With every service.
    pub fn many(site: &Site) -> Result<Self> {
        Self::prepare(site, 0, site::vip_tables(0..VIPS, 0..MASTERS), VIPS * MASTERS)
    }

    /// With one service, of the master that is going to die, on a VIP of its own.
    pub fn one(site: &Site) -> Result<Self> {
        Self::prepare(site, 1, site::vip_tables(VIPS..VIPS + 1, 0..1), 1)
    }

    fn prepare(site: &Site, number: usize, vips: String, services: usize) -> Result<Self> {
        let directory = site.directory.join(format!("vipd{number}"));
        fs::create_dir_all(&directory)?;
        let pins = site.pins.join(number.to_string());
        fs::create_dir_all(&site.pins)?;
        let settings = Settings {
            interfaces: vec!["eth0".to_owned()],
            sentinels: site.sentinel_addresses(),
            vips: vec![site::vip(0).into()],
            port: site::PORT,
            mode: Mode::Nat,
            real_server: false,
            password: None,
            pin_directory: pins.clone(),
            more: String::new(),
            same_host: vec![],
        };
        let daemon = Daemon::prepare(&site.directors[number].namespace, &directory, &settings)?;
        // The lab's has one VIP with one service: everything but that is kept.
        let text = fs::read_to_string(daemon.config())?;
        let head = text.split("[[vip]]").next().unwrap_or_default();
        fs::write(daemon.config(), format!("{head}{vips}"))?;
        Ok(Self { daemon, pins, services })
    }

    /// Starts it; returns how long it took until every service was served and announced.
    pub fn start(&mut self) -> Result<Duration> {
        let begun = Instant::now();
        self.daemon.start()?;
        wait_until(format_args!("{} services are served", self.services), PATIENCE, || {
            let services = self.status()?.services;
            let served =
                |it: &&vipd::status::Service| it.state == ServiceState::Serving && it.announcing;
            Ok(services.iter().filter(served).count() == self.services)
        })?;
        Ok(begun.elapsed())
    }

    /// What it tells of the failover of the first master to `node`, if it has by now.
    pub fn failover_to(&self, node: SocketAddr, killed: Monotonic) -> Result<Option<Measured>> {
        let name = site::name(0);
        let failovers = self.status()?.failovers;
        let told = failovers.iter().rev().find(|it| it.master == name);
        let Some(told) = told.filter(|it| it.to == node && it.from.is_some()) else {
            return Ok(None);
        };
        let since = |to: Option<u64>, from: Option<u64>| {
            Some(Duration::from_nanos(to?.saturating_sub(from?)))
        };
        let flip = told.timeline.flip_ns;
        Ok(Some(Measured {
            services: told.services,
            to_first_flip: since(flip, Some(killed.0)),
            role_to_flip: since(flip, told.timeline.role_confirmed_ns),
            planned: told.planned_ns.map(Duration::from_nanos),
            first_to_last: since(told.last_flip_ns, flip),
        }))
    }

    /// The share of one CPU that it takes over a while.
    pub fn cpu_over(&self, while_: Duration) -> Result<f64> {
        let pid = self.pid()?;
        let (before, begun) = (memory::cpu(pid)?, Instant::now());
        thread::sleep(while_);
        Ok((memory::cpu(pid)? - before).as_secs_f64() / begun.elapsed().as_secs_f64())
    }

    pub fn memory(&self) -> Result<Memory> {
        Memory::of(self.pid()?, &self.pins)
    }

    fn pid(&self) -> Result<u32> {
        Ok(self.status()?.pid.unwrap_or_default())
    }

    /// Without starting a process for each look.
    fn status(&self) -> Result<Status> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        match runtime.block_on(control::ask(self.daemon.socket(), Request::Status))? {
            Response::Status(status) => Ok(*status),
            other => anyhow::bail!("vipd answers {other:?}"),
        }
    }
}
