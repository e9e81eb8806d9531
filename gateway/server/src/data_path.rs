use crate::wireguard::TunnelTable;
use crate::worker::Path;
use arc_swap::ArcSwap;
use penstock_engine::Port;
use penstock_flow::FlowHasher;
use penstock_gateway_proto::{GatewayResolver, Policy, Tunnel, UnderlayHop, flow_table};
use penstock_model::{Nanos, Packet};
use std::net::IpAddr;
use std::sync::Arc;

/// All of the worker's data path but the interface: frames in, frames out, no thread and no socket. For measurements, fuzzing and
/// simulations, which so run what the gateway runs.
///
/// Order of calls: [`DataPath::set_tunnels`]; then for each batch [`DataPath::handle_batch`] and [`DataPath::poll_transmit`];
/// [`DataPath::handle_timeout`] now and then.
pub struct DataPath(Path);

impl std::fmt::Debug for DataPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DataPath")
    }
}

impl DataPath {
    /// A gateway at `own` that decides by `policy`, whose tenants may each fill the flow table. `hop_of` says how underlay
    /// addresses are reached.
    #[must_use]
    pub fn new(
        policy: Arc<ArcSwap<Policy>>,
        own: IpAddr,
        hop_of: impl Fn(IpAddr) -> Option<UnderlayHop> + Send + Sync + 'static,
        flow_capacity: usize,
        secret: [u8; 16],
    ) -> Self {
        let tunnels = TunnelTable::new(own, Arc::new(hop_of));
        let resolver = GatewayResolver::new(policy, FlowHasher::new(secret), tunnels);
        let mut path = Path::new(Port::new(resolver, flow_table(flow_capacity, flow_capacity)));
        path.follow_policy(Nanos(0));
        Self(path)
    }

    /// Makes the tunnels those of a goal; those that we are to begin send their initiation.
    pub fn set_tunnels(&mut self, tunnels: &[Tunnel], now: Nanos) {
        self.0.engine.resolver_mut().tunnels_mut().apply(tunnels, now);
    }

    /// A batch from the underlay port (`PortId(0)`). Frames whose verdict is `Transmit` leave as they are now.
    pub fn handle_batch(&mut self, batch: &mut [Packet<'_>], now: Nanos) {
        self.0.handle_batch(batch, now);
    }

    /// Decides what was decrypted and hands out every frame that the path has made.
    pub fn poll_transmit(&mut self, now: Nanos, mut send: impl FnMut(&[u8])) {
        self.0.emit(now, &mut send);
    }

    pub fn handle_timeout(&mut self, now: Nanos) {
        self.0.engine.resolver_mut().tunnels_mut().handle_timeout(now);
    }

    #[must_use]
    pub fn ledger(&self) -> penstock_model::Ledger {
        self.0.ledger()
    }

    /// How often a packet was decided and not replayed.
    #[must_use]
    pub fn resolved(&self) -> u64 {
        self.0.engine.resolved()
    }

    #[must_use]
    pub fn flows(&self) -> usize {
        self.0.engine.flows()
    }

    #[must_use]
    pub fn flow_table_bytes(&self) -> usize {
        self.0.engine.flow_table().bytes()
    }
}
