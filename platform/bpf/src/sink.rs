use crate::BpfError;
use crate::object::{XdpMode, attach_xdp, elf, link, load, map, per_cpu_sum, program_fd};
use libbpf_rs::Object;
use libbpf_rs::libbpf_sys;
use std::os::fd::OwnedFd;

const SINK: &str = "sink";

/// Where a [`Sink`] takes its frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SinkPoint {
    /// In the driver. For senders that make no socket buffers: a veth whose peer sends socket buffers would copy each.
    Xdp,
    /// On a device's ingress, after packet sockets have seen the frame: also closes the kernel's ears on a port that an
    /// AF_PACKET socket serves.
    Tc,
}

/// Frames that a sink has dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    pub packets: u64,
    pub bytes: u64,
}

/// Drops every frame that arrives at an interface, and counts. Dropping the sink opens the interface again.
#[derive(Debug)]
pub struct Sink {
    _link: OwnedFd,
    mode: Option<XdpMode>,
    object: Object,
}

impl Sink {
    /// # Errors
    /// The kernel refuses the program.
    pub fn attach(ifindex: u32, point: SinkPoint) -> Result<Self, BpfError> {
        let object = load(SINK, elf!("sink"), None)?;
        let (link, mode) = match point {
            SinkPoint::Xdp => {
                let attached = attach_xdp(SINK, program_fd(&object, SINK, "penstock_sink_xdp")?, ifindex)?;
                (attached.link, Some(attached.mode))
            }
            SinkPoint::Tc => {
                let program = program_fd(&object, SINK, "penstock_sink_tc")?;
                let link = link(program, ifindex, libbpf_sys::BPF_TCX_INGRESS, 0).map_err(|source| {
                    BpfError::System { step: "attach the sink to the ingress of the interface", source }
                })?;
                (link, None)
            }
        };
        Ok(Self { _link: link, mode, object })
    }

    /// How it is attached, if by XDP.
    #[must_use]
    pub fn mode(&self) -> Option<XdpMode> {
        self.mode
    }

    /// # Errors
    /// The kernel refuses to read the counters.
    pub fn tally(&self) -> Result<Tally, BpfError> {
        let tallies = map(&self.object, SINK, "tallies")?;
        let [packets, bytes] = per_cpu_sum::<2>(&tallies, 0).map_err(|source| BpfError::Object {
            program: SINK,
            step: "read its counters",
            source,
        })?;
        Ok(Tally { packets, bytes })
    }
}
