//! Captures on disk: pcapng (draft-ietf-opsawg-pcapng) written, pcapng and classic pcap read.
use crate::event::Event;
use crate::io::{Capabilities, IoStats, PacketIo, SendError};
use crate::memory::deliver;
use arrayvec::ArrayVec;
use penstock_model::{BATCH, Offload, Packet, PortId};
use std::io::{self, Read, Write};
use std::os::fd::RawFd;
use std::time::Duration;

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;
const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
const CLASSIC_MICROS: u32 = 0xa1b2_c3d4;
const CLASSIC_NANOS: u32 = 0xa1b2_3c4d;
const LINKTYPE_ETHERNET: u16 = 1;
const OPTION_IF_TSRESOL: u16 = 9;
const OPTION_EPB_FLAGS: u16 = 2;
/// A block longer than this is not believed.
const LONGEST_BLOCK: u32 = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum PcapError {
    #[error("the capture cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("the capture is malformed: {0}")]
    Malformed(&'static str),
    #[error("the capture's link type {0} is not Ethernet")]
    LinkType(u16),
}

/// Whether a captured frame came in or went out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    In,
    Out,
}

/// Writes a pcapng file with one Ethernet interface and nanosecond time stamps.
#[derive(Debug)]
pub struct PcapWriter<W> {
    out: W,
    block: Vec<u8>,
}

impl<W: Write> PcapWriter<W> {
    /// # Errors
    /// The header cannot be written.
    pub fn new(out: W) -> io::Result<Self> {
        let mut writer = Self { out, block: Vec::with_capacity(2048) };
        writer.block(SECTION_HEADER, |b| {
            b.extend(BYTE_ORDER_MAGIC.to_le_bytes());
            b.extend([1, 0, 0, 0]);
            // Length of the section: not stated.
            b.extend([0xff; 8]);
        })?;
        writer.block(INTERFACE_DESCRIPTION, |b| {
            b.extend(LINKTYPE_ETHERNET.to_le_bytes());
            // Reserved; snapshot length without limit.
            b.extend([0; 6]);
            // Resolution 10^-9; end of options.
            b.extend(OPTION_IF_TSRESOL.to_le_bytes());
            b.extend([1, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
        })?;
        Ok(writer)
    }

    /// # Errors
    /// The frame cannot be written.
    pub fn write(&mut self, since_1970: Duration, direction: Direction, frame: &[u8]) -> io::Result<()> {
        let nanos = u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX);
        let len = u32::try_from(frame.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        self.block(ENHANCED_PACKET, |b| {
            b.extend([0; 4]);
            b.extend(((nanos >> 32) as u32).to_le_bytes());
            b.extend((nanos as u32).to_le_bytes());
            b.extend(len.to_le_bytes());
            b.extend(len.to_le_bytes());
            b.extend(frame);
            b.resize(b.len().next_multiple_of(4), 0);
            b.extend(OPTION_EPB_FLAGS.to_le_bytes());
            b.extend([4, 0, if direction == Direction::In { 1 } else { 2 }, 0, 0, 0, 0, 0, 0, 0]);
        })
    }

    /// # Errors
    /// The file cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Type, length, body, length.
    fn block(&mut self, kind: u32, body: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        self.block.clear();
        self.block.extend(kind.to_le_bytes());
        self.block.extend([0; 4]);
        body(&mut self.block);
        let total = ((self.block.len() + 4) as u32).to_le_bytes();
        self.block.extend(total);
        if let Some(place) = self.block.get_mut(4..8) {
            place.copy_from_slice(&total);
        }
        self.out.write_all(&self.block)
    }
}

#[derive(Debug, Clone, Copy)]
enum Format {
    Pcapng,
    Classic,
}

/// Reads the frames of a capture one by one.
#[derive(Debug)]
pub struct PcapReader<R> {
    input: R,
    format: Format,
    big_endian: bool,
}

impl<R: Read> PcapReader<R> {
    /// # Errors
    /// It is no capture of Ethernet frames.
    pub fn new(mut input: R) -> Result<Self, PcapError> {
        let magic = u32::from_le_bytes(read_array(&mut input)?);
        let is = |wanted: u32| magic == wanted || magic == wanted.swap_bytes();
        if magic == SECTION_HEADER {
            let mut reader = Self { input, format: Format::Pcapng, big_endian: false };
            reader.section()?;
            return Ok(reader);
        }
        if !is(CLASSIC_MICROS) && !is(CLASSIC_NANOS) {
            return Err(PcapError::Malformed("neither pcapng nor pcap"));
        }
        let big_endian = magic != CLASSIC_MICROS && magic != CLASSIC_NANOS;
        let mut reader = Self { input, format: Format::Classic, big_endian };
        let _version_zone_accuracy_snapshot: [u8; 16] = read_array(&mut reader.input)?;
        let link_type = reader.u32()?;
        ethernet(link_type as u16)?;
        Ok(reader)
    }

    /// The next frame; `None` at the end.
    ///
    /// # Errors
    /// The capture is cut off or malformed.
    pub fn next_frame(&mut self) -> Result<Option<Vec<u8>>, PcapError> {
        match self.format {
            Format::Classic => self.next_classic(),
            Format::Pcapng => self.next_pcapng(),
        }
    }

    fn next_classic(&mut self) -> Result<Option<Vec<u8>>, PcapError> {
        let Some(_seconds) = self.first_word()? else { return Ok(None) };
        self.u32()?;
        let captured = self.u32()?;
        self.u32()?;
        self.bytes(captured).map(Some)
    }

    fn next_pcapng(&mut self) -> Result<Option<Vec<u8>>, PcapError> {
        loop {
            let Some(kind) = self.first_word()? else { return Ok(None) };
            if kind == SECTION_HEADER {
                self.section()?;
                continue;
            }
            let total = self.u32()?;
            let body =
                self.bytes(total.checked_sub(12).ok_or(PcapError::Malformed("a block without room for itself"))?)?;
            if self.u32()? != total {
                return Err(PcapError::Malformed("the two lengths of a block differ"));
            }
            let word = |at: usize| body.get(at..at + 4).and_then(|b| b.try_into().ok()).map(|b| self.order(b));
            let frame = match kind {
                INTERFACE_DESCRIPTION => {
                    let link_type = word(0).ok_or(PcapError::Malformed("a short interface description"))?;
                    ethernet(if self.big_endian { (link_type >> 16) as u16 } else { link_type as u16 })?;
                    continue;
                }
                ENHANCED_PACKET => word(12).and_then(|n| body.get(20..20 + n as usize)),
                SIMPLE_PACKET => word(0).and_then(|n| body.get(4..4 + (n as usize).min(body.len().saturating_sub(4)))),
                _ => continue,
            };
            return frame.map(|f| Some(f.to_vec())).ok_or(PcapError::Malformed("a packet longer than its block"));
        }
    }

    /// The rest of a section header, behind its type.
    fn section(&mut self) -> Result<(), PcapError> {
        let total: [u8; 4] = read_array(&mut self.input)?;
        self.big_endian = match u32::from_le_bytes(read_array(&mut self.input)?) {
            BYTE_ORDER_MAGIC => false,
            m if m == BYTE_ORDER_MAGIC.swap_bytes() => true,
            _ => return Err(PcapError::Malformed("the byte order of a section is unknown")),
        };
        let rest = self.order(total).checked_sub(12).ok_or(PcapError::Malformed("a short section header"))?;
        self.bytes(rest).map(drop)
    }

    fn order(&self, bytes: [u8; 4]) -> u32 {
        if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
    }

    fn u32(&mut self) -> Result<u32, PcapError> {
        read_array(&mut self.input).map(|b| self.order(b))
    }

    /// A word, or `None` where the file ends before it.
    fn first_word(&mut self) -> Result<Option<u32>, PcapError> {
        let mut first = [0];
        if self.input.read(&mut first)? == 0 {
            return Ok(None);
        }
        let [b, c, d] = read_array(&mut self.input)?;
        let [a] = first;
        Ok(Some(self.order([a, b, c, d])))
    }

    fn bytes(&mut self, len: u32) -> Result<Vec<u8>, PcapError> {
        if len > LONGEST_BLOCK {
            return Err(PcapError::Malformed("a block longer than 1 MiB"));
        }
        let mut bytes = vec![0; len as usize];
        self.input.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

fn read_array<const N: usize>(input: &mut impl Read) -> Result<[u8; N], PcapError> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn ethernet(link_type: u16) -> Result<(), PcapError> {
    if link_type == LINKTYPE_ETHERNET { Ok(()) } else { Err(PcapError::LinkType(link_type)) }
}

/// A port that receives the frames of a capture, as fast as it is polled, and writes what is sent into another.
#[derive(Debug)]
pub struct PcapFile<R, W> {
    id: PortId,
    capabilities: Capabilities,
    input: PcapReader<R>,
    output: PcapWriter<W>,
    stats: IoStats,
    /// Raised until the input ends.
    more: Event,
    ended: bool,
}

impl<R: Read + Send, W: Write + Send> PcapFile<R, W> {
    /// # Errors
    /// The input is no capture, or the output cannot be written.
    pub fn new(id: PortId, input: R, output: W) -> Result<Self, PcapError> {
        let more = Event::new()?;
        more.raise();
        let capabilities = Capabilities { mode: "pcap", max_frame: 65_536, gso: false, partial_checksum: false };
        let (input, output) = (PcapReader::new(input)?, PcapWriter::new(output)?);
        Ok(Self { id, capabilities, input, output, stats: IoStats::default(), more, ended: false })
    }

    /// Whether every frame of the input has been received.
    pub fn ended(&self) -> bool {
        self.ended
    }
}

fn put<W: Write>(output: &mut PcapWriter<W>, stats: &mut IoStats, frame: &[u8]) -> Result<(), SendError> {
    // Numbered instead of timed: the order is what counts, and the result is the same each time.
    match output.write(Duration::from_nanos(stats.transmitted), Direction::Out, frame) {
        Ok(()) => {
            stats.transmitted += 1;
            stats.transmitted_bytes += frame.len() as u64;
            Ok(())
        }
        Err(_) => {
            stats.transmit_failed += 1;
            Err(SendError::Refused)
        }
    }
}

impl<R: Read + Send, W: Write + Send> PacketIo for PcapFile<R, W> {
    fn id(&self) -> PortId {
        self.id
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn poll(&mut self, handler: &mut dyn FnMut(&mut [Packet<'_>])) -> io::Result<usize> {
        let mut frames = ArrayVec::<(Vec<u8>, Offload), BATCH>::new();
        while !frames.is_full() && !self.ended {
            match self.input.next_frame().map_err(io::Error::other)? {
                Some(frame) => frames.push((frame, Offload::default())),
                None => {
                    self.ended = true;
                    self.more.lower();
                }
            }
        }
        self.stats.received += frames.len() as u64;
        self.stats.received_bytes += frames.iter().map(|(f, _)| f.len() as u64).sum::<u64>();
        let Self { id, output, stats, .. } = self;
        deliver(*id, &frames, handler, |frame, _| {
            let _ = put(output, stats, frame);
        });
        Ok(frames.len())
    }

    fn send(&mut self, frame: &[u8], offload: Offload) -> Result<(), SendError> {
        if offload.partial_checksum || offload.gso != penstock_model::Gso::None {
            return Err(SendError::Offload);
        }
        put(&mut self.output, &mut self.stats, frame)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }

    fn fd(&self) -> RawFd {
        self.more.fd()
    }

    fn stats(&self) -> IoStats {
        self.stats
    }
}
