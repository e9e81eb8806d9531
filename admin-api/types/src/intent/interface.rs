use super::Intent;
use super::reader::{Node, Reader};
use crate::{ResourcePath, Said, value};
use ipnetwork::IpNetwork;
use penstock_model::Mac;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// A container's (or VM's) interface in a virtual network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    pub path: ResourcePath,
    pub network: ResourcePath,
    pub mac: Mac,
    /// The server that it is placed on; none: nothing can reach it yet.
    pub server: Option<ResourcePath>,
    pub acl: Option<ResourcePath>,
    /// It gets no new connections, and no packets at all from then on; seconds of Unix time.
    pub drain_until: Option<u64>,
    /// It may pass on what is not for it.
    pub forwards: bool,
    pub ip_configurations: Vec<IpConfiguration>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpConfiguration {
    pub path: ResourcePath,
    pub address: IpAddr,
    /// The prefix of its subnet.
    pub subnet: IpNetwork,
    pub pools: Vec<ResourcePath>,
    /// Security tags that it has.
    pub tags: Vec<ResourcePath>,
}

/// What stands where, to find the second of two.
#[derive(Default)]
struct Taken {
    addresses: BTreeMap<(ResourcePath, IpAddr), ResourcePath>,
    macs: BTreeMap<(ResourcePath, Mac), ResourcePath>,
}

pub(crate) fn read(r: &mut Reader<'_>, intent: &Intent) -> BTreeMap<ResourcePath, Interface> {
    let mut taken = Taken::default();
    let mut out = BTreeMap::new();
    for node in r.all("networkInterfaces") {
        if let Some(interface) = interface(r, &node, intent, &mut taken) {
            out.insert(interface.path.clone(), interface);
        }
    }
    out
}

fn interface(r: &mut Reader<'_>, node: &Node<'_>, intent: &Intent, taken: &mut Taken) -> Option<Interface> {
    let mut network: Option<ResourcePath> = None;
    let mut acls = Vec::new();
    let mut ip_configurations = Vec::new();
    for child in node.children("ipConfigurations") {
        let Some(subnet_path) = child.reference("subnet") else {
            r.warn(&child.path, "SubnetIsRequired", "no subnet: not programmed");
            continue;
        };
        let Some(found) = subnet_path.parent().and_then(|p| intent.networks.get(&p)) else {
            if subnet_path.kind_path() == "logicalNetworks/subnets" {
                r.warn(
                    &child.path,
                    "NotImplemented",
                    "interfaces in logical networks are stored; they have no function in this version",
                );
            }
            continue;
        };
        let Some(subnet) = found.subnets.get(&subnet_path) else { continue };
        if network.get_or_insert_with(|| found.path.clone()) != &found.path {
            let message = "all ipConfigurations of an interface are in one virtual network".to_owned();
            r.problem(&child, child.at("subnet/resourceRef"), "VirtualNetworkMismatch", message);
            continue;
        }
        let Some(address) = address(r, &child, subnet.prefix, &found.path, taken) else { continue };
        acls.push((child.reference("accessControlList").or_else(|| subnet.acl.clone()), child.clone()));
        for property in ["publicIPAddress", "serviceInsertion"] {
            if child.reference(property).is_some() {
                r.warn(
                    &child.path,
                    "NotImplemented",
                    format!("{property} is stored; it has no function in this version"),
                );
            }
        }
        ip_configurations.push(IpConfiguration {
            path: child.path.clone(),
            address,
            subnet: subnet.prefix,
            pools: ["loadBalancerBackendAddressPools", "loadBalancerInboundNatRules"]
                .iter()
                .flat_map(|list| child.references(list))
                .collect(),
            tags: child.references("securityTags"),
        });
    }
    let network = network?;
    let mac = mac(r, node, &network, taken);
    let server = server(r, node, intent);
    let acl = one_acl(r, acls);
    let drain_until = super::draining::read(r, node);
    let forwards = value::get_bool(node.properties(), "ipForwarding").unwrap_or(false);
    let (path, mac) = (node.path.clone(), mac?);
    Some(Interface { path, network, mac, server, acl, drain_until, forwards, ip_configurations })
}

fn address(
    r: &mut Reader<'_>,
    child: &Node<'_>,
    subnet: IpNetwork,
    network: &ResourcePath,
    taken: &mut Taken,
) -> Option<IpAddr> {
    let said = child.address("privateIPAddress");
    let Some(address) = said.or_else(|| child.allocated().parsed("address")) else {
        let message = format!("'{}' has no privateIPAddress, and {subnet} has none left to give", child.path);
        r.problem(child, child.at("privateIPAddress"), "PrivateIPAddressMissing", message);
        return None;
    };
    let refuse =
        |r: &mut Reader<'_>, code, message: Said| r.problem(child, child.at("privateIPAddress"), code, message);
    if !subnet.contains(address) {
        refuse(r, "PrivateIPAddressNotInSubnet", format!("{address} is not in the subnet's prefix {subnet}").into());
        return None;
    }
    if reserved(subnet).contains(&address) {
        refuse(
            r,
            "PrivateIPAddressInReservedRange",
            format!("{address} is the gateway, network or broadcast address of {subnet}").into(),
        );
    }
    if let Some(other) = taken.addresses.insert((network.clone(), address), child.path.clone()) {
        let message = Said::naming(format!("{address} is the address of '{other}' already"), &[&other]);
        refuse(r, "PrivateIPAddressInUse", message);
    }
    Some(address)
}

/// Network, gateway and broadcast address; none in prefixes too small to have them.
#[must_use]
pub fn reserved(subnet: IpNetwork) -> Vec<IpAddr> {
    match subnet {
        IpNetwork::V4(n) if n.prefix() < 31 => {
            let network = u32::from(n.network());
            vec![n.network().into(), IpAddr::V4((network + 1).into()), n.broadcast().into()]
        }
        IpNetwork::V6(n) if n.prefix() < 127 => {
            let network = u128::from(n.network());
            vec![n.network().into(), IpAddr::V6((network + 1).into())]
        }
        _ => Vec::new(),
    }
}

fn mac(r: &mut Reader<'_>, node: &Node<'_>, network: &ResourcePath, taken: &mut Taken) -> Option<Mac> {
    let said = value::get_text(node.properties(), "privateMacAddress").and_then(|s| s.parse().ok());
    let at = node.at("privateMacAddress");
    let Some(mac) = said.or_else(|| node.allocated().parsed::<Mac>("mac")) else {
        r.problem(node, at, "PrivateMacAddressMissing", format!("'{}' has no privateMacAddress", node.path));
        return None;
    };
    if mac.is_group() || mac == Mac::ZERO {
        r.problem(node, at.clone(), "InvalidPrivateMacAddress", format!("{mac} is no address of a single interface"));
    }
    if let Some(other) = taken.macs.insert((network.clone(), mac), node.path.clone()) {
        r.problem(
            node,
            at,
            "InvalidPrivateMacAddress",
            Said::naming(format!("{mac} is the address of '{other}' in the same network already"), &[&other]),
        );
    }
    Some(mac)
}

fn server(r: &mut Reader<'_>, node: &Node<'_>, intent: &Intent) -> Option<ResourcePath> {
    let server = node.reference("server");
    match server.as_ref().map(|s| intent.servers.get(s)) {
        None => r.warn(
            &node.path,
            "HostNotConnectedToController",
            "no server: properties.server says where the container runs",
        ),
        Some(Some(s)) if s.address.is_none() => {
            r.warn(&node.path, "PolicyConfigurationFailure", "its server has no underlay address");
        }
        _ => {}
    }
    server
}

fn one_acl(r: &mut Reader<'_>, acls: Vec<(Option<ResourcePath>, Node<'_>)>) -> Option<ResourcePath> {
    let first = acls.first()?.0.clone();
    for (_, child) in acls.iter().filter(|(acl, _)| *acl != first) {
        let message =
            "all ipConfigurations of an interface have the same access control list (their own or their subnet's)";
        r.problem(child, child.at("accessControlList"), "InvalidParameterValue", message.to_owned());
    }
    first
}
