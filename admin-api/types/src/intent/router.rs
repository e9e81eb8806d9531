use super::reader::{Node, Reader};
use crate::{pointer_join, value};
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// `routerConfiguration` of a mux: its AS, and the routers that it announces virtual IPs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Router {
    pub local_as: u32,
    /// Sealed: signs the sessions with all peers (RFC 2385).
    pub key: Option<Value>,
    pub peers: Vec<PeerRouter>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerRouter {
    pub name: String,
    pub address: IpAddr,
    pub remote_as: u32,
    pub local_address: Option<IpAddr>,
    pub hold_seconds: Option<u16>,
    pub hops: Option<u8>,
    pub bfd: Option<Bfd>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bfd {
    pub interval_ms: Option<u32>,
    pub multiplier: Option<u8>,
}

/// Nothing, where no routers are named.
pub(super) fn read(r: &mut Reader<'_>, node: &Node<'_>) -> Option<Router> {
    let said = value::get(node.properties(), "routerConfiguration")?;
    let at = node.at("routerConfiguration");
    let list = value::list(said, "peerRouterConfigurations");
    if list.is_empty() {
        return None;
    }
    let local_as = number(said, "localASN4").or_else(|| number(said, "localASN"));
    let Some(local_as) = local_as else {
        let message = "routers are named, and no AS that the mux speaks for".to_owned();
        r.problem(node, format!("{at}/localASN"), "RequiredParamMissing", message);
        return None;
    };
    let list_at = format!("{at}/peerRouterConfigurations");
    let mut seen = BTreeSet::new();
    let mut peers = Vec::new();
    for (i, said) in list.iter().enumerate() {
        if let Some(peer) = peer(r, node, said, &pointer_join(&list_at, i), &mut seen) {
            peers.push(peer);
        }
    }
    Some(Router { local_as, key: value::get(said, "tcpMd5Key").filter(|v| !v.is_null()).cloned(), peers })
}

fn peer(
    r: &mut Reader<'_>,
    node: &Node<'_>,
    said: &Value,
    at: &str,
    seen: &mut BTreeSet<IpAddr>,
) -> Option<PeerRouter> {
    let address: IpAddr = value::get_text(said, "routerIPAddress")?.parse().ok()?;
    let Some(remote_as) = number(said, "peerASN4").or_else(|| number(said, "peerASN")) else {
        r.problem(node, format!("{at}/peerASN"), "RequiredParamMissing", "the router's AS is not given".to_owned());
        return None;
    };
    if address.is_unspecified() || address.is_multicast() {
        let message = format!("{address} is the address of no router");
        r.problem(node, format!("{at}/routerIPAddress"), "InvalidIPAddress", message);
        return None;
    }
    if !seen.insert(address) {
        let message = format!("{address} is named twice");
        r.problem(node, format!("{at}/routerIPAddress"), "InvalidParameterValue", message);
        return None;
    }
    let local_address: Option<IpAddr> = value::get_text(said, "localIPAddress").and_then(|a| a.parse().ok());
    if local_address.is_some_and(|l| l.is_ipv4() != address.is_ipv4()) {
        let message = format!("is not of the family of the router's address {address}");
        r.problem(node, format!("{at}/localIPAddress"), "InvalidIPAddress", message);
        return None;
    }
    let name = value::get_text(said, "routerName").filter(|n| !n.is_empty());
    Some(PeerRouter {
        name: name.map_or_else(|| address.to_string(), |n| format!("{n} {address}")),
        address,
        remote_as,
        local_address,
        hold_seconds: small(said, "holdTimeInSeconds"),
        hops: small(said, "maximumHops"),
        bfd: value::get(said, "bfd")
            .filter(|b| b.is_object())
            .map(|b| Bfd { interval_ms: small(b, "intervalInMilliseconds"), multiplier: small(b, "detectMultiplier") }),
    })
}

/// 0 is how clients say that the number stands in the other place.
fn number(v: &Value, name: &str) -> Option<u32> {
    small(v, name).filter(|n| *n != 0)
}

fn small<T: TryFrom<i64>>(v: &Value, name: &str) -> Option<T> {
    value::int(value::get(v, name)?).and_then(|n| T::try_from(n).ok())
}
