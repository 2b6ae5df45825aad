//! Where connectors may go: the worker's `connect.url.allowlist`, the one place that every URL, host and file of a connector passes.
//!
//! Owns which destinations are refused, by their text ([`UrlPolicy::admit`]), by what a name resolves to ([`UrlPolicy::check_now`], and the
//! resolver of [`UrlPolicy::client`]) and by where an answer redirects to. Does not own the connections: who opens one without
//! [`UrlPolicy::client`] calls [`UrlPolicy::check_now`] first, and what a server names later (HDFS's DataNodes, a cluster's other brokers) is
//! not seen here. Invariants: without a list, everything but link-local and cloud metadata addresses is allowed; those are allowed only if
//! an entry is such an address or a network of them; a refusal names a host, never the rest of a URL.

mod address;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::Policy;

use self::address::{Network, is_forbidden, is_forbidden_name, plain};
use crate::config::Settings;

/// The worker's key.
pub const KEY: &str = "connect.url.allowlist";
/// How long a name may take to resolve.
const RESOLVE_MAX: Duration = Duration::from_secs(10);
/// How long a connection may take to be there.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Redirects of one request that are followed.
const REDIRECTS_MAX: usize = 5;
/// What stands where a host would, and is a bucket.
const BUCKETS: [&str; 9] = ["s3", "s3a", "gs", "az", "adl", "azure", "abfs", "abfss", "memory"];

/// Where a connector is told to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    Url(String),
    /// `host:port`, separated by commas.
    Hosts(String),
    /// A file or directory that is written.
    File(PathBuf),
}

/// What a worker does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} is not allowed by connect.url.allowlist of the worker ({why}); choose another, or have the worker's operator list it"
)]
pub struct Refused {
    what: String,
    why: &'static str,
}

/// One entry of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    /// Of hosts: all that is not forbidden.
    Host {
        scheme: Option<String>,
        host: Host,
        port: Option<u16>,
    },
    Directory(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    Any,
    Named(String),
    /// What ends so, with the dot.
    Below(String),
    Network(Network),
}

/// The list. The default allows everything but what is forbidden.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UrlPolicy {
    entries: Vec<Entry>,
}

/// What is asked for.
struct Asked<'a> {
    scheme: Option<&'a str>,
    host: &'a str,
    port: Option<u16>,
}

fn refused(what: &str, why: &'static str) -> Refused {
    Refused { what: what.to_owned(), why }
}

/// Host and port, of which IPv6 addresses stand in brackets.
fn split_port(text: &str) -> (&str, Option<u16>) {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => match port.parse() {
            Ok(port) => (host, Some(port)),
            Err(_) => (host, None),
        },
        _ => (text, None),
    }
}

/// A host as every program means it: in small letters, without the last dot, numbers as the address that they are.
fn normal(host: &str) -> Option<String> {
    let host = host.trim();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Some(address.to_string());
    }
    let url = Url::parse(&format!("http://{host}/")).ok()?;
    let found = url.host_str()?.trim_end_matches('.').to_ascii_lowercase();
    Some(found.trim_start_matches('[').trim_end_matches(']').to_owned()).filter(|h| !h.is_empty())
}

impl Entry {
    fn parse(text: &str) -> Result<Entry, String> {
        let wrong = || {
            format!(
                "{text} is none of host, *.domain, address, network/bits, each with :port if wanted and with scheme:// if wanted; \
                 file:///directory; *"
            )
        };
        let (scheme, rest) = match text.split_once("://") {
            Some(("file", directory)) => {
                let directory = cleaned(Path::new(directory)).ok_or_else(wrong)?;
                return Ok(Entry::Directory(directory));
            }
            Some((scheme, rest)) => (Some(scheme.to_ascii_lowercase()), rest),
            None => (None, text),
        };
        let rest = rest.trim_end_matches('/');
        if let Some(network) = Network::parse(rest) {
            return Ok(Entry::Host { scheme, host: Host::Network(network), port: None });
        }
        let (host, port) = split_port(rest);
        let host = match host {
            "*" => Host::Any,
            _ if host.contains('/') => return Err(wrong()),
            _ => match (host.strip_prefix("*."), Network::parse(host.trim_start_matches('[').trim_end_matches(']'))) {
                (_, Some(network)) => Host::Network(network),
                (Some(domain), None) => Host::Below(format!(".{}", normal(domain).ok_or_else(wrong)?)),
                (None, None) => match scheme.as_deref() {
                    Some(scheme) if BUCKETS.contains(&scheme) => Host::Named(host.to_owned()),
                    _ => Host::Named(normal(host).filter(|h| !h.contains('*')).ok_or_else(wrong)?),
                },
            },
        };
        Ok(Entry::Host { scheme, host, port })
    }

    fn is_of(&self, asked: &Asked<'_>) -> bool {
        let Entry::Host { scheme, port, .. } = self else { return false };
        let fits = scheme.as_deref().is_none_or(|s| asked.scheme == Some(s));
        fits && (port.is_none() || asked.port.is_none() || *port == asked.port)
    }

    fn names(&self, asked: &Asked<'_>) -> bool {
        let Entry::Host { host, .. } = self else { return false };
        self.is_of(asked)
            && match host {
                Host::Any => true,
                Host::Named(name) => name == asked.host,
                Host::Below(end) => asked.host.ends_with(end.as_str()),
                Host::Network(_) => false,
            }
    }

    fn network(&self) -> Option<&Network> {
        match self {
            Entry::Host { host: Host::Network(network), .. } => Some(network),
            _ => None,
        }
    }
}

impl UrlPolicy {
    /// Entries separated by commas; empty = the default. Err = what is wrong and what would be right.
    pub fn parse(list: &str) -> Result<UrlPolicy, String> {
        let entries = list.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        Ok(UrlPolicy { entries: entries.map(Entry::parse).collect::<Result<_, _>>()? })
    }

    /// Whether a URL may be gone to, as far as its text tells. Names may still resolve to what is refused.
    pub fn admit(&self, url: &str) -> Result<(), Refused> {
        let (scheme, hosts) = located(url);
        if scheme == "file" {
            // Some read the path as it is written, others undo its escapes: both must be right.
            let unescaped = Url::parse(url).ok().and_then(|url| url.to_file_path().ok());
            self.admit_file(&unescaped.unwrap_or_else(|| PathBuf::from(url)))?;
            return self.admit_file(Path::new(url.split_once("://").map_or(url, |(_, path)| path)));
        }
        if hosts.is_empty() && !self.entries.is_empty() && scheme != "memory" {
            return Err(refused(&format!("a URL of {scheme} without a host"), "it names no host"));
        }
        for (host, port) in hosts {
            self.admit_one(&Asked { scheme: Some(&scheme), host: &host, port })?;
        }
        Ok(())
    }

    /// Whether a host may be gone to, as far as its text tells.
    pub fn admit_host(&self, host: &str, port: u16) -> Result<(), Refused> {
        let host = normal(host).ok_or_else(|| refused("a host", "it is none"))?;
        self.admit_one(&Asked { scheme: None, host: &host, port: Some(port) })
    }

    /// Whether a file or directory may be written.
    pub fn admit_file(&self, path: &Path) -> Result<(), Refused> {
        if self.entries.is_empty() {
            return Ok(());
        }
        let why = "it is below no file:///directory of the list";
        let told = path.display().to_string();
        let real = cleaned(path).and_then(|clean| resolved(&clean)).ok_or_else(|| refused(&told, why))?;
        let below = |entry: &Entry| match entry {
            Entry::Directory(directory) => resolved(directory).is_some_and(|d| real.starts_with(d)),
            Entry::Host { .. } => false,
        };
        if self.entries.iter().any(below) { Ok(()) } else { Err(refused(&told, why)) }
    }

    /// Whether a connection for `host` may go to an address.
    pub fn admit_address(&self, host: &str, address: IpAddr) -> Result<(), Refused> {
        let host = normal(host).unwrap_or_default();
        self.admit_address_of(&Asked { scheme: None, host: &host, port: None }, address)
    }

    fn admit_one(&self, asked: &Asked<'_>) -> Result<(), Refused> {
        let is_bucket = asked.scheme.is_some_and(|scheme| BUCKETS.contains(&scheme));
        if !is_bucket && let Ok(address) = asked.host.parse::<IpAddr>() {
            return self.admit_address_of(asked, address);
        }
        let named = |entry: &Entry| matches!(entry, Entry::Host { host: Host::Named(_), .. }) && entry.names(asked);
        if !is_bucket && is_forbidden_name(asked.host) && !self.entries.iter().any(named) {
            return Err(refused(asked.host, "it is a cloud's metadata service"));
        }
        // With networks in the list, a name is judged by its addresses.
        let open =
            |entry: &Entry| entry.names(asked) || (!is_bucket && entry.network().is_some() && entry.is_of(asked));
        if self.entries.is_empty() || self.entries.iter().any(open) {
            return Ok(());
        }
        Err(refused(asked.host, "it is not listed"))
    }

    fn admit_address_of(&self, asked: &Asked<'_>, address: IpAddr) -> Result<(), Refused> {
        let address = plain(address);
        let fits = |entry: &&Entry| entry.is_of(asked) && entry.network().is_some_and(|n| n.contains(address));
        let mut networks = self.entries.iter().filter(fits);
        if is_forbidden(address) {
            let explicit = networks.any(|entry| entry.network().is_some_and(Network::is_forbidden));
            let why = "it is a link-local or cloud metadata address";
            return if explicit { Ok(()) } else { Err(refused(&told(asked.host, address), why)) };
        }
        let listed = networks.next().is_some() || self.entries.iter().any(|entry| entry.names(asked));
        if self.entries.is_empty() || listed {
            Ok(())
        } else {
            Err(refused(&told(asked.host, address), "it is not listed"))
        }
    }

    /// Whether a destination may be gone to now: its text, and what its names resolve to at this moment. A name that does not resolve
    /// is allowed: nothing can be reached by it.
    pub async fn check_now(&self, destination: &Destination) -> Result<(), Refused> {
        let (scheme, hosts) = match destination {
            Destination::File(path) => return self.admit_file(path),
            Destination::Url(url) => {
                self.admit(url)?;
                let (scheme, hosts) = located(url);
                (Some(scheme), hosts)
            }
            Destination::Hosts(list) => {
                self.admit_destination(destination)?;
                (None, hosts_of(list))
            }
        };
        if scheme.as_deref().is_some_and(|s| BUCKETS.contains(&s)) {
            return Ok(());
        }
        for (host, port) in hosts {
            let asked = Asked { scheme: scheme.as_deref(), host: &host, port };
            for address in addresses(&host).await {
                self.admit_address_of(&asked, address.ip())?;
            }
        }
        Ok(())
    }

    /// Whether a destination may be gone to, as far as its text tells.
    pub fn admit_destination(&self, destination: &Destination) -> Result<(), Refused> {
        match destination {
            Destination::Url(url) => self.admit(url),
            Destination::File(path) => self.admit_file(path),
            Destination::Hosts(list) => {
                let one =
                    |(host, port): (String, Option<u16>)| self.admit_one(&Asked { scheme: None, host: &host, port });
                hosts_of(list).into_iter().try_for_each(one)
            }
        }
    }

    /// A client that goes only where this allows: names are resolved here, redirects are followed only if asked for and only to what is
    /// allowed. The URL of a request itself must have passed [`UrlPolicy::admit`]: an address in it is not resolved.
    pub fn client(self: &Arc<Self>, follow_redirects: bool) -> reqwest::ClientBuilder {
        let policy = Arc::clone(self);
        let redirects = Policy::custom(move |attempt| {
            if attempt.previous().len() > REDIRECTS_MAX {
                return attempt.error("too many redirects");
            }
            match policy.admit(attempt.url().as_str()) {
                Ok(()) => attempt.follow(),
                Err(refused) => attempt.error(refused),
            }
        });
        let redirects = if follow_redirects { redirects } else { Policy::none() };
        reqwest::Client::builder()
            .connect_timeout(CONNECT_MAX)
            .redirect(redirects)
            .dns_resolver(Guarded(Arc::clone(self)))
    }
}

/// Destinations that stand in settings as URLs, whatever their keys are called: of plugins, only these are known. What transforms put
/// into records is no destination.
pub fn urls_in(settings: &Settings) -> Vec<(&str, Destination)> {
    let is_text = |key: &str| ["transforms.", "predicates."].iter().any(|prefix| key.starts_with(prefix));
    let mut found = Vec::new();
    for (key, value) in settings.iter().filter(|(key, _)| !is_text(key)) {
        let pieces = value.split([',', ' ', '\n']).map(str::trim);
        let special = |text: &str| Url::parse(text).is_ok_and(|url| ["http", "https", "file"].contains(&url.scheme()));
        let urls = pieces.filter(|text| text.contains("://") || special(text));
        found.extend(urls.map(|url| (key.as_str(), Destination::Url(url.to_owned()))));
    }
    found
}

/// Scheme and hosts of a URL, as lenient clients read it.
fn located(url: &str) -> (String, Vec<(String, Option<u16>)>) {
    // As browsers do: http:host, tabs and backslashes are no way around.
    if let Ok(parsed) = Url::parse(url)
        && ["http", "https", "ftp", "ws", "wss", "file"].contains(&parsed.scheme())
    {
        let host = parsed.host_str().and_then(normal);
        let port = parsed.port_or_known_default();
        return (parsed.scheme().to_owned(), host.map(|h| (h, port)).into_iter().collect());
    }
    let Some((scheme, rest)) = url.split_once("://") else { return (url.to_ascii_lowercase(), Vec::new()) };
    // jdbc:postgresql://
    let scheme = scheme.rsplit(':').next().unwrap_or(scheme).trim().to_ascii_lowercase();
    let authority = rest.split(['/', '?', '#']).next().unwrap_or("");
    if BUCKETS.contains(&scheme.as_str()) {
        let name = authority.to_owned();
        return (scheme, Some((name, None)).into_iter().filter(|(n, _)| !n.is_empty()).collect());
    }
    let hosts = authority.rsplit_once('@').map_or(authority, |(_, hosts)| hosts);
    let hosts = hosts_of(hosts);
    (scheme, hosts)
}

fn hosts_of(list: &str) -> Vec<(String, Option<u16>)> {
    let one = |text: &str| {
        let (host, port) = split_port(text);
        // What is no host is kept as it is: it is looked up as it is.
        (normal(host).unwrap_or_else(|| host.to_ascii_lowercase()), port)
    };
    list.split(',').map(str::trim).filter(|text| !text.is_empty()).map(one).collect()
}

fn told(host: &str, address: IpAddr) -> String {
    if host.is_empty() || host.parse::<IpAddr>().is_ok() { address.to_string() } else { format!("{host} ({address})") }
}

/// An absolute path without detours.
fn cleaned(path: &Path) -> Option<PathBuf> {
    let plain =
        path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_) | Component::CurDir));
    (path.is_absolute() && plain).then(|| path.components().collect())
}

/// With links followed, as far as it is there.
fn resolved(path: &Path) -> Option<PathBuf> {
    let there = path.ancestors().find_map(|ancestor| Some((ancestor, ancestor.canonicalize().ok()?)))?;
    // A link to nowhere is not what it seems.
    let rest = path.strip_prefix(there.0).ok()?;
    let first = rest.components().next().map(|part| there.1.join(part));
    if first.is_some_and(|f| f.is_symlink()) {
        return None;
    }
    Some(there.1.join(rest))
}

async fn addresses(host: &str) -> Vec<SocketAddr> {
    let looked_up = tokio::time::timeout(RESOLVE_MAX, tokio::net::lookup_host((host, 0))).await;
    looked_up.ok().and_then(Result::ok).map_or_else(Vec::new, Iterator::collect)
}

/// Resolves names, and answers with nothing else than what is allowed.
struct Guarded(Arc<UrlPolicy>);

impl fmt::Debug for Guarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Guarded")
    }
}

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = Arc::clone(&self.0);
        Box::pin(async move {
            let host = name.as_str();
            let found = tokio::time::timeout(RESOLVE_MAX, tokio::net::lookup_host((host, 0))).await??;
            let found: Vec<SocketAddr> = found.collect();
            for address in &found {
                policy.admit_address(host, address.ip())?;
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
#[path = "url_policy/tests.rs"]
mod tests;
