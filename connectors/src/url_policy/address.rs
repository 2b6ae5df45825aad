//! Addresses and names that lead to a machine's own surroundings: link-local ones, and the metadata services of clouds.
//!
//! Owns that list, and networks. Addresses that carry an IPv4 address inside are judged as that one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// `address/bits`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    base: IpAddr,
    bits: u32,
}

/// Forbidden unless listed as such.
const FORBIDDEN: [Network; 7] = [
    Network::v4([169, 254, 0, 0], 16),
    // Alibaba's, Oracle's and Azure's own.
    Network::v4([100, 100, 100, 200], 32),
    Network::v4([192, 0, 0, 192], 32),
    Network::v4([168, 63, 129, 16], 32),
    Network::v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10),
    Network::v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128),
    Network::v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128),
];

/// Names of such services; an entry `*` does not mean them.
const NAMES: [&str; 7] = [
    "metadata",
    "metadata.google.internal",
    "metadata.goog",
    "instance-data",
    "instance-data.ec2.internal",
    "metadata.tencentyun.com",
    "metadata.platformequinix.com",
];

impl Network {
    const fn v4(octets: [u8; 4], bits: u32) -> Network {
        Network { base: IpAddr::V4(Ipv4Addr::from_octets(octets)), bits }
    }

    const fn v6(s: [u16; 8], bits: u32) -> Network {
        Network { base: IpAddr::V6(Ipv6Addr::from_segments(s)), bits }
    }

    /// `address/bits`, or an address alone.
    pub fn parse(text: &str) -> Option<Network> {
        let (address, bits) = text.split_once('/').map_or((text, None), |(a, b)| (a, Some(b)));
        let given: IpAddr = address.trim_start_matches('[').trim_end_matches(']').parse().ok()?;
        let longest = |address: IpAddr| if address.is_ipv4() { 32 } else { 128 };
        let bits: u32 = match bits {
            Some(bits) => bits.parse().ok().filter(|bits| *bits <= longest(given))?,
            None => longest(given),
        };
        // A mapped network of IPv4 is one of IPv4.
        match (plain(given), given) {
            (base @ IpAddr::V4(_), IpAddr::V6(_)) => Some(Network { base, bits: bits.checked_sub(96)? }),
            (base, _) => Some(Network { base, bits }),
        }
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.base, address) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                let shift = 32 - self.bits;
                u64::from(base.to_bits()) >> shift == u64::from(address.to_bits()) >> shift
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - self.bits).unwrap_or(0);
                base.to_bits() & mask == address.to_bits() & mask
            }
            _ => false,
        }
    }

    /// Whether all of it is forbidden, so that who lists it means that.
    pub fn is_forbidden(&self) -> bool {
        FORBIDDEN.iter().any(|forbidden| forbidden.bits <= self.bits && forbidden.contains(self.base))
    }
}

/// The IPv4 address that an IPv6 address carries: mapped, compatible, NAT64, 6to4.
pub fn plain(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let s = v6.segments();
    let v4 = |high: u16, low: u16| IpAddr::V4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    match s {
        // :: and ::1 are what they are.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => address,
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0, 0, 0, 0, 0xffff, 0, high, low] => v4(high, low),
        [0x64, 0xff9b, 0 | 1, _, _, _, high, low] => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        _ => address,
    }
}

pub fn is_forbidden(address: IpAddr) -> bool {
    FORBIDDEN.iter().any(|network| network.contains(plain(address)))
}

/// `host` in small letters, without a last dot.
pub fn is_forbidden_name(host: &str) -> bool {
    NAMES.contains(&host)
}
