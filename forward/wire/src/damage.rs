//! Frames that tests have damaged.

use crate::checksum;

/// The frame with bytes replaced, `is_repaired`: its IPv4 header checksum right again, and cut off.
pub(crate) fn damaged(mut frame: Vec<u8>, damage: Vec<(usize, u8)>, is_repaired: bool, cut: Option<usize>) -> Vec<u8> {
    for (at, byte) in damage {
        if let Some(b) = frame.get_mut(at) {
            *b = byte;
        }
    }
    if is_repaired && frame[12..14] == [0x08, 0x00] {
        frame[24..26].fill(0);
        let c = checksum::finish(checksum::sum(&frame[14..34], 0));
        frame[24..26].copy_from_slice(&c.to_be_bytes());
    }
    frame.truncate(cut.unwrap_or(usize::MAX));
    frame
}
