//! Bytes as a list of frames with what the driver says about them.
//!
//! A record is a control byte, the length in two bytes (little endian) and the frame. Whatever the bytes, they are a program.

/// One frame and its circumstances.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    control: u8,
    pub frame: &'a [u8],
}

/// Longest frame of a program: beyond the underlay's MTU, and enough for a frame of a few segments.
pub const MAX_FRAME: usize = 4096;
/// Records of one program.
pub const MAX_RECORDS: usize = 24;

impl<'a> Record<'a> {
    /// Which port it comes in by, of `ports`.
    pub fn port(&self, ports: u16) -> u16 {
        u16::from(self.control & 0x07) % ports
    }

    /// The driver says that the checksum is left to be completed.
    pub fn partial_checksum(&self) -> bool {
        self.control & 0x08 != 0
    }

    /// The driver says that it is a frame of many segments.
    pub fn gso(&self) -> bool {
        self.control & 0x10 != 0
    }

    /// A new policy is published before it.
    pub fn publishes(&self) -> bool {
        self.control & 0x20 != 0
    }

    /// Time passes before it: a second, or long enough for flows to expire.
    pub fn seconds(&self) -> u64 {
        match self.control >> 6 {
            0 => 0,
            1 => 1,
            2 => 400,
            _ => 9000,
        }
    }

    /// The whole control byte, for targets that read it otherwise.
    pub fn control(&self) -> u8 {
        self.control
    }
}

/// The records of `bytes`; the last may be cut short.
pub fn records(bytes: &[u8]) -> impl Iterator<Item = Record<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let [control, low, high, tail @ ..] = rest else { return None };
        let len = usize::from(u16::from_le_bytes([*low, *high])) % (MAX_FRAME + 1);
        let (frame, next) = tail.split_at(len.min(tail.len()));
        rest = next;
        Some(Record { control: *control, frame })
    })
    .take(MAX_RECORDS)
}

/// Writes a record.
pub fn push(program: &mut Vec<u8>, control: u8, frame: &[u8]) {
    program.push(control);
    program.extend((frame.len() as u16).to_le_bytes());
    program.extend(frame);
}
