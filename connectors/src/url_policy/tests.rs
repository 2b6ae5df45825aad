//! What is refused, however it is written; what a name or a redirect leads to.

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;

fn policy(list: &str) -> UrlPolicy {
    UrlPolicy::parse(list).unwrap()
}

/// Each leads to a metadata service or to a link-local address, and none is written like another.
const FORBIDDEN: [&str; 20] = [
    "http://169.254.169.254/latest/meta-data/",
    "http://169.254.169.254:80/",
    "http://user:pw@169.254.169.254/",
    "http://2852039166/",
    "http://0xa9fea9fe/",
    "http://0251.0376.0251.0376/",
    "http://169.254.43518/",
    "http:169.254.169.254",
    "http:\\\\169.254.169.254\\x",
    "ht\ttp://169.254.169.254/",
    "http://169.254.169.254./",
    "http://[::ffff:169.254.169.254]/",
    "http://[::ffff:a9fe:a9fe]:8080/",
    "http://[64:ff9b::a9fe:a9fe]/",
    "http://[2002:a9fe:a9fe::1]/",
    "http://[fe80::1]/",
    "https://[fd00:ec2::254]/",
    "http://METADATA.google.internal./computeMetadata/v1/",
    "jdbc:postgresql://good.example,169.254.169.254:5432/db",
    "hdfs://169.254.1.1:8020/x",
];

#[test]
fn what_is_forbidden_is_refused_however_it_is_written() {
    // `*`, and networks and names that happen to hold it, do not mean it.
    for list in ["", "*", "0.0.0.0/0,::/0,*", "http://*,jdbc:*,*"] {
        for url in FORBIDDEN {
            let error = policy(list).admit(url).expect_err(url).to_string();
            assert!(!error.contains("pw"), "{error}");
        }
    }
}

#[test]
fn what_is_not_forbidden_is_allowed_by_default() {
    for url in [
        "http://127.0.0.1:9000",
        "http://10.0.0.1/x",
        "https://example.com/hook?a=b",
        "s3://169.254.169.254/x",
        "s3://bucket",
        "memory:///",
        "http://[::1]:80/",
        "file:///var/archive",
        "postgresql:///db",
        "http://169.253.0.1",
    ] {
        assert_eq!(policy("").admit(url), Ok(()), "{url}");
    }
    assert_eq!(policy("").admit_file(Path::new("/anywhere")), Ok(()));
    assert!(policy("").admit_host("169.254.169.254", 80).is_err());
    assert!(policy("").admit_destination(&Destination::Hosts("a:9092,[fe80::1]:9092".to_owned())).is_err());
}

#[test]
fn a_list_allows_what_it_names_and_nothing_else() {
    let policy = policy(
        "hooks.example, *.example.org:443, 10.1.0.0/16, https://one.example, s3://archive, http://127.0.0.1:9000",
    );
    for url in [
        "http://hooks.example/x",
        "https://HOOKS.example.:8443/",
        "https://a.b.example.org/",
        "http://10.1.2.3:80",
        "https://one.example/",
        "s3://archive/prefix",
        "http://127.0.0.1:9000/",
    ] {
        assert_eq!(policy.admit(url), Ok(()), "{url}");
    }
    for url in [
        "http://10.2.0.1/",
        "s3://other",
        "http://127.0.0.1:9001/",
        "http://169.254.169.254/",
        "file:///tmp/x",
        "s3://169.254.169.254",
        "sqlite:///etc/passwd",
    ] {
        assert!(policy.admit(url).is_err(), "{url}");
    }
    // A name that no entry has is judged by its address.
    assert_eq!(policy.admit("http://unknown.example/"), Ok(()));
    assert!(policy.admit_address("unknown.example", "10.1.9.9".parse().unwrap()).is_ok());
    assert!(policy.admit_address("unknown.example", "10.2.9.9".parse().unwrap()).is_err());
    assert!(policy.admit_address("hooks.example", "169.254.169.254".parse().unwrap()).is_err());
    assert!(super::UrlPolicy::parse("hooks.example").unwrap().admit("http://unknown.example/").is_err());
    assert!(super::UrlPolicy::parse("https://one.example").unwrap().admit("http://one.example/").is_err());
}

#[test]
fn who_lists_a_metadata_address_means_it() {
    let policy = policy("169.254.169.254:80,metadata.google.internal");
    assert_eq!(policy.admit("http://169.254.169.254/"), Ok(()));
    assert_eq!(policy.admit("http://[::ffff:169.254.169.254]/"), Ok(()));
    assert!(policy.admit("http://169.254.169.253/").is_err());
    assert_eq!(policy.admit("http://metadata.google.internal/"), Ok(()));
}

#[test]
fn files_are_written_below_listed_directories() {
    let root = tempfile::tempdir().unwrap();
    let allowed = root.path().join("allowed");
    std::fs::create_dir_all(root.path().join("other")).unwrap();
    std::fs::create_dir_all(&allowed).unwrap();
    std::os::unix::fs::symlink(root.path().join("other"), allowed.join("link")).unwrap();
    std::os::unix::fs::symlink(root.path().join("nowhere"), allowed.join("hole")).unwrap();
    let policy = policy(&format!("file://{}", allowed.display()));
    assert_eq!(policy.admit(&format!("file://{}/new/x", allowed.display())), Ok(()));
    assert_eq!(policy.admit_file(&allowed.join("out")), Ok(()));
    for wrong in ["../other/x", "link/x", "hole", "hole/x"] {
        assert!(policy.admit_file(&allowed.join(wrong)).is_err(), "{wrong}");
    }
    assert!(policy.admit_file(Path::new("relative")).is_err());
    assert!(policy.admit_file(&root.path().join("allowed2")).is_err());
}

#[test]
fn urls_of_settings_are_found_whatever_their_keys_are() {
    let settings = Settings::from([
        ("any.key".to_owned(), "http://a.example, http:169.254.169.254".to_owned()),
        ("transforms.x.static.value".to_owned(), "http://b.example".to_owned()),
        ("topics".to_owned(), "http".to_owned()),
    ]);
    let found = urls_in(&settings);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found.iter().any(|(key, to)| *key == "any.key" && policy("").admit_destination(to).is_err()));
}

#[test]
fn an_entry_that_is_none_is_told_with_what_would_be_right() {
    for wrong in ["file://relative", "a b", "10.0.0.0/33", "http://host/path"] {
        assert!(UrlPolicy::parse(wrong).unwrap_err().contains("network/bits"), "{wrong}");
    }
}

#[tokio::test]
async fn a_name_that_leads_elsewhere_is_refused_when_it_is_resolved() {
    let only = Arc::new(policy("10.0.0.0/8"));
    let here = Destination::Url("http://localhost:1/".to_owned());
    assert_eq!(only.admit_destination(&here), Ok(()));
    assert!(only.check_now(&here).await.is_err());
    assert_eq!(policy("").check_now(&here).await, Ok(()));
    let client = only.client(false).no_proxy().build().unwrap();
    let error = client.get("http://localhost:1/").send().await.unwrap_err();
    assert!(format!("{error:?}").contains("Refused"), "{error:?}");
}

/// A server that sends everybody to a metadata service.
#[tokio::test]
async fn a_redirect_to_what_is_forbidden_is_not_followed() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1_024];
            let _ = stream.read(&mut request).await.unwrap();
            let answer = "HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/latest\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let policy = Arc::new(policy(""));
    let follows = policy.client(true).no_proxy().build().unwrap();
    let error = follows.get(format!("http://{address}/")).send().await.unwrap_err();
    assert!(error.is_redirect() && format!("{error:?}").contains("169.254.169.254"), "{error:?}");
    let stays = policy.client(false).no_proxy().build().unwrap();
    assert_eq!(stays.get(format!("http://{address}/")).send().await.unwrap().status(), 302);
    server.await.unwrap();
}

proptest! {
    #[test]
    fn a_network_holds_what_shares_its_bits(base: u32, other: u32, bits in 0_u32..=32) {
        let network = Network::parse(&format!("{}/{bits}", Ipv4Addr::from_bits(base))).unwrap();
        let shares = bits == 0 || base >> (32 - bits) == other >> (32 - bits);
        prop_assert_eq!(network.contains(IpAddr::V4(Ipv4Addr::from_bits(other))), shares);
    }

    #[test]
    fn no_url_leads_to_a_panic_or_to_a_link_local_address(text in ".{0,40}", last: u16) {
        let _ = policy("a.example,10.0.0.0/8,file:///x").admit(&text);
        let address = Ipv4Addr::new(169, 254, (last >> 8) as u8, last as u8);
        for url in [format!("http://{address}/{text}"), format!("https://{}/", u32::from(address))] {
            prop_assert!(policy("").admit(&url).is_err());
        }
    }
}
