//! Two speakers, the wires between them and a clock: a story is a few lines.
use crate::*;
use penstock_model::Nanos;
use std::collections::{BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

pub(super) fn p(s: &str) -> Prefix {
    s.parse().unwrap()
}

pub(super) fn set(list: &[&str]) -> BTreeSet<Prefix> {
    list.iter().map(|s| p(s)).collect()
}

pub(super) fn peer(name: &str, address: &str, remote_as: u32) -> PeerGoal {
    PeerGoal {
        import: Some(Policy::accept_all()),
        export: Some(Policy::accept_all()),
        ..PeerGoal::new(name, address.parse().unwrap(), remote_as)
    }
}

/// One connection, seen from the first speaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wire {
    Closed,
    Open,
}

pub(super) struct Pair {
    pub(super) now: Nanos,
    pub(super) speakers: [Speaker; 2],
    /// By who opened it: the first or the second speaker.
    wires: [Wire; 2],
    /// Bytes under way, by who sent them and on which wire.
    under_way: VecDeque<(usize, usize, Vec<u8>)>,
    /// Nothing arrives any more, and nobody is told.
    pub(super) cut: bool,
    /// Whether speakers hear that what they sent has gone out.
    pub(super) writes: bool,
    pub(super) ups: [u32; 2],
}

const ADDRESSES: [&str; 2] = ["192.0.2.1", "192.0.2.2"];

impl Pair {
    pub(super) fn new(first: PeerGoal, second: PeerGoal, as_of: [u32; 2]) -> Self {
        let mut speakers = [1, 2].map(|n| Speaker::new(Ipv4Addr::new(10, 0, 0, n), u64::from(n)));
        let now = Nanos::from_secs(1);
        for ((speaker, peer), local_as) in speakers.iter_mut().zip([first, second]).zip(as_of) {
            let goal = RouterGoal { local_as, peers: vec![peer], ..RouterGoal::default() };
            speaker.apply(&goal, now).unwrap();
        }
        let wires = [Wire::Closed, Wire::Closed];
        Self { now, speakers, wires, under_way: VecDeque::new(), cut: false, writes: true, ups: [0, 0] }
    }

    /// Two ASes that exchange everything.
    pub(super) fn external() -> Self {
        Self::new(peer("b", ADDRESSES[1], 65002), peer("a", ADDRESSES[0], 65001), [65001, 65002])
    }

    pub(super) fn address(n: usize) -> IpAddr {
        ADDRESSES[n].parse().unwrap()
    }

    /// As `speaker` sees a connection that `opener` opened.
    fn ends(speaker: usize, opener: usize) -> Ends {
        let of = |n: usize| SocketAddr::new(Self::address(n), if n == opener { 40_000 } else { 179 });
        Ends { local: of(speaker), remote: of(1 - speaker) }
    }

    fn way(speaker: usize, wire: usize) -> Way {
        if speaker == wire { Way::Active } else { Way::Passive }
    }

    pub(super) fn peer_of(&self, speaker: usize) -> PeerId {
        self.speakers[speaker].peers().next().unwrap().0
    }

    /// Time passes, and everything that is due happens.
    pub(super) fn pass(&mut self, time: Duration) -> &mut Self {
        let end = self.now.plus(time);
        loop {
            self.settle();
            let next = self.speakers.iter().filter_map(Speaker::poll_timeout).min().filter(|at| *at <= end);
            let Some(at) = next else { break };
            // Never twice the same moment: what is due at once has been done.
            self.now = at.max(self.now.plus(Duration::from_nanos(1)));
            for speaker in &mut self.speakers {
                speaker.handle_timeout(self.now);
            }
        }
        self.now = end;
        self.settle();
        self
    }

    fn settle(&mut self) {
        loop {
            for n in 0..2 {
                self.carry_out(n);
            }
            let Some((from, wire, bytes)) = self.under_way.pop_front() else { return };
            let to = 1 - from;
            if self.wires[wire] == Wire::Open && !self.cut && self.speakers[to].peers().next().is_some() {
                let id = self.peer_of(to);
                self.speakers[to].handle_bytes(id, Self::way(to, wire), &bytes, self.now);
            }
        }
    }

    fn carry_out(&mut self, n: usize) {
        loop {
            while let Some(output) = self.speakers[n].poll_output() {
                self.output(n, output);
            }
            let Some((id, _)) = self.speakers[n].peers().next() else { return };
            if !self.speakers[n].fill(id, self.now) {
                return;
            }
        }
    }

    fn output(&mut self, n: usize, output: Output) {
        match output {
            Output::Connect(id) if self.cut => self.speakers[n].handle_connect_failed(id, "cut", self.now),
            Output::Connect(id) => {
                let other = self.peer_of(1 - n);
                let taken = self.speakers[1 - n].make_room(other, Way::Passive, self.now);
                self.carry_out(1 - n);
                if !taken || !self.speakers[n].make_room(id, Way::Active, self.now) {
                    self.speakers[n].handle_connect_failed(id, "refused", self.now);
                    return;
                }
                self.wires[n] = Wire::Open;
                self.speakers[n].handle_connected(id, Way::Active, Self::ends(n, n), self.now);
                self.speakers[1 - n].handle_connected(other, Way::Passive, Self::ends(1 - n, n), self.now);
            }
            Output::CancelConnect(_) => {}
            Output::Transmit(_, way, bytes) => {
                let wire = if way == Way::Active { n } else { 1 - n };
                self.under_way.push_back((n, wire, bytes));
                if self.writes {
                    let id = self.peer_of(n);
                    self.speakers[n].handle_written(id, way, true, self.now);
                }
            }
            Output::Close(_, way) => {
                let wire = if way == Way::Active { n } else { 1 - n };
                // What was sent before arrives before.
                let (before, rest): (Vec<_>, Vec<_>) =
                    self.under_way.drain(..).partition(|(f, w, _)| (*f, *w) == (n, wire));
                self.under_way = rest.into();
                for (_, _, bytes) in before {
                    if !self.cut && self.wires[wire] == Wire::Open {
                        let id = self.peer_of(1 - n);
                        self.speakers[1 - n].handle_bytes(id, Self::way(1 - n, wire), &bytes, self.now);
                    }
                }
                if std::mem::replace(&mut self.wires[wire], Wire::Closed) == Wire::Open && !self.cut {
                    let id = self.peer_of(1 - n);
                    self.speakers[1 - n].handle_closed(id, Self::way(1 - n, wire), "closed", self.now);
                }
            }
            Output::State { state: SessionState::Established, reason: None, .. } => self.ups[n] += 1,
            Output::State { .. } => {}
        }
    }

    /// The wires break, and both ends notice.
    pub(super) fn break_wires(&mut self) {
        for wire in 0..2 {
            if std::mem::replace(&mut self.wires[wire], Wire::Closed) == Wire::Open {
                for n in 0..2 {
                    let id = self.peer_of(n);
                    self.speakers[n].handle_closed(id, Self::way(n, wire), "reset", self.now);
                }
            }
        }
        self.under_way.clear();
    }

    /// Bytes that the second speaker never sent reach the first.
    pub(super) fn inject(&mut self, bytes: &[u8]) {
        let wire = self.wires.iter().position(|w| *w == Wire::Open).unwrap();
        let id = self.peer_of(0);
        self.speakers[0].handle_bytes(id, Self::way(0, wire), bytes, self.now);
        self.settle();
    }

    pub(super) fn status(&self, n: usize) -> PeerStatus {
        self.speakers[n].status(0, self.now).peers.remove(0)
    }

    pub(super) fn is_up(&self) -> bool {
        (0..2).all(|n| self.status(n).state == SessionState::Established)
    }

    pub(super) fn knows(&self, n: usize, prefix: &str) -> bool {
        self.speakers[n].rib().entry(p(prefix)).is_some_and(|e| e.best().is_some())
    }
}
