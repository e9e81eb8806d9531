use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address family that routes are exchanged for. Unicast, both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    Ipv4,
    Ipv6,
}

impl Family {
    pub const ALL: [Family; 2] = [Family::Ipv4, Family::Ipv6];

    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::Ipv4 } else { Self::Ipv6 }
    }

    /// Address family identifier (RFC 4760).
    #[must_use]
    pub const fn afi(self) -> u16 {
        match self {
            Self::Ipv4 => 1,
            Self::Ipv6 => 2,
        }
    }

    #[must_use]
    pub const fn from_afi(afi: u16) -> Option<Self> {
        match afi {
            1 => Some(Self::Ipv4),
            2 => Some(Self::Ipv6),
            _ => None,
        }
    }

    /// Bits of an address.
    #[must_use]
    pub const fn bits(self) -> u8 {
        match self {
            Self::Ipv4 => 32,
            Self::Ipv6 => 128,
        }
    }
}

/// A destination: host bits are zero, the length is one that the family has.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "IpNetwork", into = "IpNetwork")]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// `None` if the family has no such length. Host bits are cleared.
    #[must_use]
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        let address = match address {
            _ if length > Family::of(address).bits() => return None,
            IpAddr::V4(a) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from(u32::from(a) & mask))
            }
            IpAddr::V6(a) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from(u128::from(a) & mask))
            }
        };
        Some(Self { address, length })
    }

    /// The one address.
    #[must_use]
    pub const fn host(address: IpAddr) -> Self {
        Self { address, length: Family::of(address).bits() }
    }

    #[must_use]
    pub const fn address(self) -> IpAddr {
        self.address
    }

    #[must_use]
    pub const fn length(self) -> u8 {
        self.length
    }

    #[must_use]
    pub const fn family(self) -> Family {
        Family::of(self.address)
    }

    /// Whether `other` is this prefix or lies in it.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        other.length >= self.length
            && other.family() == self.family()
            && Self::new(other.address, self.length) == Some(self)
    }

    /// No route to it can be of use: unspecified beyond a default route, loopback, link-local, multicast, IPv4 mapped into IPv6.
    #[must_use]
    pub fn is_martian(self) -> bool {
        match self.address {
            IpAddr::V4(a) => {
                (a.octets()[0] == 0 && self.length > 0) || a.is_loopback() || a.is_link_local() || a.is_multicast()
            }
            IpAddr::V6(a) => {
                let unspecified = u128::from(a) < 2 && self.length == 128;
                // RFC 6890: IPv4-mapped addresses are none of the network's.
                let mapped = self.length >= 96 && a.to_ipv4_mapped().is_some();
                unspecified || mapped || a.is_multicast() || a.is_unicast_link_local()
            }
        }
    }
}

impl TryFrom<IpNetwork> for Prefix {
    type Error = &'static str;
    fn try_from(n: IpNetwork) -> Result<Self, Self::Error> {
        Self::new(n.ip(), n.prefix()).filter(|p| p.address == n.ip()).ok_or("host bits of a prefix must be zero")
    }
}

impl From<Prefix> for IpNetwork {
    fn from(p: Prefix) -> Self {
        // The length is one that the family has.
        IpNetwork::new(p.address, p.length).unwrap_or_else(|_| IpNetwork::from(p.address))
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Prefix {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let network: IpNetwork = s.parse().map_err(|_| format!("`{s}` is no prefix"))?;
        Self::try_from(network).map_err(|e| format!("`{s}`: {e}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(s: &str) -> Prefix {
        s.parse().unwrap()
    }

    #[test]
    fn host_bits_are_cleared_by_new_and_refused_in_text() {
        assert_eq!(Prefix::new("10.1.2.3".parse().unwrap(), 8), Some(p("10.0.0.0/8")));
        assert_eq!(Prefix::new("2001:db8::1".parse().unwrap(), 0), Some(p("::/0")));
        assert!("10.1.2.3/8".parse::<Prefix>().is_err());
        assert_eq!(Prefix::new("10.1.2.3".parse().unwrap(), 33), None);
    }

    #[test]
    fn a_prefix_contains_itself_and_longer_ones_of_its_family() {
        assert!(p("10.0.0.0/8").contains(p("10.0.0.0/8")) && p("0.0.0.0/0").contains(p("10.2.0.0/16")));
        assert!(!p("10.0.0.0/8").contains(p("0.0.0.0/0")) && !p("::/0").contains(p("10.0.0.0/8")));
    }

    #[test]
    fn prefixes_that_nobody_may_be_routed_to_are_known() {
        for s in [
            "127.0.0.0/8",
            "224.0.0.0/4",
            "169.254.0.0/16",
            "0.1.0.0/16",
            "::1/128",
            "ff02::/16",
            "fe80::/64",
            "::ffff:10.0.0.0/104",
        ] {
            assert!(p(s).is_martian(), "{s}");
        }
        assert!(!p("0.0.0.0/0").is_martian() && !p("::/0").is_martian() && !p("203.0.113.1/32").is_martian());
    }
}
