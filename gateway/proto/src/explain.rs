use crate::policy::Policy;
use crate::resolver::GatewayResolver;
use arc_swap::ArcSwap;
use penstock_engine::{Class, Ending, Explanation, Resolver, Step, Why, apply};
use penstock_flow::{Flags, FlowHasher};
use penstock_model::{DropReason, HEADROOM, Nanos, Packet, PortId, Protocol, Verdict};
use std::sync::Arc;

/// What a gateway with `policy` decides for `frame` that comes in by `port`, and why: the packet loop's own code, with a
/// notebook. Flows are not consulted: the packet is taken as the first of its flow.
///
/// A packet of a tunnel comes in by [`Policy::port_of`], behind an Ethernet header.
#[must_use]
pub fn explain(policy: &Arc<Policy>, frame: &[u8], port: PortId) -> Explanation {
    let mut steps = Vec::new();
    let mut buffer = vec![0; HEADROOM + frame.len()];
    if let Some(room) = buffer.get_mut(HEADROOM..) {
        room.copy_from_slice(frame);
    }
    let ending = match Packet::new(&mut buffer, HEADROOM, frame.len(), port) {
        Some(mut packet) => {
            let verdict = walk(policy, &mut packet, &mut steps).unwrap_or_else(Verdict::Drop);
            return Explanation { steps, ending: ending(verdict), frame: packet.frame().to_vec() };
        }
        None => Ending::Drop(DropReason::TooLarge),
    };
    Explanation { steps, ending, frame: Vec::new() }
}

fn walk(policy: &Arc<Policy>, packet: &mut Packet<'_>, steps: &mut Vec<Step>) -> Result<Verdict, DropReason> {
    // The secret of the hash decides the outer source port only, which nobody predicts.
    let hasher = FlowHasher::new([0; 16]);
    let mut resolver = GatewayResolver::new(Arc::new(ArcSwap::from(Arc::clone(policy))), hasher, ());
    let mut headers = penstock_wire::parse(packet.frame())?;
    match resolver.classify(packet, &mut headers) {
        Class::Flow { key, hash, .. } => {
            let (decision, _) = resolver.decide(&key, None, Nanos(0), steps)?;
            resolver.prepare(&key, packet, &mut headers)?;
            let t = decision.value;
            let encap = if t.flags.has(Flags::ENCAP) { Some(resolver.encap(t.encap)?) } else { None };
            apply(&t, packet, &headers, hash, encap)
        }
        Class::Local if resolver.related_to(packet, &headers).is_some() => {
            resolver.bring_error(packet, None, Nanos(0), steps)
        }
        Class::Local => {
            steps.because("tunnel", || match headers.protocol {
                _ if packet.port != policy.underlay_port() => {
                    format!("from {:?} for the tenant's router {:?}", headers.src, headers.dst)
                }
                Protocol::GRE => format!("of the GRE peer {:?}: a keepalive, or for the tenant's router", headers.src),
                _ => format!("a datagram for the tunnels of UDP port {}", headers.dst_port),
            });
            Ok(resolver.local(packet, &headers, Nanos(0)))
        }
        Class::Pass => {
            steps.because("steering", || "for the kernel of the gateway itself".to_owned());
            Ok(Verdict::Pass)
        }
        Class::Drop(reason) => Err(reason),
        Class::Direct { .. } => Err(DropReason::Unsupported),
    }
}

fn ending(verdict: Verdict) -> Ending {
    match verdict {
        Verdict::Transmit(port) => Ending::Transmit(port),
        Verdict::Tunnel(tunnel) => Ending::Tunnel(tunnel),
        Verdict::Pass => Ending::Pass,
        Verdict::Consumed => Ending::Consumed,
        Verdict::Drop(reason) => Ending::Drop(reason),
        Verdict::Pending => Ending::Drop(DropReason::Unsupported),
    }
}
