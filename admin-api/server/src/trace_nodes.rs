//! One node's part in a packet's way: its goal compiled as the node does, its own decision code asked. The underlay is taken to be
//! resolved: what a trace answers is what the policy says.
use penstock_engine::Explanation;
use penstock_flow::FlowHasher;
use penstock_gateway_proto::{GatewayGoal, UnderlayHop};
use penstock_model::{Mac, PortId, TunnelId, Underlay};
use penstock_mux_proto::{MuxGoal, NextHopInfo};
use penstock_slb_host::{Hop, HostGoal, Surroundings, UnderlayFib};
use std::net::IpAddr;
use std::sync::Arc;

pub(crate) const UNDERLAY_PORT: PortId = PortId(0);
const NODE_MAC: Mac = Mac([0x02, 0, 0, 0, 0, 0x01]);
const ROUTER: Mac = Mac([0x02, 0, 0, 0, 0, 0x02]);

/// An underlay on which every address is reached by one router.
#[derive(Debug)]
struct Resolved;

impl UnderlayFib for Resolved {
    fn hop(&self, _: IpAddr) -> Option<Hop> {
        Some(Hop { eth_src: NODE_MAC, eth_dst: ROUTER })
    }
}

pub(crate) fn mux(goal: &MuxGoal, own: IpAddr, frame: &[u8]) -> Result<Explanation, String> {
    let hop = |_: Underlay<IpAddr>| Some(NextHopInfo { eth_src: NODE_MAC, eth_dst: ROUTER, out: UNDERLAY_PORT });
    let policy = penstock_mux_proto::Policy::build(goal, hop, Underlay(own)).map_err(|e| e.to_string())?;
    Ok(penstock_mux_proto::explain(&Arc::new(policy), frame, UNDERLAY_PORT))
}

/// Ports of a host's containers as a trace numbers them: in the order of the goal, after the underlay.
fn ports(goal: &HostGoal) -> Vec<(PortId, String)> {
    let number = |i: usize| PortId(u16::try_from(i + 1).unwrap_or(u16::MAX));
    goal.ports.iter().enumerate().map(|(i, p)| (number(i), p.network_interface.clone())).collect()
}

/// The interface behind a port of a host.
pub(crate) fn interface_of(goal: &HostGoal, port: PortId) -> Option<String> {
    ports(goal).into_iter().find(|(id, _)| *id == port).map(|(_, name)| name)
}

/// `from`: the interface that sends; none: the frame comes from the underlay.
pub(crate) fn host(goal: &HostGoal, own: IpAddr, frame: &[u8], from: Option<&str>) -> Result<Explanation, String> {
    let fib: Arc<dyn UnderlayFib> = Arc::new(Resolved);
    let local_ports = ports(goal);
    let here = Surroundings {
        local_ports: &local_ports,
        own,
        underlay_port: UNDERLAY_PORT,
        fib: fib.clone(),
        fib_generation: 1,
    };
    let empty = penstock_slb_host::Policy::empty(own, UNDERLAY_PORT, fib);
    let policy = penstock_slb_host::Policy::build(goal, &here, &empty).map_err(|e| e.to_string())?;
    let port = match from {
        None => UNDERLAY_PORT,
        Some(name) => {
            let found = local_ports.iter().find(|(_, n)| n == name).map(|(id, _)| *id);
            found.ok_or_else(|| format!("networkInterface '{name}' is not on this host"))?
        }
    };
    Ok(penstock_slb_host::explain(&policy, &FlowHasher::new([0; 16]), frame, port, |_, _| None))
}

/// `from`: the tunnel that the packet comes out of; none: the frame comes from the underlay.
pub(crate) fn gateway(
    goal: &GatewayGoal,
    own: IpAddr,
    frame: &[u8],
    from: Option<TunnelId>,
) -> Result<Explanation, String> {
    let hop = |_: IpAddr| Some(UnderlayHop { eth_src: NODE_MAC, eth_dst: ROUTER });
    let policy = penstock_gateway_proto::Policy::build(goal, Underlay(own), UNDERLAY_PORT, hop, None)
        .map_err(|e| e.to_string())?;
    let port = from.map_or(UNDERLAY_PORT, penstock_gateway_proto::Policy::port_of);
    Ok(penstock_gateway_proto::explain(&Arc::new(policy), frame, port))
}
