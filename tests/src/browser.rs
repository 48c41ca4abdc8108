//! A headless Chromium that looks at one page: what it complains of, what it asks the network for, and
//! what a script measures in it.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::Value;

use crate::process::tail;
use crate::wait::wait_for;

/// A browser that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the reader likes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scheme {
    /// Dark letters on light ground.
    Light,
    /// Light letters on dark ground.
    Dark,
}

/// What came of opening a page.
#[derive(Clone, Debug)]
pub struct Visit {
    /// The document as it was in the end.
    pub dom: String,
    /// What the page wrote to the console, or the browser about it.
    pub console: Vec<String>,
    /// Addresses that the page asked for; the browser's own errands are left out.
    pub requests: Vec<String>,
}

/// Opens a page, as it is.
pub fn visit(html: &str, scheme: Scheme) -> Result<Visit> {
    let directory = Directory::new()?;
    let page = directory.0.join("page.html");
    fs::write(&page, html).context("cannot write the page")?;
    let [dom, log, requests] = ["dom.html", "log", "net.json"].map(|it| directory.0.join(it));
    run(&directory.0, &page, scheme, [&dom, &log, &requests])?;
    let read = |file: &Path| {
        let text =
            fs::read(file).with_context(|| format!("the browser left no {}", file.display()));
        text.map(|text| String::from_utf8_lossy(&text).into_owned())
    };
    let log = read(&log)?;
    let console = log.lines().filter(|it| it.contains(":CONSOLE")).map(str::to_owned).collect();
    Ok(Visit { dom: read(&dom)?, console, requests: asked_for(&read(&requests)?)? })
}

/// Opens a page, as it is, in a frame of `width` CSS pixels, and returns what `script` does. That is a
/// JavaScript function of the page's window whose result is made JSON of.
pub fn measure(html: &str, width: u32, scheme: Scheme, script: &str) -> Result<Value> {
    // The page's own policy forbids it scripts, so that this one is outside. A window can't be as
    // narrow as a telephone, a frame can.
    let wrapper = format!(
        r#"<!doctype html><meta charset="utf-8"><style>:root {{ color-scheme: light dark }}</style>
<pre id="measured"></pre><iframe id="page" width="{width}" height="2000" srcdoc="{}"></iframe>
<script>
const frame = document.getElementById("page");
frame.addEventListener("load", () => {{
  let found;
  try {{ found = ({script})(frame.contentWindow); }} catch (error) {{ found = {{ error: String(error.stack) }}; }}
  const safe = JSON.stringify(found).replace(/[<>&\u00a0]/g, it => "\\u" + it.charCodeAt().toString(16).padStart(4, "0"));
  document.getElementById("measured").textContent = safe;
  frame.remove();
}});
</script>"#,
        html.replace('&', "&amp;").replace('"', "&quot;"),
    );
    let dom = visit(&wrapper, scheme)?.dom;
    let measured = dom
        .split_once("<pre id=\"measured\">")
        .and_then(|(_, rest)| rest.split_once("</pre>"))
        .map(|it| it.0)
        .filter(|it| !it.is_empty())
        .context("the page was not measured: it did not load")?;
    let found: Value = serde_json::from_str(measured).context("what was measured is no JSON")?;
    if let Some(error) = found.get("error") {
        bail!("the measuring script failed: {error}");
    }
    Ok(found)
}

/// Removed in the end.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("vipd-browser-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir(&directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        Ok(Self(directory))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // It is in the temporary directory: somebody clears that.
        let _removed = fs::remove_dir_all(&self.0);
    }
}

/// `files` are those for the document, the log and the requests.
fn run(directory: &Path, page: &Path, scheme: Scheme, files: [&Path; 3]) -> Result<()> {
    let [dom, log, requests] = files;
    let output = |file: &Path| {
        File::create(file).with_context(|| format!("cannot create {}", file.display()))
    };
    let mut command = Command::new("chromium");
    command
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        // Its own errands end here; nothing leaves the machine.
        .arg("--host-resolver-rules=MAP * ~NOTFOUND")
        .arg("--enable-logging=stderr")
        .arg(format!("--log-net-log={}", requests.display()))
        .arg(format!("--user-data-dir={}", directory.join("profile").display()))
        .arg(format!(
            "--blink-settings=preferredColorScheme={}",
            match scheme {
                Scheme::Dark => 0,
                Scheme::Light => 1,
            }
        ))
        .args(["--window-size=1280,1024", "--dump-dom"])
        .arg(format!("file://{}", page.display()))
        .stdin(Stdio::null())
        .stdout(output(dom)?)
        .stderr(output(log)?)
        // With its helpers.
        .process_group(0);
    let mut browser = command.spawn().map_err(|error| match error.kind() {
        ErrorKind::NotFound => {
            anyhow::anyhow!("there is no chromium: cargo xtask setup installs it")
        }
        _ => anyhow::Error::new(error).context("cannot start chromium"),
    })?;
    let ended = wait_for("Chromium ends", PATIENCE, || Ok(browser.try_wait()?));
    if ended.is_err() {
        // Not reaped yet, so the group is still its own.
        let _killed = killpg(Pid::from_raw(browser.id().cast_signed()), Signal::SIGKILL);
        let _reaped = browser.wait();
    }
    let status = ended.with_context(|| format!("it said:\n{}", tail(log, 20)))?;
    ensure!(status.success(), "Chromium ended ({status}):\n{}", tail(log, 20));
    Ok(())
}

/// From Chromium's NetLog: requests that came from a page. What is not from a page has "not an origin".
fn asked_for(log: &str) -> Result<Vec<String>> {
    // A browser that is in a hurry leaves the end of the list open.
    let closed = format!("{}]}}", log.trim_end().trim_end_matches(','));
    let log: Value = serde_json::from_str(log)
        .or_else(|_| serde_json::from_str(&closed))
        .context("the browser's NetLog is no JSON")?;
    let events = log["events"].as_array().context("the browser's NetLog has no events")?;
    let of_a_page = events.iter().map(|it| &it["params"]).filter(|it| {
        it["initiator"].as_str().is_some_and(|initiator| initiator != "not an origin")
    });
    Ok(of_a_page.filter_map(|it| it["url"].as_str()).map(str::to_owned).collect())
}
