use crate::control::Steer;
use crate::error::Error;
use crate::program::Program;
use crate::stats::{Counted, ReplayState};
use penstock_bpf::{Obstacle, Pins, Steering, XdpMode};
use penstock_clock::MonotonicClock;
use penstock_model::PortId;
use penstock_mux_proto::Policy;
use penstock_netlink::{Link, UnderlayView};
use penstock_packet_io::{AfXdp, PacketIo};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// The kernel program on each interface, by port. When it is dropped the programs leave the interfaces, unless they are pinned.
pub(crate) struct XdpSteering {
    programs: Vec<Program<Steering>>,
    /// Whether packets are to be replayed in the kernel where they can be.
    replay: bool,
    /// Where programs stay when the process ends.
    pins: Option<Pins>,
    steered: BTreeSet<IpAddr>,
}

impl XdpSteering {
    pub(crate) fn new(replay: bool, pins: Option<Pins>) -> Self {
        Self { programs: Vec::new(), replay, pins, steered: BTreeSet::new() }
    }

    /// Attaches the program to the interface of a port; they come in their order.
    pub(crate) fn attach(&mut self, port: PortId, link: &Link) -> Result<(), Obstacle> {
        let steering = match &self.pins {
            Some(pins) => Steering::attach_pinned(link.index, pins)?,
            None => Steering::attach(link.index)?,
        };
        let never = (!self.replay).then(|| "it is switched off (kernel_replay)".to_owned());
        self.programs.push(Program::new(steering, port, link.name.clone(), never));
        Ok(())
    }

    /// Hands what arrives on a queue of a port's interface to its socket.
    pub(crate) fn serve(&mut self, port: PortId, queue: u32, io: &AfXdp) -> Result<(), Obstacle> {
        let Some(program) = self.programs.get_mut(usize::from(port.0)) else {
            return Err(Obstacle::wanted("the interface has no steering program"));
        };
        if io.is_zero_copy() {
            program.never("the interface is read without a copy, which is faster");
        }
        Ok(program.kernel.register_socket(queue, io.fd())?)
    }

    /// Why the program of a port ends with the process.
    pub(crate) fn unpinned(&self, port: PortId) -> Option<&Obstacle> {
        self.programs.get(usize::from(port.0)).and_then(|p| p.kernel.unpinned())
    }

    /// How the program of a port is attached, and why not better.
    pub(crate) fn mode(&self, port: PortId) -> Option<(XdpMode, Option<&Obstacle>)> {
        self.programs.get(usize::from(port.0)).map(|p| (p.kernel.mode(), p.kernel.refusal()))
    }
}

impl XdpSteering {
    fn steer(&mut self, policy: &Policy) -> Result<(), Error> {
        if self.steered != *policy.vips() {
            for program in &mut self.programs {
                let vips = policy.vips().iter().copied();
                program.kernel.set_vips(vips).map_err(|e| Error::Steering(e.to_string()))?;
            }
            self.steered.clone_from(policy.vips());
        }
        Ok(())
    }
}

impl Steer for XdpSteering {
    /// Replaying first: for a virtual IP that is new to steering, the kernel has the rest of its packets a moment longer. But not
    /// where a program of the process before is in force: what takes its place is to know them all.
    fn publish(&mut self, policy: &Policy, view: &UnderlayView) -> Result<(), Error> {
        let now = MonotonicClock::now();
        if self.programs.iter().any(|p| p.kernel.has_predecessor()) {
            self.steer(policy)?;
        }
        for program in &mut self.programs {
            program.publish(policy, view, now).map_err(|e| Error::Steering(e.to_string()))?;
        }
        self.steer(policy)
    }

    fn maintain(&mut self, policy: &Policy, view: &UnderlayView) -> Result<(), Error> {
        let now = MonotonicClock::now();
        for program in &mut self.programs {
            program.maintain(policy, view, now).map_err(|e| Error::Steering(e.to_string()))?;
        }
        Ok(())
    }

    fn replays(&mut self) -> Vec<(ReplayState, Counted)> {
        self.programs.iter_mut().map(|p| (p.state().clone(), p.counted())).collect()
    }

    fn detach(&mut self) {
        self.programs.drain(..).for_each(|program| program.kernel.detach());
    }
}
