use crate::hash::halves;
use penstock_flow::FlowHasher;
use penstock_model::{Addr16, Protocol, ServiceId};
use std::fmt;

/// A flow of one service, exactly: 24 bytes. The virtual IP is not in it because the service stands for it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(C)]
pub struct MuxKey {
    client: Addr16,
    client_port: u16,
    vip_port: u16,
    /// Service id in the upper 24 bits, protocol in the lower 8.
    service_protocol: u32,
}

const _: () = assert!(size_of::<MuxKey>() == 24);

impl MuxKey {
    #[inline]
    pub(crate) fn new(client: Addr16, client_port: u16, vip_port: u16, service: ServiceId, protocol: Protocol) -> Self {
        Self { client, client_port, vip_port, service_protocol: service.0 << 8 | u32::from(protocol.0) }
    }

    /// From the address as two words, both ports in one, and the protocol's number.
    #[inline(always)]
    pub(crate) fn of_words(client: [u64; 2], ports: u32, service: u32, protocol: u8) -> Self {
        let client = u128::from(client[0]) | u128::from(client[1]) << 64;
        Self {
            client: Addr16(client.to_le_bytes()),
            client_port: (ports >> 16) as u16,
            vip_port: ports as u16,
            service_protocol: service << 8 | u32::from(protocol),
        }
    }

    #[inline]
    pub(crate) fn hash(&self, hasher: &FlowHasher) -> u64 {
        let [a, b] = halves(&self.client);
        let ports = u64::from(self.client_port) << 16 | u64::from(self.vip_port);
        hasher.hash3(&[a, b, ports << 32 | u64::from(self.service_protocol)])
    }
}

impl fmt::Debug for MuxKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = Protocol(self.service_protocol as u8);
        write!(
            f,
            "service{} {protocol} {:?}:{} > :{}",
            self.service_protocol >> 8,
            self.client,
            self.client_port,
            self.vip_port
        )
    }
}
