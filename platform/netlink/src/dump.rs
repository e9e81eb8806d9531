//! One reading of the kernel's tables.

use crate::view::{Link, Neighbour, Route, UnderlayView};
use crate::watcher::Error;
use futures::TryStreamExt;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType};
use penstock_model::Mac;
use rtnetlink::Handle;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Reads everything; an error of any part is an error of the whole, so that a failed read is never an empty view.
pub(crate) async fn read(handle: &Handle) -> Result<UnderlayView, Error> {
    let links: Vec<LinkMessage> = handle.link().get().execute().try_collect().await?;
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        let messages: Vec<RouteMessage> = handle.route().get(request).execute().try_collect().await?;
        routes.extend(messages.iter().filter_map(route));
    }
    let neighbours: Vec<NeighbourMessage> = handle.neighbours().get().execute().try_collect().await?;
    Ok(UnderlayView::new(links.iter().map(link), routes, neighbours.iter().filter_map(neighbour)))
}

fn link(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: Mac::ZERO,
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Address(bytes) => {
                if let Ok(mac) = <[u8; 6]>::try_from(bytes.as_slice()) {
                    link.mac = Mac(mac);
                }
            }
            _ => {}
        }
    }
    link
}

/// A unicast route of the main table; of several next hops the first that is alive.
fn route(message: &RouteMessage) -> Option<Route> {
    let mut table = u32::from(message.header.table);
    let unspecified: IpAddr = match message.header.address_family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let mut route = Route {
        prefix: unspecified,
        prefix_len: message.header.destination_prefix_length,
        gateway: None,
        ifindex: 0,
        metric: 0,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(id) => table = *id,
            RouteAttribute::Destination(address) => route.prefix = ip(address)?,
            RouteAttribute::Gateway(address) => route.gateway = Some(ip(address)?),
            RouteAttribute::Oif(index) => route.ifindex = *index,
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::MultiPath(hops) => {
                let hop = hops.iter().find(|h| !h.flags.intersects(dead()))?;
                route.ifindex = hop.interface_index;
                route.gateway = hop.attributes.iter().find_map(|a| match a {
                    RouteAttribute::Gateway(address) => ip(address),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    let is_main = table == u32::from(RouteHeader::RT_TABLE_MAIN);
    (is_main && message.header.kind == RouteType::Unicast && route.ifindex != 0).then_some(route)
}

fn dead() -> netlink_packet_route::route::RouteNextHopFlags {
    use netlink_packet_route::route::RouteNextHopFlags as F;
    F::Dead | F::Linkdown
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(a) => Some((*a).into()),
        RouteAddress::Inet6(a) => Some((*a).into()),
        _ => None,
    }
}

fn neighbour(message: &NeighbourMessage) -> Option<(u32, IpAddr, Neighbour)> {
    if matches!(
        message.header.state,
        NeighbourState::Failed | NeighbourState::Incomplete | NeighbourState::None | NeighbourState::Noarp
    ) {
        return None;
    }
    let mut addr = None;
    let mut mac = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => addr = Some(IpAddr::from(*a)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => addr = Some(IpAddr::from(*a)),
            NeighbourAttribute::LinkLocalAddress(bytes) => mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(Mac),
            _ => {}
        }
    }
    let fixed = message.header.state == NeighbourState::Permanent;
    Some((message.header.ifindex, addr?, Neighbour { mac: mac?, fixed }))
}
