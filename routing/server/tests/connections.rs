//! With a peer that the test plays, on plain sockets of this machine: which of its connections is the session's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod support;
use penstock_routing_proto::wire::message::{self, MessageType};
use penstock_routing_proto::wire::open::{Capabilities, GracefulRestart, Open};
use penstock_routing_proto::*;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};
use support::*;

/// The far end of one connection.
struct Far {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Far {
    fn connect(to: SocketAddr) -> Self {
        let start = Instant::now();
        loop {
            match TcpStream::connect(to) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
                    return Self { stream, input: Vec::new() };
                }
                Err(error) => assert!(start.elapsed() < Duration::from_secs(20), "{error}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Says who it is, and that it takes what it hears.
    fn open(&mut self, restart: Option<GracefulRestart>) {
        let capabilities = Capabilities {
            families: [Family::Ipv4].into(),
            four_byte_as: true,
            graceful_restart: restart,
            ..Capabilities::default()
        };
        let open = Open { asn: THEIR_AS, hold_seconds: 90, id: Ipv4Addr::new(192, 0, 2, 1), capabilities };
        self.say(&[message::open(&open), message::keepalive()].concat());
    }

    fn say(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// What has come so far; false once the other end has closed.
    fn listen(&mut self) -> bool {
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(0) => false,
            Ok(n) => {
                self.input.extend_from_slice(&buffer[..n]);
                true
            }
            Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        }
    }

    fn heard(&mut self, wanted: MessageType) -> bool {
        self.listen();
        let mut at = 0;
        while let Some((kind, _, length)) = message::split(&self.input[at..]).unwrap() {
            if kind == wanted {
                return true;
            }
            at += length;
        }
        false
    }
}

/// A router of our own on this machine, and where it listens. The peer waits to be connected from 127.0.0.1.
fn router(peer: PeerGoal) -> (Ours, SocketAddr) {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    (Ours::start_here(vec![peer], vec![free]), free)
}

fn far_peer() -> PeerGoal {
    PeerGoal { passive: true, hold_seconds: 90, ..open_peer("far", "127.0.0.1") }
}

#[test]
fn a_second_connection_is_refused_and_takes_nothing_from_the_established_one() {
    let (ours, at) = router(far_peer());
    let mut first = Far::connect(at);
    first.open(None);
    eventually("the session is up", || ours.is_up("far"));
    let mut second = Far::connect(at);
    eventually("the second connection is closed", || !second.listen());
    assert!(second.input.is_empty(), "without a word");
    // The first one is still the session's: after the end of what there was to tell, what is new is told over it.
    eventually("the first connection has the end of the table", || first.heard(MessageType::Update));
    first.input.clear();
    ours.announce(&["203.0.113.10/32"]);
    eventually("the first connection is told", || first.heard(MessageType::Update));
    assert_eq!((ours.peer("far").established, ours.is_up("far")), (1, true));
    // And when it ends, the next is welcome.
    drop(first);
    eventually("the session is down", || !ours.is_up("far"));
    let mut third = Far::connect(at);
    third.open(None);
    eventually("the session is up again", || ours.is_up("far"));
}

#[test]
fn a_peer_that_restarts_takes_its_session_over_with_a_new_connection() {
    let (ours, at) = router(PeerGoal { restart_seconds: Some(60), ..far_peer() });
    let restart =
        GracefulRestart { seconds: 60, families: [(Family::Ipv4, true)].into(), ..GracefulRestart::default() };
    let mut first = Far::connect(at);
    first.open(Some(restart.clone()));
    eventually("the session is up", || ours.is_up("far"));
    let mut second = Far::connect(at);
    second.open(Some(restart));
    eventually("the earlier connection is closed", || !first.listen());
    eventually("the session is up again", || ours.peer("far").established == 2 && ours.is_up("far"));
    ours.announce(&["203.0.113.10/32"]);
    eventually("the new connection is told", || second.heard(MessageType::Update));
}

#[test]
fn a_connection_that_never_became_a_session_makes_room_for_the_next() {
    let (ours, at) = router(far_peer());
    let mut silent = Far::connect(at);
    eventually("it is spoken to", || silent.heard(MessageType::Open));
    let mut second = Far::connect(at);
    second.open(None);
    eventually("the session is up", || ours.is_up("far"));
    eventually("the silent one is closed", || !silent.listen());
}

#[test]
fn an_address_that_cannot_be_listened_on_is_named_and_tried_again_though_others_can() {
    let taken = TcpListener::bind("127.0.0.3:0").unwrap();
    let (at, free) = (taken.local_addr().unwrap(), TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    let ours = Ours::start_here(vec![far_peer()], vec![at, free]);
    let error = || ours.status.borrow().error.clone();
    eventually("the address is named", || error().is_some_and(|e| e.contains(&at.to_string())));
    drop(taken);
    eventually("it is listened on", || error().is_none());
    let mut far = Far::connect(at);
    far.open(None);
    eventually("the session is up", || ours.is_up("far"));
}
