//! The command line; see `vipd --help` and README.md.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Parser as _;
use tracing_subscriber::EnvFilter;

use vipd::cli::{
    Cli, Command, DetachFlags, NotifyFlags, RunFlags, SocketFlags, StatusFlags, SwitchoverFlags,
};
use vipd::config::Config;
use vipd::control::{self, Request, Response};
use vipd::logging::Log;
use vipd::notify::{self, Hint, Outcome};
use vipd::{check, detach, driver, pinned, probe};

fn main() -> ExitCode {
    let command = Cli::parse_from(Cli::arguments(std::env::args_os())).command;
    let log = match log(&command) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("vipd: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime().and_then(|runtime| runtime.block_on(dispatch(command)));
    log.finish();
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("vipd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn dispatch(command: Command) -> Result<ExitCode> {
    match command {
        Command::Run(flags) => {
            abort_on_panic();
            driver::run(Config::from_flags(&flags)?, flags.file()).await.map(|()| ExitCode::SUCCESS)
        }
        Command::Check(flags) => run_check(&flags).await,
        Command::Status(flags) => status(&flags).await,
        Command::Reload(flags) => reload(&flags).await,
        Command::Switchover(flags) => switch_over(&flags).await,
        Command::Notify(flags) => Ok(notify(&flags).await),
        Command::Probe(flags) => probe::run(&flags, print).await,
        Command::Detach(flags) => detach(&flags).await,
    }
}

async fn run_check(flags: &RunFlags) -> Result<ExitCode> {
    let report = check::check(&Config::from_flags(flags)?).await;
    print(&report.to_string())?;
    Ok(if report.will_work() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn status(flags: &StatusFlags) -> Result<ExitCode> {
    let paths = flags.paths()?;
    let (status, code) = match control::ask(&paths.control_socket, Request::Status).await {
        Ok(Response::Status(status)) => (*status, ExitCode::SUCCESS),
        Ok(Response::Error(error)) => bail!("vipd could not tell its status: {error}"),
        Ok(other) => bail!("vipd answers something else: {other:?}"),
        Err(control::Error::NotRunning { path, source }) => {
            let pinned = pinned::status(&paths.pin_dir)?;
            let pinned = pinned.with_context(|| {
                format!(
                    "no vipd answers on {}: {source}; nothing is pinned in {} either",
                    path.display(),
                    paths.pin_dir.display()
                )
            })?;
            (pinned, ExitCode::FAILURE)
        }
        Err(error) => return Err(error.into()),
    };
    if flags.json {
        print(&format!("{}\n", serde_json::to_string_pretty(&status)?))?;
    } else {
        print(&status.to_string())?;
    }
    Ok(code)
}

async fn reload(flags: &SocketFlags) -> Result<ExitCode> {
    match control::ask(&flags.control_socket()?, Request::Reload).await? {
        Response::Done => Ok(ExitCode::SUCCESS),
        Response::Error(why) => bail!("nothing was changed: {why}"),
        other => bail!("vipd answers something else: {other:?}"),
    }
}

/// A line for each step, when it is done.
async fn switch_over(flags: &SwitchoverFlags) -> Result<ExitCode> {
    let socket = flags.socket.control_socket()?;
    // A reader that has gone away doesn't stop vipd either.
    let told = control::switch_over(&socket, flags.order(), |step| {
        let _ = print(&format!("{step}\n"));
    });
    match told.await? {
        Response::Done => Ok(ExitCode::SUCCESS),
        Response::Switched(switched) => {
            print(&switched.to_string())?;
            Ok(ExitCode::SUCCESS)
        }
        Response::Error(why) => bail!("no switchover: {why}"),
        other => bail!("vipd answers something else: {other:?}"),
    }
}

/// Its exit status is for Sentinel; see [`Outcome::exit_code`].
async fn notify(flags: &NotifyFlags) -> ExitCode {
    let outcome = match Hint::from_arguments(&flags.arguments) {
        Err(why) => Outcome::Refused(why),
        Ok(hint) => match flags.sockets(|name| std::env::var_os(name)) {
            Ok(sockets) => notify::tell(&sockets, &hint).await,
            // A file that is being edited is whole by the next attempt.
            Err(error) => Outcome::Unheard(error.to_string()),
        },
    };
    if let Outcome::Unheard(why) | Outcome::Refused(why) = &outcome {
        eprintln!("vipd: {why}");
    }
    outcome.exit_code()
}

async fn detach(flags: &DetachFlags) -> Result<ExitCode> {
    let paths = flags.paths()?;
    if let Ok(Response::Status(status)) = control::ask(&paths.control_socket, Request::Status).await
    {
        bail!(
            "vipd is running (pid {}): stop it first, which detaches unless on_stop = \"keep\"",
            status.pid.unwrap_or_default()
        );
    }
    let removed = detach::detach(&paths)?;
    print(&removed.to_string())?;
    Ok(ExitCode::SUCCESS)
}
/// A task that panicked would leave a daemon that looks alive and follows no failover. Dead, it is
/// started again by whoever watches over it, while what is pinned forwards on.
fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

/// Standard output; a reader that has gone away is no error.
fn print(text: &str) -> Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Logs go to standard error: everything for `run`, only warnings for commands that print.
/// `VIPD_LOG` chooses otherwise, as in `VIPD_LOG=vipd=debug`.
fn log(command: &Command) -> Result<Log> {
    let default = match command {
        Command::Run(_) => "info",
        // Its report says everything.
        Command::Check(_) => "error",
        Command::Status(_)
        | Command::Reload(_)
        | Command::Switchover(_)
        | Command::Notify(_)
        | Command::Probe(_)
        | Command::Detach(_) => "warn",
    };
    let filter = EnvFilter::try_from_env("VIPD_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let log = Log::start(std::io::stderr()).context("cannot start logging")?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer({
            let log = log.clone();
            move || log.clone()
        })
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    Ok(log)
}

/// Two workers: one can write maps while the other reads sockets.
fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the event loop")
}
