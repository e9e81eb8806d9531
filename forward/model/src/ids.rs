use serde::{Deserialize, Serialize};
use std::fmt;

/// An id outside its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value} is out of range: at most {max}")]
pub struct IdError {
    pub what: &'static str,
    pub value: u64,
    pub max: u64,
}

/// VXLAN network identifier: 24 bits (RFC 7348 section 5).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Vni(u32);

impl Vni {
    /// The largest identifier, 2^24 - 1.
    pub const MAX: Vni = Vni(0x00ff_ffff);

    /// # Errors
    /// Above [`Vni::MAX`].
    pub const fn new(value: u32) -> Result<Self, IdError> {
        if value > Self::MAX.0 {
            return Err(IdError { what: "VNI", value: value as u64, max: Self::MAX.0 as u64 });
        }
        Ok(Self(value))
    }

    /// The identifier as it stands in three bytes on the wire.
    #[must_use]
    pub const fn from_be_bytes(b: [u8; 3]) -> Self {
        Self(u32::from_be_bytes([0, b[0], b[1], b[2]]))
    }

    #[must_use]
    pub const fn to_be_bytes(self) -> [u8; 3] {
        let b = self.0.to_be_bytes();
        [b[1], b[2], b[3]]
    }

    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for Vni {
    type Error = IdError;
    fn try_from(value: u32) -> Result<Self, IdError> {
        Self::new(value)
    }
}

impl From<Vni> for u32 {
    fn from(vni: Vni) -> u32 {
        vni.0
    }
}

impl fmt::Debug for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vni{}", self.0)
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($int:ty), $tag:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        #[repr(transparent)]
        pub struct $name(pub $int);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($tag, "{}"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// A tenant of one node, dense and small: an index into per-tenant tables. 24 bits are used
    /// (it is the `zone` of a [`crate::FlowKey`]). 0 is the underlay itself.
    TenantId(u32), "tenant"
);
id!(
    /// A packet port of one node: an underlay interface or a container's.
    PortId(u16), "port"
);
id!(
    /// A tunnel of a gateway: an index into its tunnel table.
    TunnelId(u32), "tunnel"
);
id!(
    /// Frontend, protocol and port of a load balancer rule. Assigned by the controller, stable while the rule lives;
    /// 24 bits are used.
    ServiceId(u32), "service"
);
id!(
    /// A backend pool, and so a slot table.
    PoolId(u32), "pool"
);
id!(
    /// A backend (DIP) within one mux's table of backends; stable while the backend lives.
    BackendId(u32), "backend"
);
id!(
    /// An entry in a policy's table of encapsulations.
    EncapId(u32), "encap"
);
id!(
    /// The generation of a compiled policy of one tenant. Compared for equality only.
    Epoch(u32), "epoch"
);
id!(
    /// The revision of a goal state: grows with every change of intent.
    Revision(u64), "r"
);

impl TenantId {
    /// Traffic that belongs to no tenant: the provider network itself.
    pub const UNDERLAY: TenantId = TenantId(0);
}

impl EncapId {
    /// No encapsulation.
    pub const NONE: EncapId = EncapId(u32::MAX);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vni_max_plus_one_is_refused() {
        assert!(Vni::new(0x00ff_ffff).is_ok());
        let err = Vni::new(0x0100_0000).unwrap_err();
        assert_eq!(err.to_string(), "VNI 16777216 is out of range: at most 16777215");
    }

    #[test]
    fn vni_survives_the_wire() {
        let vni = Vni::new(0x0a_0b0c).unwrap();
        assert_eq!(vni.to_be_bytes(), [0x0a, 0x0b, 0x0c]);
        assert_eq!(Vni::from_be_bytes(vni.to_be_bytes()), vni);
    }

    #[test]
    fn a_vni_out_of_range_does_not_deserialize() {
        let result: Result<Vni, _> =
            serde::Deserialize::deserialize(serde::de::value::U32Deserializer::<serde::de::value::Error>::new(1 << 24));
        assert!(result.is_err());
    }
}
