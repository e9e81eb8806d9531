use crate::Vni;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An address of the provider network (PA).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Underlay<T>(pub T);

/// An address of a tenant's network (CA): it means nothing without the tenant.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Overlay<T>(pub T);

impl<T: fmt::Debug> fmt::Debug for Underlay<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pa:{:?}", self.0)
    }
}

impl<T: fmt::Debug> fmt::Debug for Overlay<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ca:{:?}", self.0)
    }
}

/// A backend address: an overlay address within its virtual network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Dip {
    pub vni: Vni,
    pub addr: Overlay<IpAddr>,
}

/// An IPv4 or IPv6 address in 16 bytes; IPv4 in the mapped form `::ffff:a.b.c.d` (RFC 4291 section 2.5.5.2).
///
/// A real IPv6 packet with a mapped address does not parse (`DropReason::MartianSource`), so the two cannot be confused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct Addr16(pub [u8; 16]);

impl Addr16 {
    #[must_use]
    #[inline]
    pub const fn from_v4(a: [u8; 4]) -> Self {
        // One word, not sixteen bytes: who reads it as words next does not have to wait for byte stores.
        Self((0xffff_0000_0000 | u32::from_be_bytes(a) as u128).to_be_bytes())
    }

    /// The last four bytes: the IPv4 address when [`Addr16::is_v4`].
    #[must_use]
    #[inline]
    pub const fn v4_bytes(&self) -> [u8; 4] {
        [self.0[12], self.0[13], self.0[14], self.0[15]]
    }

    #[must_use]
    #[inline]
    pub const fn is_v4(&self) -> bool {
        u128::from_be_bytes(self.0) >> 32 == 0xffff
    }

    #[must_use]
    pub fn to_ip(self) -> IpAddr {
        if self.is_v4() { IpAddr::V4(Ipv4Addr::from(self.v4_bytes())) } else { IpAddr::V6(Ipv6Addr::from(self.0)) }
    }
}

impl From<IpAddr> for Addr16 {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self::from_v4(v4.octets()),
            IpAddr::V6(v6) => Self(v6.octets()),
        }
    }
}

impl fmt::Debug for Addr16 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_ip().fmt(f)
    }
}

/// An Ethernet address. Text form `02:00:00:00:00:01`; also accepts `-` and no separators (as MS-NCNBI writes them).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[repr(transparent)]
pub struct Mac(pub [u8; 6]);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not an Ethernet address: expected 12 hexadecimal digits, optionally separated by ':' or '-'")]
pub struct MacError(String);

impl Mac {
    pub const BROADCAST: Mac = Mac([0xff; 6]);
    pub const ZERO: Mac = Mac([0; 6]);

    /// Group bit: multicast or broadcast (IEEE 802.3 section 3.2.3).
    #[must_use]
    pub const fn is_group(&self) -> bool {
        self.0[0] & 1 == 1
    }
}

impl FromStr for Mac {
    type Err = MacError;
    fn from_str(s: &str) -> Result<Self, MacError> {
        let bad = || MacError(s.to_owned());
        let digits: String = s.chars().filter(|c| !matches!(c, ':' | '-')).collect();
        if digits.len() != 12 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(bad());
        }
        let value = u64::from_str_radix(&digits, 16).map_err(|_| bad())?;
        let b = value.to_be_bytes();
        Ok(Self([b[2], b[3], b[4], b[5], b[6], b[7]]))
    }
}

impl TryFrom<String> for Mac {
    type Error = MacError;
    fn try_from(s: String) -> Result<Self, MacError> {
        s.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> String {
        mac.to_string()
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Whether one host of a network can have the address: not a group, a broadcast, nobody, this host itself, or IPv4 mapped into IPv6.
#[must_use]
pub fn is_host(address: IpAddr) -> bool {
    let is_special = address.is_multicast() || address.is_unspecified() || address.is_loopback();
    !is_special
        && match address {
            IpAddr::V4(v4) => !v4.is_broadcast(),
            IpAddr::V6(v6) => v6.to_ipv4_mapped().is_none(),
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_is_read_in_the_three_forms_that_clients_write() {
        let mac = Mac([0, 0x36, 0x24, 0, 0, 5]);
        for text in ["003624000005", "00:36:24:00:00:05", "00-36-24-00-00-05"] {
            assert_eq!(text.parse::<Mac>(), Ok(mac));
        }
        assert!("0036240000".parse::<Mac>().is_err());
        assert!("00362400000g".parse::<Mac>().is_err());
    }

    #[test]
    fn ipv4_is_kept_in_mapped_form() {
        let ip: IpAddr = "192.0.2.7".parse().unwrap();
        let a = Addr16::from(ip);
        assert!(a.is_v4());
        assert_eq!(a.to_ip(), ip);
        assert!(!Addr16::from("2001:db8::1".parse::<IpAddr>().unwrap()).is_v4());
    }
}
