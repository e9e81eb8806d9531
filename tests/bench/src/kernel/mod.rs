//! What the kernel forwards by itself: the mux's program, the least program that encapsulates, kernel forwarding, nftables.
//!
//! Live, by the veth of the suite `veth`: with one processor, where the generator's frames are received, forwarded and counted in
//! the same run of its interrupt, and with two, where the interface's NAPI thread has a processor of its own. The sink of the
//! two XDP rows counts in the driver, that of the others, who make socket buffers, behind it.
//!
//! `kernel/program`: nanoseconds of the program alone over frames of flow after flow, less those of a program that answers at
//! once. The restoring of the frame's length, about 5 ns, is counted to the program.
mod live;
mod program;

use crate::report::Report;
use crate::veth::nets;

pub(crate) fn run(report: &mut Report) {
    if let Err(reason) = nets::possible() {
        report.note(format!("kernel: skipped: {reason}"));
        return;
    }
    program::run(report);
    live::run(report);
}
