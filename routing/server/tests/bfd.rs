//! With a neighbour that the test plays: what BFD says, packet by packet.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod support;
use penstock_clock::MonotonicClock;
use penstock_routing_proto::bfd::{BFD_PORT, ControlPacket};
use penstock_routing_proto::*;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use support::*;

/// An end of BFD in the router's namespace.
struct Neighbour {
    heard: Arc<Mutex<Vec<BfdState>>>,
    verdict: Arc<Mutex<BfdState>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Neighbour {
    fn start(lab: &Lab) -> Self {
        let socket = lab.in_ns("b", || UdpSocket::bind((THEIRS, BFD_PORT)).unwrap());
        socket.set_ttl(255).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        let (heard, verdict): (Arc<Mutex<Vec<BfdState>>>, Arc<Mutex<BfdState>>) = Default::default();
        let stop = Arc::new(AtomicBool::new(false));
        let shared = (heard.clone(), verdict.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let (heard, verdict, stop) = shared;
            let mut session = BfdSession::new(BfdGoal::default(), 77, 7, MonotonicClock::now());
            let mut buffer = [0; 64];
            while !stop.load(Ordering::Relaxed) {
                let received = socket.recv(&mut buffer);
                let now = MonotonicClock::now();
                if let Some(packet) = received.ok().and_then(|n| ControlPacket::decode(&buffer[..n])) {
                    heard.lock().unwrap().push(packet.state);
                    session.handle_packet(&packet, now);
                }
                session.handle_timeout(now);
                while let Some(packet) = session.poll_transmit(now) {
                    drop(socket.send_to(&packet.encode(), (OURS, BFD_PORT)));
                }
                *verdict.lock().unwrap() = session.verdict();
            }
        });
        Self { heard, verdict, stop, thread: Some(thread) }
    }

    fn says(&self) -> BfdState {
        *self.verdict.lock().unwrap()
    }

    /// How often it has heard that our end goes on purpose.
    fn farewells(&self) -> usize {
        self.heard.lock().unwrap().iter().filter(|s| **s == BfdState::AdminDown).count()
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn watched(name: &str, address: &str) -> PeerGoal {
    PeerGoal { passive: true, bfd: Some(BfdGoal::default()), ..open_peer(name, address) }
}

fn unwatched(name: &str, address: &str) -> PeerGoal {
    PeerGoal { bfd: None, ..watched(name, address) }
}

#[test]
fn a_neighbour_that_is_no_longer_watched_hears_that_this_is_no_failure() {
    let Some(lab) = Lab::new("bgo", "/proc") else { return };
    let neighbour = Neighbour::start(&lab);
    let both = || vec![watched("one", THEIRS), watched("two", "192.0.2.9")];
    let ours = Ours::start(&lab, both(), Duration::ZERO);
    let up = || ours.bfd_is("one", BfdState::Up) && neighbour.says() == BfdState::Up;
    eventually("BFD is up", up);

    // The thread goes on, for the other.
    ours.goal.send_replace(goal(vec![unwatched("one", THEIRS), watched("two", "192.0.2.9")]).into());
    let heard = eventually("it is told three times", || neighbour.farewells() >= 3);
    assert!(heard < Duration::from_secs(4), "{heard:?}");
    assert_eq!(neighbour.says(), BfdState::AdminDown);

    ours.goal.send_replace(goal(both()).into());
    eventually("BFD is up again", up);
    // And without the other, the port is free again once that is said.
    let before = neighbour.farewells();
    ours.goal.send_replace(goal(vec![unwatched("one", THEIRS)]).into());
    eventually("it is told three times again", || neighbour.farewells() >= before + 3);
    eventually("nobody listens", || lab.in_ns("a", || UdpSocket::bind(("0.0.0.0", BFD_PORT)).is_ok()));
}

#[test]
fn a_router_that_stops_says_so_more_than_once() {
    let Some(lab) = Lab::new("bst", "/proc") else { return };
    let neighbour = Neighbour::start(&lab);
    let mut ours = Ours::start(&lab, vec![watched("one", THEIRS)], Duration::ZERO);
    eventually("BFD is up", || ours.bfd_is("one", BfdState::Up) && neighbour.says() == BfdState::Up);
    ours.tell_to_stop();
    ours.wait();
    eventually("it is told three times", || neighbour.farewells() >= 3);
}

#[test]
fn a_neighbour_that_goes_on_purpose_is_shown_as_such() {
    let Some(lab) = Lab::new("bad", "/proc") else { return };
    let theirs = Ours::start_at(&lab, "b", vec![watched("us", OURS)]);
    let ours = Ours::start(&lab, vec![watched("one", THEIRS), watched("two", "192.0.2.9")], Duration::ZERO);
    eventually("BFD is up", || ours.bfd_is("one", BfdState::Up) && theirs.bfd_is("us", BfdState::Up));
    theirs.goal.send_replace(goal(vec![unwatched("us", OURS)]).into());
    eventually("it is down on purpose", || ours.bfd_is("one", BfdState::AdminDown));
}
