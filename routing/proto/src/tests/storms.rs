//! Sessions that come and go without end cost little, and less with time.
use super::pair::p;
use super::told::agreed;
use crate::wire::attributes::Attributes;
use crate::wire::message;
use crate::wire::open::{Capabilities, Open};
use crate::wire::update::{self, Nlri};
use crate::*;
use penstock_model::Nanos;
use std::net::Ipv4Addr;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);

/// A speaker and what one neighbour makes of each connection.
struct Storm {
    speaker: Speaker,
    id: PeerId,
    now: Nanos,
    /// What the speaker did, and how often it had to be looked at.
    attempts: u32,
    sent: u32,
    looks: u32,
}

impl Storm {
    fn new(passive: bool) -> Self {
        let mut speaker = Speaker::new(Ipv4Addr::new(10, 0, 0, 1), 1);
        let open = Some(Policy::accept_all());
        let peer = PeerGoal::new("p", "192.0.2.2".parse().unwrap(), 65001);
        let peer = PeerGoal { passive, import: open.clone(), export: open, ..peer };
        let goal = RouterGoal { local_as: 65000, peers: vec![peer], ..RouterGoal::default() };
        let now = Nanos::from_secs(1);
        speaker.apply(&goal, now).unwrap();
        speaker.announce((0..100).map(|n| Prefix::host(Ipv4Addr::new(203, 0, 113, n).into())).collect());
        let id = speaker.peers().next().unwrap().0;
        Self { speaker, id, now, attempts: 0, sent: 0, looks: 0 }
    }

    fn connected(&mut self, way: Way) {
        let (local, remote) = ("192.0.2.1:179".parse().unwrap(), "192.0.2.2:40000".parse().unwrap());
        self.speaker.handle_connected(self.id, way, Ends { local, remote }, self.now);
    }

    fn closed(&mut self, way: Way) {
        self.speaker.handle_closed(self.id, way, "reset", self.now);
    }

    /// The neighbour says what it must for the session to be up, tells a route, and hears ours.
    fn established(&mut self, way: Way) {
        let capabilities =
            Capabilities { four_byte_as: true, families: [Family::Ipv4].into(), ..Capabilities::default() };
        let open = Open { asn: 65001, hold_seconds: 90, id: Ipv4Addr::new(10, 0, 0, 2), capabilities };
        let route = [Nlri { prefix: p("198.51.100.0/24"), path_id: 0 }];
        let mut attributes = Attributes::local("192.0.2.2".parse().unwrap());
        attributes.as_path.0 = vec![65001];
        let (told, _) = update::announce(&attributes, &route, &agreed(true)).unwrap();
        let all = [message::open(&open), message::keepalive(), told].concat();
        self.speaker.handle_bytes(self.id, way, &all, self.now);
        while self.speaker.fill(self.id, self.now) {}
    }

    /// Time passes; `fate` is what happens to a connection that the speaker opens.
    fn pass(&mut self, time: Duration, fate: fn(&mut Self)) {
        let end = self.now.plus(time);
        loop {
            while let Some(output) = self.speaker.poll_output() {
                match output {
                    Output::Connect(_) => {
                        self.attempts += 1;
                        fate(self);
                    }
                    Output::Transmit(_, way, _) => {
                        self.sent += 1;
                        self.speaker.handle_written(self.id, way, true, self.now);
                    }
                    _ => {}
                }
            }
            let Some(at) = self.speaker.poll_timeout().filter(|at| *at <= end) else { break };
            self.now = at.max(self.now.plus(Duration::from_nanos(1)));
            self.looks += 1;
            self.speaker.handle_timeout(self.now);
        }
        self.now = end;
    }

    fn is_up(&self) -> bool {
        self.speaker.status(0, self.now).peers[0].state == SessionState::Established
    }
}

/// A minute between attempts in the end: with the first few, and a quarter less for chance, at most so many an hour.
const MOST_AN_HOUR: u32 = 90;

#[test]
fn a_neighbour_that_refuses_closes_or_flaps_is_tried_ever_less_often() {
    let refuses = |s: &mut Storm| s.speaker.handle_connect_failed(s.id, "refused", s.now);
    let closes = |s: &mut Storm| {
        s.connected(Way::Active);
        s.closed(Way::Active);
    };
    let flaps = |s: &mut Storm| {
        s.connected(Way::Active);
        s.established(Way::Active);
        assert!(s.is_up());
        s.closed(Way::Active);
    };
    let silent = |_: &mut Storm| {};
    for (what, fate) in
        [("refuses", refuses as fn(&mut Storm)), ("closes", closes), ("flaps", flaps), ("silent", silent)]
    {
        let mut storm = Storm::new(false);
        storm.pass(HOUR, fate);
        assert!((30..MOST_AN_HOUR).contains(&storm.attempts), "{what}: {} attempts", storm.attempts);
        // An OPEN, a KEEPALIVE, our routes in one message, the end of the table.
        assert!(storm.sent <= 4 * storm.attempts, "{what}: {} messages", storm.sent);
        assert!(storm.looks <= 4 * storm.attempts, "{what}: looked at {} times", storm.looks);
        assert_eq!(storm.speaker.rib().paths(), 100, "{what}: nothing is left of it");
    }
}

#[test]
fn a_session_that_lasted_is_tried_again_at_once() {
    let mut storm = Storm::new(false);
    storm.pass(HOUR, |s| s.speaker.handle_connect_failed(s.id, "refused", s.now));
    let up = |s: &mut Storm| {
        s.connected(Way::Active);
        s.established(Way::Active);
    };
    storm.pass(Duration::from_secs(120), up);
    assert!(storm.is_up(), "the storm is over, and a minute or two later the session is up");
    storm.speaker.handle_bytes(storm.id, Way::Active, &message::keepalive(), storm.now);
    storm.pass(Duration::from_secs(60), up);
    storm.closed(Way::Active);
    storm.pass(Duration::from_secs(2), up);
    assert!(storm.is_up(), "as after the first failure");
}

#[test]
fn a_neighbour_that_connects_without_end_is_heard_every_few_seconds_alone() {
    let mut storm = Storm::new(true);
    let (mut heard, times) = (0, 60_000);
    for _ in 0..times {
        if storm.speaker.make_room(storm.id, Way::Passive, storm.now) {
            heard += 1;
            storm.connected(Way::Passive);
            storm.established(Way::Passive);
            storm.closed(Way::Passive);
        }
        storm.pass(Duration::from_millis(10), |_| {});
    }
    // Ten minutes: one in five seconds, and the first few.
    assert!((60..130).contains(&heard), "{heard} of {times}");
    assert_eq!(storm.attempts, 0);
}
