//! Processes: a server that dies with the test process, and a command that is given a deadline.
//!
//! Each is started through `setpriv --pdeathsig KILL`, by one thread that lives as long as the test process: the kernel ties the
//! signal to the parent *thread*, and a test's own thread ends with the test.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use crate::{place, wait};

/// Bytes of a log shown when something goes wrong.
const LOG_TAIL: u64 = 6_000;
/// How long an ended process may take to be reaped after SIGKILL.
const REAP: Duration = Duration::from_secs(20);

/// A program with its arguments and environment.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    directory: Option<PathBuf>,
}

impl Program {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Program { path: path.into(), arguments: Vec::new(), environment: Vec::new(), directory: None }
    }

    pub fn args<A: Into<String>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    pub fn env(mut self, key: &str, value: impl Into<String>) -> Self {
        self.environment.push((key.to_owned(), value.into()));
        self
    }

    /// Runs in this directory rather than in ours.
    pub fn within(mut self, directory: &Path) -> Self {
        self.directory = Some(directory.to_owned());
        self
    }

    fn command(&self) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(&self.path).args(&self.arguments);
        command.envs(self.environment.iter().map(|(k, v)| (k, v)));
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        command
    }
}

type Job = (Command, Sender<io::Result<Child>>);

fn spawn(command: Command) -> Child {
    static SPAWNER: OnceLock<Mutex<Sender<Job>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (jobs, inbox) = channel::<Job>();
        std::thread::spawn(move || {
            for (mut command, answer) in inbox {
                // The asker may have panicked meanwhile; then the child is killed with this process.
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(jobs)
    });
    let described = format!("{command:?}");
    let (answer, outcome) = channel();
    let jobs = spawner.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    jobs.send((command, answer)).expect("the spawner lives as long as the process");
    outcome.recv().expect("the spawner answers").unwrap_or_else(|e| panic!("{described} does not start: {e}"))
}

/// A running server, its output in a file. Dropped = killed with SIGKILL and reaped.
#[derive(Debug)]
pub struct Server {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts it; its output is appended to `log`.
    pub fn start(name: &str, program: &Program, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).expect("a log file");
        let mut command = program.command();
        command.stdin(Stdio::null()).stdout(file.try_clone().expect("a second handle")).stderr(file);
        Server { name: name.to_owned(), child: spawn(command), log: log.to_owned() }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written, whole.
    pub fn log_text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits until `ready` says so; panics with its log when it ends before, or after `deadline`.
    pub fn await_ready(&mut self, deadline: Duration, mut ready: impl FnMut() -> bool) {
        let name = self.name.clone();
        wait::until(&format!("{name} is ready"), deadline, || {
            if let Some(status) = self.child.try_wait().expect("the child is ours") {
                panic!("{name} ended with {status}:\n{}", tail(&self.log));
            }
            ready().then_some(())
        });
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("the child is ours").is_none()
    }

    /// SIGKILL, and waits for its end.
    pub fn kill(&mut self) {
        // An error says that it has ended already.
        let _ = self.child.kill();
        self.await_end(REAP);
    }

    /// SIGTERM, and waits for its end: the orderly way.
    pub fn terminate(&mut self, deadline: Duration) {
        self.signal(rustix::process::Signal::TERM);
        self.await_end(deadline);
    }

    /// SIGSTOP: it answers nothing until [`Server::resume`].
    pub fn freeze(&self) {
        self.signal(rustix::process::Signal::STOP);
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal(rustix::process::Signal::CONT);
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
        rustix::process::kill_process(pid, signal).expect("the child is ours and not reaped");
    }

    fn await_end(&mut self, deadline: Duration) {
        let name = self.name.clone();
        wait::until(&format!("{name} has ended"), deadline, || self.child.try_wait().expect("the child is ours"));
    }

    /// Resident memory, bytes.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("a running server");
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).expect("the kernel tells VmRSS");
        let kib: u64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number of KiB");
        kib * 1024
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the end of {} ({}):\n{}", self.name, self.log.display(), tail(&self.log));
        }
    }
}

fn tail(path: &Path) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL)))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_or_else(|e| format!("no log: {e}"), |bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// What a command left behind.
#[derive(Debug)]
pub struct Output {
    pub success: bool,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Output {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// Runs a program on `input`; panics after `deadline`, having killed it. Output goes through files, so that no pipe fills up.
pub fn run(program: &Program, input: &[u8], deadline: Duration) -> Output {
    let mut running = Running::start(program);
    let mut stdin = running.child.stdin.take().expect("a pipe");
    let input = input.to_vec();
    // A program that ends before it has read all is judged by its exit status.
    let feeder = std::thread::spawn(move || stdin.write_all(&input).is_ok());
    let status = wait::until(&format!("{:?} has ended", program.arguments), deadline, || {
        running.child.try_wait().expect("the child is ours")
    });
    feeder.join().expect("the feeder does not panic");
    Output {
        success: status.success(),
        stdout: std::fs::read(running.directory.join("stdout")).expect("its output"),
        stderr: tail(&running.directory.join("stderr")),
    }
}

/// Like [`run`]; panics if the program fails.
pub fn run_well(program: &Program, input: &[u8], deadline: Duration) -> Vec<u8> {
    let output = run(program, input, deadline);
    let said = String::from_utf8_lossy(&output.stdout[..output.stdout.len().min(2_000)]).into_owned();
    assert!(output.success, "{:?} failed:\n{said}\n{}", program.arguments, output.stderr);
    output.stdout
}

/// A program that goes on until its standard input closes, its lines readable meanwhile. Dropped = killed.
#[derive(Debug)]
pub struct Running {
    child: Child,
    directory: PathBuf,
}

impl Running {
    pub fn start(program: &Program) -> Self {
        let directory = place::directory("command");
        let file = |name: &str| File::create(directory.join(name)).expect("an output file");
        let mut command = program.command();
        command.stdin(Stdio::piped()).stdout(file("stdout")).stderr(file("stderr"));
        Running { child: spawn(command), directory }
    }

    /// Its whole lines so far.
    pub fn lines(&self) -> Vec<String> {
        let bytes = std::fs::read(self.directory.join("stdout")).expect("its output");
        let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        String::from_utf8_lossy(&bytes[..whole]).lines().map(str::to_owned).collect()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("the child is ours").is_none()
    }

    /// SIGTERM, and waits for its end.
    pub fn terminate(&mut self, deadline: Duration) {
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("the child is ours and not reaped");
        wait::until("a command has ended", deadline, || self.child.try_wait().expect("the child is ours"));
    }

    /// The end of what it complained about.
    pub fn complaints(&self) -> String {
        tail(&self.directory.join("stderr"))
    }

    /// Closes its standard input and waits for its end.
    pub fn finish(mut self, deadline: Duration) -> Vec<String> {
        drop(self.child.stdin.take());
        wait::until("a member has left", deadline, || self.child.try_wait().expect("the child is ours"));
        self.lines()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
