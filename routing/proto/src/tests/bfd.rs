use crate::bfd::{BfdSession, BfdState, CONTROL_BYTES, ControlPacket};
use crate::goal::BfdGoal;
use penstock_model::Nanos;
use std::time::Duration;

/// Two ends and a clock.
struct Ends {
    now: Nanos,
    ends: [BfdSession; 2],
    /// Whether what the end sends arrives.
    heard: [bool; 2],
}

impl Ends {
    fn new(first: BfdGoal, second: BfdGoal) -> Self {
        let now = Nanos::from_secs(1);
        let ends = [BfdSession::new(first, 11, 1, now), BfdSession::new(second, 22, 2, now)];
        Self { now, ends, heard: [true, true] }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now.plus(time);
        loop {
            let at = self.ends.iter().map(BfdSession::poll_timeout).min().unwrap();
            if at > end {
                break;
            }
            self.now = at.max(self.now);
            for n in 0..2 {
                self.ends[n].handle_timeout(self.now);
                while let Some(packet) = self.ends[n].poll_transmit(self.now) {
                    let packet = ControlPacket::decode(&packet.encode()).unwrap();
                    if self.heard[n] {
                        self.ends[1 - n].handle_packet(&packet, self.now);
                    }
                }
            }
        }
        self.now = end;
    }

    fn states(&self) -> [BfdState; 2] {
        [self.ends[0].state(), self.ends[1].state()]
    }
}

const UP: [BfdState; 2] = [BfdState::Up, BfdState::Up];

#[test]
fn two_ends_find_each_other_and_agree_on_fast_timers() {
    let mut ends = Ends::new(BfdGoal::default(), BfdGoal::default());
    ends.pass(Duration::from_secs(3));
    assert_eq!(ends.states(), UP);
    assert_eq!(ends.ends[0].detection_time(), Duration::from_millis(300));
    let before = ends.ends[0].counts().1;
    ends.pass(Duration::from_secs(10));
    let sent = ends.ends[0].counts().1 - before;
    assert!((100..=134).contains(&sent), "{sent} packets in 10 s at 75 to 100 ms");
    assert_eq!(ends.states(), UP);
}

#[test]
fn silence_is_noticed_within_the_detection_time_and_the_other_end_is_told() {
    let mut ends = Ends::new(BfdGoal::default(), BfdGoal::default());
    ends.pass(Duration::from_secs(5));
    ends.heard[1] = false;
    ends.pass(Duration::from_millis(190));
    assert_eq!(ends.states(), UP);
    ends.pass(Duration::from_millis(150));
    assert_eq!(ends.states(), [BfdState::Down, BfdState::Down]);
    assert_eq!(ends.ends[0].diagnostic().words(), Some("control detection time expired"));
    assert_eq!(ends.ends[1].diagnostic().words(), Some("neighbor signaled session down"));
    assert_eq!(ends.ends[0].counts().2, 1);
    ends.heard[1] = true;
    ends.pass(Duration::from_secs(4));
    assert_eq!(ends.states(), UP);
}

#[test]
fn the_slower_interval_counts_and_detection_follows_the_other_ends_multiplier() {
    let slow = BfdGoal { interval_ms: 400, multiplier: 5 };
    let mut ends = Ends::new(BfdGoal::default(), slow);
    ends.pass(Duration::from_secs(8));
    assert_eq!(ends.states(), UP);
    assert_eq!(ends.ends[0].detection_time(), Duration::from_millis(2000), "5 x 400 of the other end");
    assert_eq!(ends.ends[1].detection_time(), Duration::from_millis(1200), "3 x 400 that it asks for");
}

#[test]
fn an_end_that_stops_on_purpose_says_so_for_a_detection_time_and_has_not_failed() {
    let mut ends = Ends::new(BfdGoal::default(), BfdGoal::default());
    ends.pass(Duration::from_secs(3));
    let (now, before) = (ends.now, ends.ends[0].counts().1);
    ends.ends[0].stop(now);
    ends.heard[0] = false;
    ends.pass(Duration::from_millis(110));
    assert_eq!((ends.states()[1], ends.ends[0].is_over(ends.now)), (BfdState::Up, false), "the first is lost");
    ends.heard[0] = true;
    ends.pass(Duration::from_millis(200));
    assert_eq!(ends.states(), [BfdState::AdminDown, BfdState::Down]);
    assert_eq!(ends.ends[1].verdict(), BfdState::AdminDown, "no failure (RFC 5882, 3.2)");
    let said = ends.ends[0].counts().1 - before;
    assert!(said >= 3 && ends.ends[0].is_over(ends.now), "{said} packets");
    // Silence after it is not news, and a new start is as any other.
    ends.heard[0] = false;
    ends.pass(Duration::from_secs(10));
    assert_eq!(ends.states()[1], BfdState::Down);
    ends.ends[0] = BfdSession::new(BfdGoal::default(), 33, 3, ends.now);
    ends.heard[0] = true;
    ends.pass(Duration::from_secs(4));
    assert_eq!((ends.states(), ends.ends[1].verdict()), (UP, BfdState::Up));
}

#[test]
fn timers_change_by_a_poll_without_a_loss() {
    let mut ends = Ends::new(BfdGoal::default(), BfdGoal::default());
    ends.pass(Duration::from_secs(3));
    let now = ends.now;
    ends.ends[0].set(BfdGoal { interval_ms: 250, multiplier: 3 }, now);
    ends.pass(Duration::from_secs(3));
    assert_eq!(ends.states(), UP);
    assert_eq!((ends.ends[0].counts().2, ends.ends[1].counts().2), (0, 0));
    assert_eq!(ends.ends[1].detection_time(), Duration::from_millis(750));
}

#[test]
fn slower_sending_waits_for_the_neighbour_to_agree() {
    let mut ends = Ends::new(BfdGoal::default(), BfdGoal::default());
    ends.pass(Duration::from_secs(3));
    let now = ends.now;
    ends.ends[0].set(BfdGoal { interval_ms: 1000, multiplier: 3 }, now);
    // The first poll is lost: the neighbour expects a packet within 300 ms as before.
    ends.heard[0] = false;
    ends.pass(Duration::from_millis(20));
    ends.heard[0] = true;
    ends.pass(Duration::from_millis(200));
    assert_eq!(ends.ends[1].detection_time(), Duration::from_secs(3), "it has heard by now");
    ends.pass(Duration::from_secs(10));
    assert_eq!((ends.states(), ends.ends[0].counts().2, ends.ends[1].counts().2), (UP, 0, 0));
    let before = ends.ends[0].counts().1;
    ends.pass(Duration::from_secs(10));
    let sent = ends.ends[0].counts().1 - before;
    assert!((10..=14).contains(&sent), "{sent} packets in 10 s at 750 to 1000 ms");
}

#[test]
fn faster_receiving_is_expected_only_once_the_neighbour_has_agreed() {
    let mut ends = Ends::new(BfdGoal { interval_ms: 1000, multiplier: 3 }, BfdGoal::default());
    ends.pass(Duration::from_secs(8));
    assert_eq!((ends.states(), ends.ends[0].detection_time()), (UP, Duration::from_secs(3)));
    let now = ends.now;
    ends.ends[0].set(BfdGoal::default(), now);
    // Nothing of it arrives for a while: the neighbour sends once a second as before.
    ends.heard[0] = false;
    ends.pass(Duration::from_millis(1500));
    assert_eq!(ends.states()[0], BfdState::Up);
    ends.heard[0] = true;
    ends.pass(Duration::from_secs(3));
    assert_eq!((ends.states(), ends.ends[0].counts().2, ends.ends[1].counts().2), (UP, 0, 0));
    assert_eq!(ends.ends[0].detection_time(), Duration::from_millis(300));
}

#[test]
fn packets_that_must_be_discarded_are() {
    let good = ControlPacket {
        state: BfdState::Up,
        diagnostic: Default::default(),
        poll: true,
        r#final: false,
        multiplier: 3,
        my_discriminator: 5,
        your_discriminator: 11,
        desired_tx: 100_000,
        required_rx: 100_000,
        required_echo_rx: 0,
    };
    assert_eq!(ControlPacket::decode(&good.encode()), Some(good));
    let with = |at: usize, to: u8| {
        let mut bytes = good.encode();
        bytes[at] = to;
        ControlPacket::decode(&bytes)
    };
    assert_eq!(with(0, 2 << 5), None, "version");
    assert_eq!(with(1, 0xc4), None, "authentication that is not offered");
    assert_eq!(with(1, 0xc1), None, "multipoint");
    assert_eq!(with(2, 0), None, "no multiplier");
    assert_eq!(with(3, 23), None, "too short");
    assert_eq!(with(3, 25), None, "longer than it is");
    assert_eq!(with(7, 0), None, "no discriminator");
    assert_eq!(with(11, 0), None, "up, and does not know whom it speaks to");
    for n in 0..CONTROL_BYTES {
        assert_eq!(ControlPacket::decode(&good.encode()[..n]), None);
    }
    let mut session = BfdSession::new(BfdGoal::default(), 12, 1, Nanos(0));
    session.handle_packet(&good, Nanos(1));
    assert_eq!(session.counts().0, 0, "for somebody else");
}
