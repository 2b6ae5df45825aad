//! A plugin's process: started, talked to, killed, reaped.
//!
//! Owns the process, its pipes and a thread that starts it, waits for its end and then kills what is left of its process group. The thread
//! lives as long as the process: the kernel kills the child when the thread that started it is gone, and so with the worker. Does not know
//! what the bytes mean. Invariants: the process is killed through a handle that cannot mean another one; its standard error is read to
//! its end, in bounded strides, at most [`LOG_LINES_MAX`] lines a second are logged, and its last words are kept; its environment is a list of names.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open, pidfd_send_signal, waitid,
};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe;
use tokio::sync::{oneshot, watch};

use super::Launcher;
use super::manifest::Manifest;
use crate::registry::TaskContext;

/// Lines of standard error that are logged in a second; what is more is counted.
const LOG_LINES_MAX: u32 = 50;
/// Bytes of standard error that are read in a second; who writes more waits, and spends its own time alone.
const ERROR_BYTES_MAX: usize = 1 << 20;
/// A line of standard error is cut here, bytes.
const LINE_BYTES_MAX: u64 = 4_096;
/// Last words that are kept, lines.
const LAST_LINES: usize = 8;
/// How long a process whose pipes are closed may take to end by itself.
const END_GRACE: Duration = Duration::from_secs(5);
/// How long the end of a process that was killed, or has closed its pipe, is waited for before it is spoken of without it.
const END_SEEN: Duration = Duration::from_secs(2);
/// How long what it wrote to standard error before its end may take to be read.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// How long the rest of words that are no answer is waited for.
const MOMENT: Duration = Duration::from_millis(100);
/// Variables that every plugin sees, beside those that its `connector.json` names.
const ENVIRONMENT: [&str; 7] = ["PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH"];

/// What it said last on standard error.
#[derive(Debug, Default)]
struct Words {
    lines: std::collections::VecDeque<String>,
}

/// A running child. Dropped = its pipes are closed, and it is killed if it does not end by itself.
#[derive(Debug)]
pub struct PluginProcess {
    input: pipe::Sender,
    output: pipe::Receiver,
    handle: Arc<OwnedFd>,
    ended: watch::Receiver<Option<ExitStatus>>,
    words: Arc<Mutex<Words>>,
    listening: tokio::task::JoinHandle<()>,
    busy: bool,
}

struct Started {
    child_pipes: (OwnedFd, OwnedFd, OwnedFd),
    handle: OwnedFd,
}

fn command(manifest: &Manifest, launcher: &Launcher) -> Command {
    let mut command = Command::new(&launcher.program);
    command
        .arg0("strandline")
        .arg("plugin-host")
        .args(["--parent", &std::process::id().to_string()])
        .args(["--memory-max", &manifest.memory_max.to_string()])
        .args(["--kind", manifest.kind.name()])
        .arg("--")
        .arg(&manifest.file)
        .args(&manifest.arguments)
        // Of its own, so that a Ctrl-C at the worker's terminal does not end it in front of the last flush.
        .process_group(0)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let named = ENVIRONMENT.iter().copied().chain(manifest.environment.iter().map(String::as_str));
    command.envs(named.filter_map(|name| Some((name, std::env::var_os(name)?))));
    command
}

/// The thread: starts the process, and stays until it is reaped.
fn live_with(
    mut command: Command,
    started: oneshot::Sender<std::io::Result<Started>>,
    ended: &watch::Sender<Option<ExitStatus>>,
) {
    let begun = (|| {
        let mut child = command.spawn()?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a process has a number");
        let handle = pidfd_open(pid, PidfdFlags::empty());
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Ok(handle), (Some(input), Some(output), Some(errors))) = (handle, pipes) else {
            // Nobody else knows of it yet: its number is still its own.
            let _ = child.kill();
            let _ = child.wait();
            return Err(std::io::Error::other("the system has no handles for processes (Linux 5.3 has)"));
        };
        Ok((child, pid, Started { child_pipes: (input.into(), output.into(), errors.into()), handle }))
    })();
    match begun {
        Ok((mut child, pid, parts)) => {
            if started.send(Ok(parts)).is_err() {
                let _ = child.kill();
            }
            let status = reap(&mut child, pid);
            ended.send_replace(status.ok());
        }
        Err(error) => {
            // The asker may be gone.
            let _ = started.send(Err(error));
        }
    }
}

/// Waits for the end; the group is killed while the number of its leader cannot be another's.
fn reap(child: &mut Child, pid: Pid) -> std::io::Result<ExitStatus> {
    let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    while let Err(rustix::io::Errno::INTR) = waitid(WaitId::Pid(pid), ended) {}
    // There may be nobody else in the group.
    let _ = kill_process_group(pid, Signal::KILL);
    child.wait()
}

impl PluginProcess {
    /// Starts one; `secrets` are blotted out of what it says.
    pub async fn start(
        manifest: &Manifest,
        launcher: &Launcher,
        context: &TaskContext,
        secrets: Vec<String>,
    ) -> std::io::Result<PluginProcess> {
        let command = command(manifest, launcher);
        let (started, begun) = oneshot::channel();
        let (ended_in, ended) = watch::channel(None);
        let name = format!("plugin-{}-{}", context.connector, context.task);
        std::thread::Builder::new().name(name).spawn(move || live_with(command, started, &ended_in))?;
        let gone = || std::io::Error::other("the thread that starts it has ended");
        let Started { child_pipes: (input, output, errors), handle } = begun.await.map_err(|_| gone())??;
        let pipes = (|| {
            let (input, output) = (pipe::Sender::from_owned_fd(input)?, pipe::Receiver::from_owned_fd(output)?);
            Ok::<_, std::io::Error>((input, output, pipe::Receiver::from_owned_fd(errors)?))
        })();
        let (input, output, errors) = pipes.inspect_err(|_| {
            // An error says that it has ended.
            let _ = pidfd_send_signal(&handle, Signal::KILL);
        })?;
        let words = Arc::new(Mutex::new(Words::default()));
        let errors = BufReader::new(errors);
        let label = (context.connector.clone(), context.task);
        let listening = tokio::spawn(listen(errors, label, secrets, Arc::clone(&words)));
        Ok(PluginProcess { input, output, handle: Arc::new(handle), ended, words, listening, busy: false })
    }

    /// Writes all of it; an error says that nobody reads any more.
    pub async fn send(&mut self, parts: &[&[u8]]) -> std::io::Result<()> {
        for part in parts {
            self.input.write_all(part).await?;
        }
        Ok(())
    }

    /// Reads exactly so many bytes.
    pub async fn receive(&mut self, bytes: &mut [u8]) -> std::io::Result<()> {
        self.output.read_exact(bytes).await.map(|_| ())
    }

    /// Reads what is there within a moment, at most to the end of `bytes`; returns how much.
    pub async fn some_more(&mut self, bytes: &mut [u8]) -> usize {
        let read = tokio::time::timeout(MOMENT, self.output.read(bytes)).await;
        read.ok().and_then(Result::ok).unwrap_or(0)
    }

    /// Whether a call is under way: who is dropped meanwhile is killed at once.
    pub fn set_busy(&mut self, busy: bool) {
        self.busy = busy;
    }

    /// SIGKILL.
    pub fn kill(&self) {
        // An error says that it has ended.
        let _ = pidfd_send_signal(self.handle.as_fd(), Signal::KILL);
    }

    /// How it ended, once it has; waits a little for that.
    pub async fn how_it_ended(&mut self) -> Option<String> {
        let seen = tokio::time::timeout(END_SEEN, self.ended.wait_for(Option::is_some)).await;
        let status = (*seen.ok()?.ok()?)?;
        Some(told(status))
    }

    /// What it wrote to standard error last; empty if nothing.
    pub async fn last_words(&mut self) -> String {
        let _ = tokio::time::timeout(LAST_WORDS, &mut self.listening).await;
        self.words.lock().lines.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for PluginProcess {
    fn drop(&mut self) {
        let (handle, mut ended) = (Arc::clone(&self.handle), self.ended.clone());
        let kill = move || {
            // An error says that it has ended.
            let _ = pidfd_send_signal(handle.as_fd(), Signal::KILL);
        };
        match tokio::runtime::Handle::try_current() {
            // The pipes are closed meanwhile, and that tells it to end.
            Ok(runtime) if !self.busy => drop(runtime.spawn(async move {
                if tokio::time::timeout(END_GRACE, ended.wait_for(Option::is_some)).await.is_err() {
                    kill();
                }
            })),
            _ => kill(),
        }
    }
}

/// An exit status in words.
fn told(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => {
            let name = match signal {
                4 => " (SIGILL, an illegal instruction)",
                6 => " (SIGABRT, it aborted)",
                7 => " (SIGBUS)",
                8 => " (SIGFPE)",
                9 => " (SIGKILL)",
                11 => " (SIGSEGV, a bad memory access)",
                15 => " (SIGTERM)",
                _ => "",
            };
            format!("it was ended by signal {signal}{name}")
        }
        (None, Some(code)) => format!("it ended with exit status {code}"),
        (None, None) => "it ended".to_owned(),
    }
}

/// Reads standard error to its end.
async fn listen(
    mut errors: BufReader<pipe::Receiver>,
    (connector, task): (String, u32),
    secrets: Vec<String>,
    words: Arc<Mutex<Words>>,
) {
    let mut second = tokio::time::Instant::now();
    let (mut logged, mut dropped, mut bytes) = (0, 0_u64, 0);
    let longest_secret = secrets.iter().map(String::len).max().unwrap_or(0);
    let mut is_cut = false;
    loop {
        if bytes >= ERROR_BYTES_MAX {
            tokio::time::sleep_until(second + Duration::from_secs(1)).await;
        }
        let mut line = Vec::new();
        match (&mut errors).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        if second.elapsed() >= Duration::from_secs(1) {
            if dropped > 0 {
                tracing::warn!(connector, task, dropped, "lines of the plugin's standard error were not logged");
            }
            (second, logged, dropped, bytes) = (tokio::time::Instant::now(), 0, 0, 0);
        }
        bytes += line.len();
        let is_whole = line.ends_with(b"\n");
        // The rest of a line that was cut is not told, nor is what may be the beginning of a secret at the cut.
        if std::mem::replace(&mut is_cut, !is_whole) {
            continue;
        }
        if !is_whole {
            line.truncate(line.len().saturating_sub(longest_secret));
        }
        let mut text = String::from_utf8_lossy(&line).trim_end().to_owned();
        if text.is_empty() {
            continue;
        }
        for secret in &secrets {
            text = text.replace(secret.as_str(), crate::config::HIDDEN);
        }
        if logged < LOG_LINES_MAX {
            logged += 1;
            tracing::info!(connector, task, plugin = text);
        } else {
            dropped += 1;
        }
        let mut words = words.lock();
        if words.lines.len() == LAST_LINES {
            words.lines.pop_front();
        }
        words.lines.push_back(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_in_words() {
        assert_eq!(told(ExitStatus::from_raw(6)), "it was ended by signal 6 (SIGABRT, it aborted)");
        assert_eq!(told(ExitStatus::from_raw(3 << 8)), "it ended with exit status 3");
    }
}
