//! Interfaces: what they can carry, and what the kernel may do to packets before a node sees them.
use super::{Finding, ask, read};
use std::path::Path;

/// A container's 1500 bytes and 50 of VXLAN, and room for more.
const UNDERLAY_MTU: u32 = 1550;

struct Link {
    name: String,
    mtu: u32,
    queues: usize,
    /// It has a device behind it: no bridge, no veth, no tunnel.
    physical: bool,
}

pub(super) fn findings() -> Vec<Finding> {
    let links = up();
    let mut all = vec![mtu(&links)];
    for link in links.iter().filter(|l| l.physical) {
        all.push(queues(link));
        all.extend(offloads(&link.name));
    }
    all
}

/// Interfaces that are up.
pub(super) fn names() -> Vec<String> {
    up().into_iter().map(|l| l.name).collect()
}

fn up() -> Vec<Link> {
    let names = std::fs::read_dir("/sys/class/net").map(|d| d.flatten().map(|e| e.file_name()).collect::<Vec<_>>());
    let mut out = Vec::new();
    for name in names.unwrap_or_default() {
        let name = name.to_string_lossy().into_owned();
        let directory = Path::new("/sys/class/net").join(&name);
        let file = |f: &str| read(&directory.join(f).display().to_string());
        if name == "lo" || file("operstate") != "up" {
            continue;
        }
        let receive = |e: &std::fs::DirEntry| e.file_name().to_string_lossy().starts_with("rx-");
        let queues = std::fs::read_dir(directory.join("queues")).map_or(0, |d| d.flatten().filter(receive).count());
        let physical = directory.join("device").exists();
        out.push(Link { name, mtu: file("mtu").parse().unwrap_or(0), queues, physical });
    }
    out.sort_by(|a, b| a.name.cmp(&b.name));
    out
}

fn mtu(links: &[Link]) -> Finding {
    let good = links.iter().any(|l| l.mtu >= UNDERLAY_MTU);
    let found = links.iter().map(|l| format!("{} MTU {}", l.name, l.mtu)).collect::<Vec<_>>().join(", ");
    let found = if found.is_empty() { "no interface is up".to_owned() } else { found };
    Finding::new("underlay MTU", good, found, "give the underlay interface an MTU of 1600: ip link set DEV mtu 1600")
}

/// A worker serves a queue on a processor of its own.
fn queues(link: &Link) -> Finding {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let good = link.queues <= processors;
    let found = format!("{} queues, {processors} processors", link.queues);
    Finding::new(
        format!("{} queues", link.name),
        good,
        found,
        format!("ethtool -L {} combined {processors}", link.name),
    )
}

/// Packets that the driver has joined are longer than a tunnel carries.
const JOINED: &[(&str, &str)] = &[("large-receive-offload", "lro"), ("generic-receive-offload-hw", "rx-gro-hw")];

fn offloads(name: &str) -> Option<Finding> {
    let what = format!("{name} offloads");
    let text = ask("ethtool", &["-k", name])?;
    let on = joined(&text);
    let found = if on.is_empty() { "nothing joins packets".to_owned() } else { format!("on: {}", on.join(", ")) };
    let switches: Vec<String> = on.iter().map(|o| format!("{o} off")).collect();
    Some(Finding::new(what, on.is_empty(), found, format!("ethtool -K {name} {}", switches.join(" "))))
}

fn joined(text: &str) -> Vec<&'static str> {
    let is_on = |feature: &str| {
        text.lines().any(|l| l.trim().strip_prefix(feature).is_some_and(|rest| rest.trim().starts_with(": on")))
    };
    JOINED.iter().filter(|(feature, _)| is_on(feature)).map(|(_, switch)| *switch).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_joins_packets_is_found_in_what_ethtool_prints() {
        let text = "Features for eth0:\nrx-checksumming: on\nlarge-receive-offload: on\ngeneric-receive-offload: on\n";
        assert_eq!(joined(text), ["lro"]);
        assert!(joined("large-receive-offload: off [fixed]\n").is_empty());
    }
}
