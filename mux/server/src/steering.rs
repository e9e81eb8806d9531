use crate::control::Steer;
use crate::error::Error;
use crate::stats::{Counted, ReplayState};
use penstock_bpf::{BpfError, Steering};
use penstock_engine::Counter;
use penstock_model::PortId;
use penstock_mux_proto::Policy;
use penstock_netlink::{Link, UnderlayView};
use penstock_packet_io::{AfXdp, PacketIo};
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

/// The kernel program on each interface, by port. When it is dropped the programs leave the interfaces.
pub(crate) struct XdpSteering {
    programs: Vec<Program>,
    /// Whether packets are to be replayed in the kernel where they can be.
    replay: bool,
    steered: BTreeSet<IpAddr>,
}

struct Program {
    steering: Steering,
    interface: String,
    /// Why nothing is replayed on this interface, as long as it runs.
    never: Option<String>,
    state: ReplayState,
    /// Whether it could be done when it was last tried.
    could: bool,
    /// Of the image in force: one that is the same again is not loaded again.
    digest: Option<u64>,
}

impl XdpSteering {
    pub(crate) fn new(replay: bool) -> Self {
        Self { programs: Vec::new(), replay, steered: BTreeSet::new() }
    }

    /// Attaches the program to the next interface.
    pub(crate) fn attach(&mut self, link: &Link) -> Result<(), String> {
        let steering = Steering::attach(link.index).map_err(|e| e.to_string())?;
        let never = (!self.replay).then(|| "it is switched off (kernel_replay)".to_owned());
        let interface = link.name.clone();
        let state = ReplayState::default();
        self.programs.push(Program { steering, interface, never, state, could: false, digest: None });
        Ok(())
    }

    /// Hands what arrives on a queue of a port's interface to its socket.
    pub(crate) fn serve(&mut self, port: usize, queue: u32, io: &AfXdp) -> Result<(), String> {
        let program = self.programs.get_mut(port).ok_or("the interface has no steering program")?;
        if io.is_zero_copy() {
            program.never.get_or_insert_with(|| "the interface is read without a copy, which is faster".to_owned());
        }
        program.steering.register_socket(queue, io.fd()).map_err(|e| e.to_string())
    }
}

impl Steer for XdpSteering {
    /// Replaying first: for a virtual IP that is new to steering, the kernel has the rest of its packets a moment longer.
    fn publish(&mut self, policy: &Policy, view: &UnderlayView) -> Result<(), Error> {
        for (port, program) in (0..).zip(&mut self.programs) {
            program.publish(policy, PortId(port), view).map_err(|e| Error::Steering(e.to_string()))?;
        }
        if self.steered != *policy.vips() {
            for program in &mut self.programs {
                let vips = policy.vips().iter().copied();
                program.steering.set_vips(vips).map_err(|e| Error::Steering(e.to_string()))?;
            }
            self.steered.clone_from(policy.vips());
        }
        Ok(())
    }

    fn maintain(&mut self, policy: &Policy, view: &UnderlayView) -> Result<(), Error> {
        for (port, program) in (0..).zip(&mut self.programs) {
            if program.could != program.can(policy).is_ok() {
                program.publish(policy, PortId(port), view).map_err(|e| Error::Steering(e.to_string()))?;
            }
        }
        Ok(())
    }

    fn replays(&self) -> Vec<(ReplayState, Counted)> {
        self.programs.iter().map(|p| (p.state.clone(), p.counted())).collect()
    }
}

impl Program {
    /// Replays the policy in the kernel, or says once why not.
    ///
    /// # Errors
    /// The program in force is of an older policy and cannot be taken away.
    fn publish(&mut self, policy: &Policy, port: PortId, view: &UnderlayView) -> Result<(), BpfError> {
        let can = self.can(policy);
        self.could = can.is_ok();
        let state = match can.and_then(|()| self.load(policy, port, view).map_err(|e| Some(e.to_string()))) {
            Ok(()) => ReplayState { is_active: true, obstacle: None },
            Err(obstacle) => {
                self.steering.stop_replay()?;
                self.digest = None;
                ReplayState { is_active: false, obstacle }
            }
        };
        if state != self.state {
            let interface = self.interface.as_str();
            match &state.obstacle {
                Some(reason) => {
                    tracing::warn!(interface, %reason, "the kernel does not forward by itself: packets go by AF_XDP")
                }
                None => {
                    tracing::info!(interface, active = state.is_active, "the kernel forwards packets of settled flows")
                }
            }
            self.state = state;
        }
        Ok(())
    }

    /// Whether there is something to replay and it can be done.
    fn can(&self, policy: &Policy) -> Result<(), Option<String>> {
        if policy.vips().is_empty() {
            return Err(None);
        }
        match &self.never {
            Some(reason) => Err(Some(reason.clone())),
            None => self.steering.can_replay().map_err(Some),
        }
    }

    fn load(&mut self, policy: &Policy, port: PortId, view: &UnderlayView) -> Result<(), BpfError> {
        let index = self.steering.ifindex();
        let mtu = view.links().find(|l| l.index == index).map_or(0, |l| l.mtu);
        let image = policy.replay_image(port, mtu);
        let mut hasher = DefaultHasher::new();
        image.hash(&mut hasher);
        let digest = Some(hasher.finish());
        if self.digest != digest {
            self.steering.replay(&image)?;
            self.digest = digest;
        }
        Ok(())
    }

    fn counted(&self) -> Counted {
        let (services, backends) = self.steering.replayed().unwrap_or_else(|error| {
            tracing::debug!(%error, "the kernel's counters cannot be read");
            Default::default()
        });
        let counter = |t: &penstock_maps::ReplayTraffic| Counter { packets: t.packets, bytes: t.bytes };
        Counted {
            sent: services.iter().map(|t| t.sent).sum(),
            services: services.iter().map(counter).collect(),
            backends: backends.iter().map(counter).collect(),
        }
    }
}
