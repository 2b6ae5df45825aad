//! `strandline dev --nodes N`: a cluster on one machine, each node a process of its own.
//!
//! Owns the nodes' `server.properties` and their processes: it starts them, ends them when it ends, and leaves them alone in
//! between; a node that dies stays dead until it is started again by hand or by the next `dev`.
//! An existing cluster is reopened: its nodes keep their controller ports, which the quorum knows them by.

use std::fs;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};

use super::CommandResult;
use crate::clock;
use crate::config::Properties;

/// Nodes of a development cluster, at most.
pub const NODES_MAX: u16 = 9;
/// The cluster serves within this time, or the start has failed.
const START_MAX: Duration = Duration::from_secs(30);
/// Nodes get this long to end in order.
const STOP_MAX: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(20);

/// One node's files and ports.
struct NodePlan {
    id: u16,
    dir: PathBuf,
    port: u16,
    controller_port: u16,
}

/// The processes; dropping it ends them.
struct Running {
    children: Vec<(u16, Child)>,
}

impl Drop for Running {
    fn drop(&mut self) {
        for (_, child) in &mut self.children {
            if matches!(child.try_wait(), Ok(None))
                && let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw)
            {
                // An error means that it has ended by itself.
                let _ = kill_process(pid, Signal::TERM);
            }
        }
        let deadline = clock::monotonic() + STOP_MAX;
        for (id, child) in &mut self.children {
            while matches!(child.try_wait(), Ok(None)) {
                if clock::monotonic() >= deadline {
                    eprintln!("strandline: node {id} did not end in {STOP_MAX:?} and is killed");
                    let _ = child.kill();
                    let _ = child.wait();
                    break;
                }
                std::thread::park_timeout(LOOK);
            }
        }
    }
}

/// Runs the cluster until this process is told to end.
pub fn run(data_dir: &Path, port: u16, nodes: u16, overrides: &[String]) -> CommandResult {
    if !(2..=NODES_MAX).contains(&nodes) {
        return Err(format!("--nodes takes a number from 1 to {NODES_MAX}").into());
    }
    let data_dir = std::path::absolute(data_dir)?;
    let plans = plan(&data_dir, port, nodes)?;
    for plan in &plans {
        write_properties(&data_dir, plan, &plans, overrides)?;
    }
    let began = clock::monotonic();
    let mut running = Running { children: Vec::new() };
    for plan in &plans {
        running.children.push((plan.id, spawn(plan)?));
    }
    wait_until_served(&mut running, &plans)?;
    print_banner(&data_dir, &plans, clock::monotonic().duration_since(began));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(until_told(&mut running))?;
    Ok(ExitCode::SUCCESS)
}

fn plan(data_dir: &Path, port: u16, nodes: u16) -> Result<Vec<NodePlan>, Box<dyn std::error::Error>> {
    let mut plans: Vec<NodePlan> = Vec::new();
    for id in 1..=nodes {
        let dir = data_dir.join(format!("node-{id}"));
        fs::create_dir_all(&dir)?;
        let port = port.checked_add(id - 1).ok_or("the ports of the nodes do not end above 65535")?;
        if let Err(error) = TcpListener::bind(("127.0.0.1", port)) {
            return Err(
                format!("node {id} cannot listen on port {port}: {error}; stop what has it, or choose --port").into()
            );
        }
        let controller_port = match known_controller_port(&dir) {
            Some(known) => known,
            None => free_port(&plans, port, nodes)?,
        };
        plans.push(NodePlan { id, dir, port, controller_port });
    }
    Ok(plans)
}

/// The controller port of a node that was started before.
fn known_controller_port(dir: &Path) -> Option<u16> {
    let text = fs::read_to_string(dir.join("server.properties")).ok()?;
    let mut properties = Properties::default();
    properties.add_text(&text, "server.properties").ok()?;
    let listeners = properties.get("listeners")?;
    let controller = listeners.split(',').find(|l| l.starts_with("CONTROLLER://"))?;
    controller.rsplit(':').next()?.parse().ok()
}

fn free_port(plans: &[NodePlan], first: u16, nodes: u16) -> io::Result<u16> {
    loop {
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let clients = first..first.saturating_add(nodes);
        if !clients.contains(&port) && plans.iter().all(|p| p.controller_port != port) {
            return Ok(port);
        }
    }
}

fn write_properties(data_dir: &Path, plan: &NodePlan, all: &[NodePlan], overrides: &[String]) -> io::Result<()> {
    let voters: Vec<String> = all.iter().map(|p| format!("{}@127.0.0.1:{}", p.id, p.controller_port)).collect();
    let replicas = all.len().min(3);
    let mut text = format!(
        "# Written by `strandline dev --nodes`; written anew at its next start.\n\
         node.id={}\nprocess.roles=broker,controller\n\
         listeners=PLAINTEXT://127.0.0.1:{},CONTROLLER://127.0.0.1:{}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{}\ncontroller.listener.names=CONTROLLER\n\
         controller.quorum.voters={}\nlog.dirs={}\ntier.url=file://{}\n\
         default.replication.factor={replicas}\nmin.insync.replicas={}\nadmin.listener=http://127.0.0.1:0\n\
         log.retention.check.interval.ms=1000\nremote.log.manager.task.interval.ms=1000\n\
         log.initial.task.delay.ms=0\ngroup.initial.rebalance.delay.ms=0\n",
        plan.id,
        plan.port,
        plan.controller_port,
        plan.port,
        voters.join(","),
        plan.dir.join("logs").display(),
        data_dir.join("bucket").display(),
        if replicas >= 3 { 2 } else { 1 },
    );
    for pair in overrides {
        text.push_str(pair);
        text.push('\n');
    }
    let file = plan.dir.join("server.properties");
    let mut temporary = file.clone();
    temporary.set_extension("properties.tmp");
    let mut out = fs::File::create(&temporary)?;
    io::Write::write_all(&mut out, text.as_bytes())?;
    out.sync_all()?;
    fs::rename(temporary, file)
}

fn spawn(plan: &NodePlan) -> io::Result<Child> {
    let log = fs::OpenOptions::new().create(true).append(true).open(plan.dir.join("strandline.log"))?;
    Command::new(std::env::current_exe()?)
        .arg("server")
        .arg("--config")
        .arg(plan.dir.join("server.properties"))
        .arg("--end-with-parent")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
}

fn wait_until_served(running: &mut Running, plans: &[NodePlan]) -> Result<(), Box<dyn std::error::Error>> {
    let deadline = clock::monotonic() + START_MAX;
    for plan in plans {
        while TcpStream::connect(("127.0.0.1", plan.port)).is_err() {
            for (id, child) in &mut running.children {
                if let Some(status) = child.try_wait()? {
                    return Err(ended(*id, status, plans).into());
                }
            }
            if clock::monotonic() >= deadline {
                let log = plan.dir.join("strandline.log");
                return Err(
                    format!("node {} does not serve after {START_MAX:?}; see {}", plan.id, log.display()).into()
                );
            }
            std::thread::park_timeout(LOOK);
        }
    }
    Ok(())
}

fn ended(id: u16, status: std::process::ExitStatus, plans: &[NodePlan]) -> String {
    let log = plans.iter().find(|p| p.id == id).map(|p| p.dir.join("strandline.log"));
    let said = log.as_ref().and_then(|log| fs::read_to_string(log).ok()).unwrap_or_default();
    let last = said.lines().last().unwrap_or_default();
    format!("node {id} has ended ({status}): {last}; see {}", log.unwrap_or_default().display())
}

fn print_banner(data_dir: &Path, plans: &[NodePlan], took: Duration) {
    let bootstrap: Vec<String> = plans.iter().map(|p| format!("127.0.0.1:{}", p.port)).collect();
    let bootstrap = bootstrap.join(",");
    println!(
        "strandline {}: {} nodes serve Kafka clients at {bootstrap} ({} ms)",
        env!("CARGO_PKG_VERSION"),
        plans.len(),
        took.as_millis()
    );
    println!("  data     {}/node-<id> (server.properties, strandline.pid, strandline.log, logs)", data_dir.display());
    println!("  bucket   file://{}", data_dir.join("bucket").display());
    println!("  status   strandline cluster -b 127.0.0.1:{} status", plans[0].port);
    println!(
        "  try      strandline topic -b 127.0.0.1:{} create t -p 6 && kill -9 $(cat {}/node-2/strandline.pid)",
        plans[0].port,
        data_dir.display()
    );
}

/// Waits for the signal to end; says so when a node dies before.
async fn until_told(running: &mut Running) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut dead: Vec<u16> = Vec::new();
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
        }
        for (id, child) in &mut running.children {
            if !dead.contains(id)
                && let Ok(Some(status)) = child.try_wait()
            {
                eprintln!("strandline: node {id} has ended ({status}); the others go on");
                dead.push(*id);
            }
        }
    }
}
