use crate::control::Steer;
use crate::error::Error;
use penstock_bpf::Steering;
use penstock_netlink::Link;
use penstock_packet_io::{AfXdp, PacketIo};
use std::net::IpAddr;

/// The steering program on each interface, by port. When it is dropped the programs leave the interfaces.
#[derive(Default)]
pub(crate) struct XdpSteering {
    programs: Vec<Steering>,
}

impl XdpSteering {
    /// Attaches the program to the next interface.
    pub(crate) fn attach(&mut self, link: &Link) -> Result<(), String> {
        let program = Steering::attach(link.index).map_err(|e| e.to_string())?;
        self.programs.push(program);
        Ok(())
    }

    /// Hands what arrives on a queue of a port's interface to its socket.
    pub(crate) fn serve(&mut self, port: usize, queue: u32, io: &AfXdp) -> Result<(), String> {
        let program = self.programs.get(port).ok_or("the interface has no steering program")?;
        program.register_socket(queue, io.fd()).map_err(|e| e.to_string())
    }
}

impl Steer for XdpSteering {
    fn set_vips(&mut self, vips: &[IpAddr]) -> Result<(), Error> {
        for program in &mut self.programs {
            program.set_vips(vips.iter().copied()).map_err(|e| Error::Steering(e.to_string()))?;
        }
        Ok(())
    }
}
