//! `BPF_PROG_TEST_RUN`: run a program on given bytes, or send live frames with it.
use crate::BpfError;
use crate::object::{elf, load, program_fd};
use libbpf_rs::Object;
use libbpf_rs::libbpf_sys;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};
use zerocopy::{Immutable, IntoBytes};

const GENERATOR: &str = "gen";
const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 1 << 1;
/// Room that a program may grow the packet by.
const OUTPUT_ROOM: usize = 256;

/// What a program did with a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunResult {
    /// `XDP_PASS`, `XDP_TX`, ...
    pub action: u32,
    pub output: Vec<u8>,
    /// Nanoseconds of one run, as the kernel took them.
    pub nanos: u32,
}

/// Runs an XDP program once on `frame`, without sending anything.
///
/// # Errors
/// The kernel refuses the frame or the program.
pub fn run_once(program: BorrowedFd<'_>, frame: &[u8]) -> io::Result<RunResult> {
    run_repeatedly(program, frame, 1)
}

/// [`run_once`] again and again on what it left; `nanos` is the mean. A program has to restore the frame by itself.
///
/// # Errors
/// The kernel refuses the frame or the program.
pub(crate) fn run_repeatedly(program: BorrowedFd<'_>, frame: &[u8], repeat: u32) -> io::Result<RunResult> {
    let mut output = vec![0; frame.len() + OUTPUT_ROOM];
    let mut options = options(frame);
    options.repeat = i32::try_from(repeat).unwrap_or(i32::MAX);
    options.data_out = output.as_mut_ptr().cast();
    options.data_size_out = output.len() as u32;
    test_run(program, &mut options)?;
    output.truncate(options.data_size_out as usize);
    Ok(RunResult { action: options.retval, output, nanos: options.duration })
}

/// What a tc program did with a frame in a socket buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BufferResult {
    /// `TC_ACT_UNSPEC`, `TC_ACT_REDIRECT`, ...
    pub action: i32,
    pub output: Vec<u8>,
    /// What it marked the frame with.
    pub mark: u32,
}

/// Runs a tc program once on `frame`, as if it had come by the loopback device, without sending anything.
///
/// # Errors
/// The kernel refuses the frame or the program.
pub fn run_buffer(program: BorrowedFd<'_>, frame: &[u8]) -> io::Result<BufferResult> {
    /// In `struct __sk_buff`, which has fewer words than `context`.
    const MARK: usize = 2;
    let mut output = vec![0; frame.len() + OUTPUT_ROOM];
    let mut context = [0u32; 64];
    let mut options = options(frame);
    options.repeat = 1;
    options.data_out = output.as_mut_ptr().cast();
    options.data_size_out = output.len() as u32;
    options.ctx_out = context.as_mut_ptr().cast();
    options.ctx_size_out = size_of_val(&context) as u32;
    test_run(program, &mut options)?;
    output.truncate(options.data_size_out as usize);
    Ok(BufferResult { action: options.retval as i32, output, mark: context[MARK] })
}

/// Runs an XDP program `repeat` times on copies of `frame` and lets the kernel act on its answers: `XDP_TX` and redirects
/// send. Blocks until done; batches of `batch` frames (64 if zero, at most 256).
///
/// # Errors
/// The kernel refuses the frame or the program.
pub fn run_live(program: BorrowedFd<'_>, frame: &[u8], repeat: u32, batch: u32) -> io::Result<()> {
    let mut options = options(frame);
    options.repeat = i32::try_from(repeat).unwrap_or(i32::MAX);
    options.flags = BPF_F_TEST_XDP_LIVE_FRAMES;
    options.batch_size = batch;
    test_run(program, &mut options)
}

fn options(frame: &[u8]) -> libbpf_sys::bpf_test_run_opts {
    libbpf_sys::bpf_test_run_opts {
        sz: size_of::<libbpf_sys::bpf_test_run_opts>() as libbpf_sys::size_t,
        data_in: frame.as_ptr().cast(),
        data_size_in: frame.len() as u32,
        ..Default::default()
    }
}

fn test_run(program: BorrowedFd<'_>, options: &mut libbpf_sys::bpf_test_run_opts) -> io::Result<()> {
    // SAFETY: the callers set the data pointers to buffers of the stated sizes that outlive the call.
    let result = unsafe { libbpf_sys::bpf_prog_test_run_opts(program.as_raw_fd(), options) };
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) }
}

/// Which flows a [`Generator`] sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flows {
    pub count: u32,
    /// From one flow to the next; coprime to `count` it visits all of them, in another order when it is not 1.
    pub stride: u32,
    pub base_address: Ipv4Addr,
    /// Source ports per address, from `first_port`.
    pub ports: u16,
    pub first_port: u16,
}

/// Bytes of a frame that are written anew each time it is sent.
const HEADERS: usize = 56;

/// As `struct generator` in `gen.bpf.c`.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Config {
    ifindex: u32,
    flows: u32,
    stride: u32,
    base_address: u32,
    ports: u32,
    first_port: u32,
    headers: [u8; HEADERS],
}

/// Sends frames out of an interface with the source address and port of flow after flow.
///
/// The device's peer must take native XDP frames: on veth, that it has an XDP program or GRO on.
#[derive(Debug)]
pub struct Generator {
    object: Object,
    frame: Vec<u8>,
}

impl Generator {
    /// `frame`: Ethernet, IPv4 without options, TCP or UDP, 60 bytes at least; the source address and port are written over.
    ///
    /// # Errors
    /// The kernel refuses the program, or the frame is too short.
    pub fn new(ifindex: u32, flows: Flows, frame: &[u8]) -> Result<Self, BpfError> {
        let headers = frame.first_chunk().ok_or(BpfError::System {
            step: "generate frames that are shorter than Ethernet allows",
            source: io::ErrorKind::InvalidInput.into(),
        })?;
        let config = Config {
            ifindex,
            flows: flows.count.max(1),
            stride: flows.stride % flows.count.max(1),
            base_address: flows.base_address.into(),
            ports: u32::from(flows.ports.max(1)),
            first_port: u32::from(flows.first_port),
            headers: *headers,
        };
        let object = load(GENERATOR, elf!("gen"), Some(config.as_bytes()))?;
        Ok(Self { object, frame: frame.to_vec() })
    }

    /// Sends `frames` frames from the CPU of the calling thread, and returns when they have been handed to the device.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn send(&self, frames: u32) -> Result<(), BpfError> {
        let program = program_fd(&self.object, GENERATOR, "penstock_generate")?;
        run_live(program, &self.frame, frames, 64)
            .map_err(|source| BpfError::System { step: "send live frames", source })
    }

    /// The frame of the next flow, as it would be sent, and the program's answer.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn preview(&self) -> Result<RunResult, BpfError> {
        let program = program_fd(&self.object, GENERATOR, "penstock_generate")?;
        run_once(program, &self.frame).map_err(|source| BpfError::System { step: "preview a frame", source })
    }
}
