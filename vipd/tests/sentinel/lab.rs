//! Real redis-server and redis-sentinel on loopback, in a directory that goes with them.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::time::Duration;

use redis::{Cmd, Value};
use tokio::time::{Instant, sleep, timeout};
use vipd::config::{Endpoint, Login};
use vipd::connect::{Deadlines, Dialer, Error, checked};
use vipd::resolve::Resolver;

/// Longest wait for anything.
pub const PATIENCE: Duration = Duration::from_secs(30);
pub const MASTER: &str = "mymaster";

/// A directory that is removed at the end.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("vipd-test-{}-{count}", std::process::id()));
        fs::create_dir_all(&path).expect("the temporary directory is writable");
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, content).expect("the temporary directory is writable");
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A port that nobody listens on, below the ephemeral ones and not given out before.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = 20_000 + (std::process::id() % 100) as u16 * 100;
    for _ in 0..1000 {
        let port = start + NEXT.fetch_add(1, Ordering::Relaxed) % 2000;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port on loopback from {start} on");
}

/// A running redis-server or redis-sentinel; killed when dropped.
pub struct Server {
    pub port: u16,
    program: &'static str,
    arguments: Vec<String>,
    child: Child,
}

impl Server {
    /// Starts a Redis with these lines of configuration, and waits until it answers.
    pub async fn redis(scratch: &Scratch, lines: &str) -> Self {
        let port = free_port();
        Self::redis_at(scratch, port, &format!("port {port}\n{lines}"), &Login::default()).await
    }

    /// The same with a port, a plain or a TLS one, that `lines` name.
    pub async fn redis_at(scratch: &Scratch, port: u16, lines: &str, login: &Login) -> Self {
        let dir = scratch.path().display();
        let text = format!(
            "bind 127.0.0.1\nsave \"\"\ndir {dir}\nrepl-diskless-sync-delay 0\ndbfilename \
             {port}.rdb\n{lines}\n"
        );
        let file = scratch.write(&format!("redis-{port}.conf"), &text);
        Self::start("redis-server", vec![file.display().to_string()], port, login).await
    }

    /// Starts a Sentinel that monitors a master on loopback.
    pub async fn sentinel(scratch: &Scratch, master: u16, quorum: u32, lines: &str) -> Self {
        let port = free_port();
        let lines = format!("port {port}\n{lines}");
        Self::sentinel_at(scratch, port, ("127.0.0.1", master), quorum, &lines, &Login::default())
            .await
    }

    /// The same with a port that `lines` name.
    pub async fn sentinel_at(
        scratch: &Scratch,
        port: u16,
        (host, master): (&str, u16),
        quorum: u32,
        lines: &str,
        login: &Login,
    ) -> Self {
        let dir = scratch.path().display();
        let text = format!(
            "bind 127.0.0.1\ndir {dir}\n{lines}\nsentinel monitor {MASTER} {host} {master} \
             {quorum}\nsentinel down-after-milliseconds {MASTER} 2000\nsentinel failover-timeout \
             {MASTER} 10000\n"
        );
        let file = scratch.write(&format!("sentinel-{port}.conf"), &text);
        Self::start("redis-sentinel", vec![file.display().to_string()], port, login).await
    }

    async fn start(
        program: &'static str,
        arguments: Vec<String>,
        port: u16,
        login: &Login,
    ) -> Self {
        let child = spawn(program, &arguments);
        let mut server = Self { port, program, arguments, child };
        server.answers(login).await;
        server
    }

    async fn answers(&mut self, login: &Login) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                panic!("{} {:?} ended: {status}", self.program, self.arguments);
            }
            match dialer(login).requests("localhost", self.addr()).await {
                Ok(_) => return,
                Err(error) => {
                    assert!(Instant::now() < deadline, "{}: {error}", self.program);
                    sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }

    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    pub fn endpoint(&self) -> Endpoint {
        Endpoint { host: "127.0.0.1".into(), port: self.port }
    }

    pub fn kill(&mut self) {
        self.child.kill().expect("it is our child");
        self.child.wait().expect("it is our child");
    }

    pub async fn restart(&mut self) {
        self.kill();
        self.child = spawn(self.program, &self.arguments);
        self.answers(&Login::default()).await;
    }

    pub fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        // SAFETY: kill() has no memory effects; the pid is of a child that was not waited for.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }

    /// Sends one command, written as words.
    pub async fn tell(&self, words: &str) -> Result<Value, Error> {
        self.tell_as(words, &Login::default()).await
    }

    pub async fn tell_as(&self, words: &str, login: &Login) -> Result<Value, Error> {
        let mut command = Cmd::new();
        for word in words.split(' ') {
            command.arg(word);
        }
        let mut pipeline = redis::Pipeline::new();
        pipeline.add_command(command);
        let link = dialer(login).requests("localhost", self.addr()).await?;
        let mut values = link.requests().send(&pipeline).await?;
        checked(values.remove(0))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One master, its replicas in sync, and Sentinels that know all of them.
pub struct Lab {
    pub sentinels: Vec<Server>,
    pub redis: Vec<Server>,
    _scratch: Scratch,
}

impl Lab {
    pub async fn new(nodes: usize, sentinels: usize) -> Self {
        let scratch = Scratch::new();
        let master = Server::redis(&scratch, "").await;
        let port = master.port;
        let mut redis = vec![master];
        for _ in 1..nodes {
            redis.push(Server::redis(&scratch, &format!("replicaof 127.0.0.1 {port}")).await);
        }
        until("the replicas are in sync", || async {
            let info = redis[0].tell("INFO replication").await.ok()?;
            let info = vipd::connect::text(&info)?.to_owned();
            (info.matches("state=online").count() == nodes - 1).then_some(())
        })
        .await;
        let quorum = u32::try_from(sentinels / 2 + 1).expect("a few");
        let mut lab = Self { sentinels: Vec::new(), redis, _scratch: scratch };
        for _ in 0..sentinels {
            lab.sentinels.push(Server::sentinel(&lab._scratch, port, quorum, "").await);
        }
        until("the Sentinels know everybody", || async {
            for sentinel in &lab.sentinels {
                let known = vipd::sentinel::inspect(
                    &dialer(&Login::default()),
                    &Resolver::default(),
                    &sentinel.endpoint(),
                    &[MASTER],
                )
                .await;
                let [vipd::sentinel::MasterAnswer::Known(known)] = &known.answer.ok()?.masters[..]
                else {
                    return None;
                };
                let replicas = known.replicas.iter().filter(|replica| replica.link_up).count();
                if replicas != nodes - 1
                    || known.view.other_sentinels as usize != sentinels - 1
                    || known.ckquorum.is_err()
                {
                    return None;
                }
            }
            Some(())
        })
        .await;
        lab
    }
}

/// A dialer with patience for a busy machine.
pub fn dialer(login: &Login) -> Dialer {
    let long = Duration::from_secs(5);
    let deadlines = Deadlines { connect: long, login: long, answer: long };
    Dialer::new(login, deadlines).expect("the login's files are there")
}

/// Polls until there is something; panics with `what` when it takes too long.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut poll: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = poll().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Reads reports until one is what is waited for; panics with all that came instead.
pub async fn report<R: std::fmt::Debug, T>(
    reports: &mut tokio::sync::mpsc::Receiver<R>,
    what: &str,
    mut wanted: impl FnMut(&R) -> Option<T>,
) -> T {
    let mut seen = String::new();
    let found = timeout(PATIENCE, async {
        while let Some(report) = reports.recv().await {
            if let Some(found) = wanted(&report) {
                return Some(found);
            }
            let _ = writeln!(seen, "{report:?}");
        }
        None
    })
    .await;
    match found {
        Ok(Some(found)) => found,
        Ok(None) | Err(_) => panic!("waited in vain for {what}; there was:\n{seen}"),
    }
}

/// Runs a tool of the test's, such as openssl.
pub fn tool(program: &str, arguments: &str, dir: &Path) {
    let output = Command::new(program)
        .args(arguments.split(' '))
        .current_dir(dir)
        .output()
        .unwrap_or_else(|error| panic!("{program} can't be run: {error}; is it installed?"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments}: {errors}");
}

fn spawn(program: &str, arguments: &[String]) -> Child {
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("{program} can't be run: {error}; install redis-server and redis-sentinel")
        })
}
