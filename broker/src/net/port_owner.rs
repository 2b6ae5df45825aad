//! Who listens on a port of this machine, for the message that it is taken.
//!
//! Owns: reading `/proc`. Does not own: the decision what to do. Best effort: a process of another user, or one in another
//! container, is not found. Invariant: at most [`LOOKED_AT_MAX`] descriptors are looked at.

use std::fs;
use std::path::Path;

/// Descriptors of all processes together.
const LOOKED_AT_MAX: usize = 200_000;
/// The state "listening" in `/proc/net/tcp`.
const LISTENING: &str = "0A";

/// `name (process id)` of the process that listens on `port`.
pub fn port_owner(port: u16) -> Option<String> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| fs::read_to_string(table).unwrap_or_default());
    let inodes = tables.iter().flat_map(|table| listening_inodes(table, port));
    let sockets: Vec<String> = inodes.map(|inode| format!("socket:[{inode}]")).collect();
    if sockets.is_empty() {
        return None;
    }
    let mut looked_at = 0;
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let id = process.file_name().to_string_lossy().parse::<u32>().ok();
        let (Some(id), Ok(descriptors)) = (id, fs::read_dir(process.path().join("fd"))) else { continue };
        for descriptor in descriptors.flatten() {
            looked_at += 1;
            if looked_at > LOOKED_AT_MAX {
                return None;
            }
            let target = fs::read_link(descriptor.path()).unwrap_or_default();
            if sockets.iter().any(|socket| Path::new(socket) == target) {
                let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
                return Some(format!("{} (process {id})", name.trim()));
            }
        }
    }
    None
}

/// Inodes of sockets that listen on `port`, from the text of `/proc/net/tcp` or `tcp6`.
fn listening_inodes(table: &str, port: u16) -> Vec<&str> {
    let listens = |line: &str| -> bool {
        let mut fields = line.split_whitespace().skip(1);
        let (local, state) = (fields.next().unwrap_or_default(), fields.nth(1));
        let local_port = local.rsplit(':').next().and_then(|hex| u16::from_str_radix(hex, 16).ok());
        local_port == Some(port) && state == Some(LISTENING)
    };
    table.lines().skip(1).filter(|line| listens(line)).filter_map(|line| line.split_whitespace().nth(9)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_this_process_has_is_known_to_be_its_own() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let owner = port_owner(port).unwrap();
        assert!(owner.ends_with(&format!("(process {})", std::process::id())), "{owner}");
        drop(listener);
        assert_eq!(port_owner(port), None);
    }

    #[test]
    fn only_listening_sockets_of_the_port_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:2384 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0 100 0 0 10 0\n\
            1: 0100007F:2384 0100007F:9C40 01 00000000:00000000 00:00000000 00000000  1000        0 4712 1 0 20 4 30 10 -1\n\
            2: 0100007F:2385 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4713 1 0 100 0 0 10 0\n";
        assert_eq!(listening_inodes(table, 9092), ["4711"]);
    }
}
