use penstock_model::{DropReason, Nanos};
use penstock_wire::Headers;
use std::collections::VecDeque;
use std::time::Duration;

/// Connections of probes whose answers are let in; a probe has one at a time and leaves the one before it closing.
const CONNECTIONS: usize = 256;
/// Frames let in during each window; a probe's connection takes half a dozen.
const FRAMES: u16 = 64;
const WINDOW: Duration = Duration::from_millis(100);

/// What one container may send to the probes: answers to connections that a probe has opened, and not too many at once.
///
/// All containers' answers wait in one queue, so without this one of them could starve the others' probes.
#[derive(Debug, Default)]
pub(crate) struct Door {
    /// Local port of the probe, port of the container; the newest last.
    connections: VecDeque<(u16, u16)>,
    window: Nanos,
    frames: u16,
}

impl Door {
    /// Lets in the answers to a frame of a probe.
    pub(crate) fn open_for(&mut self, frame: &[u8]) {
        let Ok(h) = penstock_wire::parse(frame) else { return };
        let connection = (h.src_port, h.dst_port);
        if !h.tcp_flags.opens() || self.connections.contains(&connection) {
            return;
        }
        if self.connections.len() == CONNECTIONS {
            self.connections.pop_front();
        }
        self.connections.push_back(connection);
    }

    /// # Errors
    /// `NoServiceOnPort` if no probe has asked, `HandoffFull` if there are too many.
    pub(crate) fn admit(&mut self, h: &Headers, now: Nanos) -> Result<(), DropReason> {
        if !self.connections.contains(&(h.dst_port, h.src_port)) {
            return Err(DropReason::NoServiceOnPort);
        }
        if now.since(self.window) >= WINDOW {
            (self.window, self.frames) = (now, 0);
        }
        if self.frames == FRAMES {
            return Err(DropReason::HandoffFull);
        }
        self.frames += 1;
        Ok(())
    }
}
