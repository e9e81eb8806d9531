use crate::stats::{Counted, ReplayState};
use penstock_bpf::{BpfError, Obstacle, ReplayCounts, Steering, WayOut};
use penstock_engine::Counter;
use penstock_maps::{ReplayImage, ReplayTraffic};
use penstock_model::{Nanos, PortId};
use penstock_mux_proto::Policy;
use penstock_netlink::UnderlayView;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

/// How long after the kernel has refused a program it is asked again: memory may be there by then.
const RETRY: Duration = Duration::from_secs(10);

/// What replays on one interface.
pub(crate) trait Kernel {
    fn ifindex(&self) -> u32;

    /// # Errors
    /// Why nothing can be replayed.
    fn way_out(&self) -> Result<WayOut, Obstacle>;

    /// # Errors
    /// It was refused, or is in force and not as it should be.
    fn replay_by(&mut self, image: &ReplayImage, way: WayOut) -> Result<(), BpfError>;

    /// # Errors
    /// What is in force stays so.
    fn stop_replay(&mut self) -> Result<(), BpfError>;

    /// Goes on replaying though no policy comes.
    ///
    /// # Errors
    /// It was refused.
    fn renew(&mut self) -> Result<(), BpfError>;

    /// # Errors
    /// The counters cannot be read.
    fn replayed(&mut self) -> Result<ReplayCounts, BpfError>;
}

impl Kernel for Steering {
    fn ifindex(&self) -> u32 {
        Steering::ifindex(self)
    }

    fn way_out(&self) -> Result<WayOut, Obstacle> {
        Steering::way_out(self)
    }

    fn replay_by(&mut self, image: &ReplayImage, way: WayOut) -> Result<(), BpfError> {
        Steering::replay_by(self, image, way)
    }

    fn stop_replay(&mut self) -> Result<(), BpfError> {
        Steering::stop_replay(self)
    }

    fn renew(&mut self) -> Result<(), BpfError> {
        Steering::renew(self)
    }

    fn replayed(&mut self) -> Result<ReplayCounts, BpfError> {
        Steering::replayed(self)
    }
}

/// The program on an interface, kept as the policy and the interface want it.
#[derive(Debug)]
pub(crate) struct Program<K> {
    pub(crate) kernel: K,
    port: PortId,
    interface: String,
    /// Why nothing is replayed on this interface, as long as it runs.
    never: Option<String>,
    state: ReplayState,
    /// What it was last made for.
    conditions: Option<Conditions>,
    /// Of what is in force: what is the same again is not loaded again.
    digest: Option<u64>,
    retry_at: Option<Nanos>,
}

/// What the program depends on besides the policy.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Conditions {
    /// Or why nothing is replayed; `None`: there is nothing to replay.
    way: Result<WayOut, Option<Obstacle>>,
    mtu: u32,
}

impl<K: Kernel> Program<K> {
    pub(crate) fn new(kernel: K, port: PortId, interface: String, never: Option<String>) -> Self {
        let state = ReplayState::default();
        Self { kernel, port, interface, never, state, conditions: None, digest: None, retry_at: None }
    }

    /// Replays nothing from now on. The first reason counts.
    pub(crate) fn never(&mut self, reason: &str) {
        self.never.get_or_insert_with(|| reason.to_owned());
    }

    /// Replays the policy in the kernel, or says once why not.
    ///
    /// # Errors
    /// The program in force is of an older policy and cannot be taken away.
    pub(crate) fn publish(&mut self, policy: &Policy, view: &UnderlayView, now: Nanos) -> Result<(), BpfError> {
        let conditions = self.conditions(policy, view);
        let loaded = match &conditions.way {
            Ok(way) => self.load(policy, *way, conditions.mtu).map_err(|e| Some(e.into())),
            Err(obstacle) => Err(obstacle.clone()),
        };
        self.retry_at = (conditions.way.is_ok() && loaded.is_err()).then(|| now.plus(RETRY));
        self.conditions = Some(conditions);
        let state = match loaded {
            Ok(()) => ReplayState { is_active: true, obstacle: None },
            Err(obstacle) => {
                self.digest = None;
                self.kernel.stop_replay()?;
                ReplayState { is_active: false, obstacle }
            }
        };
        self.tell(state);
        Ok(())
    }

    /// Publishes again if the interface is not as it was, or if it is time to try once more. Before there is a policy the
    /// program of an earlier process stays in force, for as long as that one has allowed.
    ///
    /// # Errors
    /// As for `publish`.
    pub(crate) fn maintain(&mut self, policy: &Policy, view: &UnderlayView, now: Nanos) -> Result<(), BpfError> {
        if self.conditions.is_none() {
            return Ok(());
        }
        self.kernel.renew()?;
        let is_due = self.retry_at.is_some_and(|at| at <= now);
        if is_due || self.conditions.as_ref() != Some(&self.conditions(policy, view)) {
            self.publish(policy, view, now)?;
        }
        Ok(())
    }

    pub(crate) fn state(&self) -> &ReplayState {
        &self.state
    }

    fn tell(&mut self, state: ReplayState) {
        if state == self.state {
            return;
        }
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

    fn conditions(&self, policy: &Policy, view: &UnderlayView) -> Conditions {
        let index = self.kernel.ifindex();
        let mtu = view.links().find(|l| l.index == index).map_or(0, |l| l.mtu);
        let way = match &self.never {
            _ if policy.vips().is_empty() => Err(None),
            Some(reason) => Err(Some(Obstacle::wanted(reason.as_str()))),
            None => self.kernel.way_out().map_err(Some),
        };
        Conditions { way, mtu }
    }

    fn load(&mut self, policy: &Policy, way: WayOut, mtu: u32) -> Result<(), BpfError> {
        let image = policy.replay_image(self.port, mtu);
        let mut hasher = DefaultHasher::new();
        (&image, way).hash(&mut hasher);
        let digest = Some(hasher.finish());
        if self.digest != digest {
            self.kernel.replay_by(&image, way)?;
            self.digest = digest;
        }
        Ok(())
    }

    pub(crate) fn counted(&mut self) -> Counted {
        let counts = self.kernel.replayed().unwrap_or_else(|error| {
            tracing::debug!(%error, "the kernel's counters cannot be read");
            ReplayCounts::default()
        });
        let counter = |t: &ReplayTraffic| Counter { packets: t.packets, bytes: t.bytes };
        Counted {
            sent: counts.services.iter().map(|t| t.sent).sum(),
            services: counts.services.iter().map(counter).collect(),
            backends: counts.backends.iter().map(counter).collect(),
            aborted: counts.aborted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::policy;

    /// A kernel that does as it is told.
    #[derive(Debug)]
    struct Fake {
        way: Result<WayOut, Obstacle>,
        refuses: bool,
        in_force: Option<WayOut>,
        loads: u32,
        renewed: u32,
    }

    impl Kernel for Fake {
        fn ifindex(&self) -> u32 {
            1
        }

        fn way_out(&self) -> Result<WayOut, Obstacle> {
            self.way.clone()
        }

        fn replay_by(&mut self, _image: &ReplayImage, way: WayOut) -> Result<(), BpfError> {
            self.loads += 1;
            if self.refuses {
                let source = std::io::ErrorKind::OutOfMemory.into();
                return Err(BpfError::System { step: "load", source });
            }
            self.in_force = Some(way);
            Ok(())
        }

        fn stop_replay(&mut self) -> Result<(), BpfError> {
            self.in_force = None;
            Ok(())
        }

        fn renew(&mut self) -> Result<(), BpfError> {
            self.renewed += 1;
            Ok(())
        }

        fn replayed(&mut self) -> Result<ReplayCounts, BpfError> {
            Ok(ReplayCounts::default())
        }
    }

    fn program(way: WayOut) -> Program<Fake> {
        let kernel = Fake { way: Ok(way), refuses: false, in_force: None, loads: 0, renewed: 0 };
        Program::new(kernel, PortId(0), "eth0".to_owned(), None)
    }

    const AT: fn(u64) -> Nanos = Nanos::from_secs;

    #[test]
    fn another_way_out_is_taken_within_one_look_and_the_same_one_is_not_loaded_again() {
        let (policy, view) = (policy(), UnderlayView::default());
        let mut program = program(WayOut::Answer);
        program.publish(&policy, &view, AT(1)).unwrap();
        for way in [WayOut::Redirect, WayOut::Answer] {
            program.kernel.way = Ok(way);
            program.maintain(&policy, &view, AT(2)).unwrap();
            assert_eq!((program.kernel.in_force, program.state().is_active), (Some(way), true));
        }
        program.maintain(&policy, &view, AT(3)).unwrap();
        program.publish(&policy, &view, AT(4)).unwrap();
        assert_eq!((program.kernel.loads, program.kernel.renewed), (3, 3), "each look puts off the end");
    }

    #[test]
    fn a_goal_that_finds_another_way_out_takes_it_though_its_tables_are_the_same() {
        let (policy, view) = (policy(), UnderlayView::default());
        let mut program = program(WayOut::Answer);
        program.publish(&policy, &view, AT(1)).unwrap();
        program.kernel.way = Ok(WayOut::Redirect);
        program.publish(&policy, &view, AT(1)).unwrap();
        assert_eq!(program.kernel.in_force, Some(WayOut::Redirect));
    }

    #[test]
    fn what_nobody_takes_any_more_is_not_sent_and_the_reason_is_told() {
        let (policy, view) = (policy(), UnderlayView::default());
        let mut program = program(WayOut::Redirect);
        program.publish(&policy, &view, AT(1)).unwrap();
        let obstacle = Obstacle::new("GRO is off", "switch it on");
        program.kernel.way = Err(obstacle.clone());
        program.maintain(&policy, &view, AT(2)).unwrap();
        assert_eq!(program.kernel.in_force, None);
        assert_eq!(program.state().obstacle, Some(obstacle));
        program.kernel.way = Ok(WayOut::Redirect);
        program.maintain(&policy, &view, AT(3)).unwrap();
        assert_eq!(program.kernel.in_force, Some(WayOut::Redirect));
    }

    #[test]
    fn what_an_earlier_process_has_left_is_not_touched_before_there_is_a_policy() {
        let view = UnderlayView::default();
        let mut program = program(WayOut::Answer);
        program.kernel.in_force = Some(WayOut::Answer);
        program.maintain(&Policy::empty(), &view, AT(1)).unwrap();
        assert_eq!((program.kernel.in_force, program.kernel.renewed), (Some(WayOut::Answer), 0));
        program.publish(&Policy::empty(), &view, AT(2)).unwrap();
        assert_eq!(program.kernel.in_force, None, "a policy without virtual IPs forwards nothing");
    }

    #[test]
    fn what_the_kernel_refused_once_is_tried_again_at_an_interval() {
        let (policy, view) = (policy(), UnderlayView::default());
        let mut program = program(WayOut::Answer);
        program.kernel.refuses = true;
        program.publish(&policy, &view, AT(1)).unwrap();
        for second in 2..11 {
            program.maintain(&policy, &view, AT(second)).unwrap();
        }
        assert_eq!((program.kernel.loads, program.state().is_active), (1, false));
        program.maintain(&policy, &view, AT(11)).unwrap();
        assert_eq!((program.kernel.loads, program.state().is_active), (2, false), "refused again");
        program.kernel.refuses = false;
        program.maintain(&policy, &view, AT(21)).unwrap();
        assert_eq!((program.kernel.loads, program.state().is_active), (3, true));
        program.maintain(&policy, &view, AT(40)).unwrap();
        assert_eq!(program.kernel.loads, 3);
    }
}
