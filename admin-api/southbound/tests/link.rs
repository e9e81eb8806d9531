//! The link over real QUIC on loopback, with real certificates.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(unreachable_pub, dead_code, reason = "shared with other test files")]
mod support;

use penstock_model::Revision;
use penstock_southbound::{Lead, Link, LinkError, Mux, NodeReport, NodeRole, Server, ServerError, local};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::{Authority, Controller, Hub, Node, SOON, TempDir, goal};
use tokio::sync::watch;

fn any() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

const MUX1_UP: (NodeRole, &str, bool) = (NodeRole::Mux, "mux1", true);
const MUX1_DOWN: (NodeRole, &str, bool) = (NodeRole::Mux, "mux1", false);

async fn goal_file_is_there(state: &Path) {
    let file = state.join("goal-mux.json");
    let waiting = async {
        while !file.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, waiting).await.expect("the goal on disk in time");
}

#[tokio::test]
async fn a_goal_change_reaches_the_node_within_100_ms_and_its_report_comes_back() {
    let authority = Authority::new();
    let controller = Controller::start(&authority.credentials("ctl", "controller"), any());
    controller.hub.set_mux("mux1", 1);
    let state = TempDir::new();
    let mut node = Node::start(controller.address, &authority.credentials("mux1", "mux"), state.path(), true);
    node.gets(1).await;
    controller.hub.sees(&[MUX1_UP]).await;

    let mut times = Vec::new();
    for revision in 2..12 {
        let start = Instant::now();
        controller.hub.set_mux("mux1", revision);
        node.gets(revision).await;
        times.push(start.elapsed());
    }
    times.sort();
    println!("goal change to node: median {:?}, slowest {:?}", times[times.len() / 2], times[times.len() - 1]);
    assert!(times[times.len() / 2] < Duration::from_millis(100), "{times:?}");
    let applied = |node: &str, report: &NodeReport| node == "mux1" && report.revision() == Revision(11);
    controller.hub.hears(|heard| heard.iter().any(|(n, r)| applied(n, r))).await;

    node.stop().await;
    controller.hub.sees(&[MUX1_UP, MUX1_DOWN]).await;
}

#[tokio::test]
async fn a_node_of_another_authority_is_refused_and_so_is_a_controller_of_another() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let controller = Controller::start(&ours.credentials("ctl", "controller"), any());
    controller.hub.set_mux("mux1", 1);
    let state = TempDir::new();
    // Its own authority for both directions: it does not even accept the controller.
    let stranger = Node::start(controller.address, &theirs.credentials("mux1", "mux"), state.path(), true);
    // It accepts the controller, but shows a certificate of another authority.
    let mut files = theirs.files("mux2", "mux");
    files.ca = ours.files("unused", "mux").ca;
    controller.hub.set_mux("mux2", 1);
    let forger = Node::start(controller.address, &files.load().unwrap(), state.path(), true);

    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!((&*stranger.goals.borrow(), &*forger.goals.borrow()), (&None, &None));
    controller.hub.sees(&[]).await;
    assert!(controller.hub.heard.borrow().is_empty());
}

#[tokio::test]
async fn a_node_follows_the_controller_that_leads_and_none_that_led_before() {
    let authority = Authority::new();
    let own = authority.credentials("ctl", "controller");
    let start = || {
        let controller = Controller::start(&own, any());
        controller.hub.lead.0.send_replace(None);
        controller
    };
    let (a, b) = (start(), start());
    let lead = |controller: &Controller, term: Option<u64>, revision| {
        controller.hub.set_mux("mux1", revision);
        controller.hub.lead.0.send_replace(term.map(|term| Lead { site: "test".into(), term }));
    };
    let (state, credentials) = (TempDir::new(), authority.credentials("mux1", "mux"));
    let mut node = Node::following(&[a.address, b.address], &credentials, state.path(), true);
    lead(&b, Some(1), 10);
    node.gets(10).await;
    lead(&b, None, 11);
    lead(&a, Some(2), 20);
    node.gets(20).await;
    // The first stood still meanwhile and believes that it leads; the second is gone.
    lead(&b, Some(1), 12);
    lead(&a, None, 21);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(node.goals.borrow().as_ref().map(|g| g.revision), Some(Revision(20)));
    lead(&b, Some(3), 30);
    node.gets(30).await;
    node.stop().await;
}

#[tokio::test]
async fn a_certificate_without_the_role_is_refused_on_every_side() {
    let authority = Authority::new();
    // A node whose certificate does not grant what its configuration asks for.
    let host = authority.credentials("host1", "host");
    let link = Link::new(vec!["127.0.0.1:1".to_owned()], &host, "/nonexistent".into()).unwrap();
    let (goal, status, stop) = (watch::channel(None), watch::channel(Default::default()), watch::channel(false));
    let refused = link.run::<Mux>(goal.0, status.1, stop.1).await;
    assert!(matches!(refused, Err(LinkError::Role { role: NodeRole::Mux, .. })), "{refused:?}");

    // A controller that is only a mux.
    let mux = authority.credentials("mux1", "mux");
    assert!(matches!(Server::bind(any(), &mux), Err(ServerError::NotController(_))));
}

#[tokio::test]
async fn a_hello_for_a_role_that_the_certificate_does_not_grant_is_refused_by_the_controller() {
    let authority = Authority::new();
    let controller = Controller::start(&authority.credentials("ctl", "controller"), any());
    controller.hub.set_mux("host1", 1);
    let tls = authority.credentials("host1", "host").client_config(&[penstock_southbound::ALPN]).unwrap();
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let endpoint = quinn::Endpoint::client(any()).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(crypto));
    let name = penstock_southbound::CONTROLLER_NAME;
    let connection = endpoint.connect_with(config, controller.address, name).unwrap().await.unwrap();
    let (mut send, _receive) = connection.open_bi().await.unwrap();
    let hello = br#"{"hello":{"role":"mux"}}"#;
    let mut frame = b"PS\x00\x02\x00\x00\x00".to_vec();
    frame.push(hello.len() as u8);
    frame.extend_from_slice(hello);
    send.write_all(&frame).await.unwrap();
    let closed = tokio::time::timeout(SOON, connection.closed()).await.unwrap().to_string();
    assert!(closed.contains("asked to be a mux"), "{closed}");
    controller.hub.sees(&[]).await;
}

#[tokio::test]
async fn a_node_cannot_pass_for_the_controller() {
    let authority = Authority::new();
    let tls = authority.credentials("mux2", "mux").server_config(&[penstock_southbound::ALPN]).unwrap();
    let crypto = quinn::crypto::rustls::QuicServerConfig::try_from(tls).unwrap();
    let endpoint = quinn::Endpoint::server(quinn::ServerConfig::with_crypto(Arc::new(crypto)), any()).unwrap();
    let state = TempDir::new();
    let address = endpoint.local_addr().unwrap();
    let _node = Node::start(address, &authority.credentials("mux1", "mux"), state.path(), true);
    let incoming = tokio::time::timeout(SOON, endpoint.accept()).await.unwrap().unwrap();
    // The node ends the handshake when it sees the certificate; should it not, it must not open its stream.
    let accepted = async { incoming.await?.accept_bi().await };
    let result = tokio::time::timeout(SOON, accepted).await.unwrap();
    assert!(result.is_err(), "the node said hello to a mux");
}

#[tokio::test]
async fn a_node_restarts_from_disk_without_its_controller() {
    let authority = Authority::new();
    let credentials = authority.credentials("mux1", "mux");
    let controller = Controller::start(&authority.credentials("ctl", "controller"), any());
    let address = controller.address;
    controller.hub.set_mux("mux1", 5);
    let state = TempDir::new();
    let mut node = Node::start(address, &credentials, state.path(), true);
    node.gets(5).await;
    goal_file_is_there(state.path()).await;
    node.stop().await;
    controller.stop().await;

    let mut node = Node::start(address, &credentials, state.path(), true);
    node.gets(5).await;
    node.stop().await;
}

#[tokio::test]
async fn a_goal_that_was_not_applied_is_not_kept() {
    let authority = Authority::new();
    let controller = Controller::start(&authority.credentials("ctl", "controller"), any());
    controller.hub.set_mux("mux1", 5);
    let state = TempDir::new();
    let mut node = Node::start(controller.address, &authority.credentials("mux1", "mux"), state.path(), false);
    node.gets(5).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!state.path().join("goal-mux.json").exists());
    node.status.send_modify(|s| s.applied = Revision(5));
    goal_file_is_there(state.path()).await;
}

#[tokio::test]
async fn a_damaged_goal_on_disk_is_replaced_by_the_controllers() {
    let authority = Authority::new();
    let state = TempDir::new();
    let file = state.path().join("goal-mux.json");
    std::fs::write(&file, "penstock-goal 1 00\n{").unwrap();
    let controller = Controller::start(&authority.credentials("ctl", "controller"), any());
    controller.hub.set_mux("mux1", 6);
    let credentials = authority.credentials("mux1", "mux");
    let mut node = Node::start(controller.address, &credentials, state.path(), true);
    node.gets(6).await;
    node.stop().await;
    controller.stop().await;
    let mut node = Node::start(any(), &credentials, state.path(), true);
    node.gets(6).await;
}

#[tokio::test]
async fn a_node_finds_a_restarted_controller_and_takes_its_goal_even_if_revisions_begin_again() {
    let authority = Authority::new();
    let credentials = authority.credentials("ctl", "controller");
    let controller = Controller::start(&credentials, any());
    let address = controller.address;
    controller.hub.set_mux("mux1", 9);
    let state = TempDir::new();
    let mut node = Node::start(address, &authority.credentials("mux1", "mux"), state.path(), true);
    node.gets(9).await;
    controller.stop().await;
    assert_eq!(node.goals.borrow().as_deref(), Some(&goal(9)));

    let hub = Arc::new(Hub::default());
    hub.set_mux("mux1", 2);
    let _controller = Controller::with_hub(&credentials, address, hub);
    node.gets(2).await;
}

#[tokio::test]
async fn a_node_that_is_configured_later_is_served_on_the_same_connection() {
    let authority = Authority::new();
    let controller = Controller::start(&authority.credentials("ctl", "controller"), any());
    let state = TempDir::new();
    let mut node = Node::start(controller.address, &authority.credentials("mux1", "mux"), state.path(), true);
    controller.hub.sees(&[MUX1_UP]).await;
    controller.hub.set_mux("mux1", 3);
    node.gets(3).await;
    controller.hub.sees(&[MUX1_UP]).await;
}

#[tokio::test]
async fn the_newer_connection_of_a_node_replaces_the_older_and_the_node_stays_up() {
    let authority = Authority::new();
    let credentials = authority.credentials("mux1", "mux");
    let controller = Controller::start(&authority.credentials("ctl", "controller"), any());
    controller.hub.set_mux("mux1", 1);
    let (state, state2) = (TempDir::new(), TempDir::new());
    let mut first = Node::start(controller.address, &credentials, state.path(), true);
    first.gets(1).await;
    controller.hub.sees(&[MUX1_UP]).await;
    let mut second = Node::start(controller.address, &credentials, state2.path(), true);
    second.gets(1).await;
    // The first is replaced and tries again, and so on: whoever speaks for it, the node never counts as gone.
    tokio::time::sleep(Duration::from_millis(500)).await;
    controller.hub.sees(&[MUX1_UP]).await;
}

#[tokio::test]
async fn in_one_process_the_same_messages_go_without_a_network() {
    let hub = Arc::new(Hub::default());
    hub.set_mux("box", 1);
    let (goal_tx, mut goals) = watch::channel(None);
    let (status, status_rx) = watch::channel(penstock_mux_proto::MuxStatus::default());
    let (stop, stopped) = watch::channel(false);
    let source = hub.clone();
    let task = tokio::spawn(async move { local::run::<Mux>(source, "box", goal_tx, status_rx, stopped).await });
    for revision in [1, 2] {
        hub.set_mux("box", revision);
        let wanted = goals.wait_for(|g| g.as_deref() == Some(&goal(revision)));
        tokio::time::timeout(SOON, wanted).await.unwrap().unwrap();
    }
    status.send_modify(|s| s.applied = Revision(2));
    hub.hears(|heard| heard.iter().any(|(n, r)| n == "box" && r.revision() == Revision(2))).await;
    stop.send_replace(true);
    task.await.unwrap();
    hub.sees(&[(NodeRole::Mux, "box", true), (NodeRole::Mux, "box", false)]).await;
}

/// Passes datagrams between one node and the controller and keeps the first that the controller sent.
async fn relay(socket: tokio::net::UdpSocket, controller: SocketAddr, first: watch::Sender<Option<Vec<u8>>>) {
    let (mut buffer, mut node) = ([0; 65_536], None);
    while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
        let datagram = &buffer[..len];
        if from == controller {
            first.send_if_modified(|f| f.is_none() && f.replace(datagram.to_vec()).is_none());
        } else {
            node = Some(from);
        }
        let to = if from == controller { node } else { Some(controller) };
        if let Some(to) = to {
            socket.send_to(datagram, to).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_sender_proves_its_address_before_it_takes_a_place() {
    let authority = Authority::new();
    let controller = Controller::start(&authority.credentials("ctl", "controller"), any());
    controller.hub.set_mux("mux1", 1);
    let socket = tokio::net::UdpSocket::bind(any()).await.unwrap();
    let door = socket.local_addr().unwrap();
    let first = watch::Sender::new(None);
    let passing = tokio::spawn(relay(socket, controller.address, first.clone()));
    let state = TempDir::new();
    let mut node = Node::start(door, &authority.credentials("mux1", "mux"), state.path(), true);
    node.gets(1).await;
    // RFC 9000 section 17.2.5: a long header of type 3 is a Retry.
    let answer = first.borrow().clone().unwrap();
    assert_eq!(answer[0] & 0xf0, 0xf0, "the first answer is a Retry");
    passing.abort();
}
