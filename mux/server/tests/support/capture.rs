//! What arrives at the host's interface.
use super::{Lab, frame};
use penstock_model::PortId;
use penstock_packet_io::{AfPacket, AfPacketOptions, PacketIo, netns};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// For what has to happen.
pub const PATIENCE: Duration = Duration::from_secs(15);

pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub type Arrived = (Instant, Vec<u8>);

/// Everything that arrives at the host's interface.
pub struct Capture {
    stop: Arc<AtomicBool>,
    /// How many of them are encapsulated.
    count: Arc<AtomicUsize>,
    thread: Option<JoinHandle<Vec<Arrived>>>,
}

impl Capture {
    pub fn start(lab: &Lab) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let count = Arc::new(AtomicUsize::new(0));
        let (seen, counted, ns) = (Arc::clone(&stop), Arc::clone(&count), lab.ns("h"));
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            netns::enter(&ns).unwrap();
            let mut port = AfPacket::open("h0", PortId(0), &AfPacketOptions::default()).unwrap();
            ready.send(()).unwrap();
            let mut frames = Vec::new();
            while !seen.load(Ordering::Relaxed) {
                let now = Instant::now();
                let before = frames.len();
                let n = port.poll(&mut |batch| frames.extend(batch.iter().map(|p| (now, p.frame().to_vec())))).unwrap();
                let new = frames[before..].iter().filter(|(_, f)| frame::read(f).is_some()).count();
                counted.fetch_add(new, Ordering::Relaxed);
                if n == 0 {
                    std::thread::sleep(Duration::from_micros(200));
                }
            }
            frames
        });
        is_ready.recv().unwrap();
        Self { stop, count, thread: Some(thread) }
    }

    /// Waits until that many have arrived encapsulated, for a bounded time, and for what comes in excess.
    pub fn frames_of(self, expected: usize) -> Vec<Arrived> {
        let start = Instant::now();
        while self.count.load(Ordering::Relaxed) < expected && start.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.frames()
    }

    pub fn frames(mut self) -> Vec<Arrived> {
        std::thread::sleep(Duration::from_millis(150));
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}
