use crate::port::{Job, replay, takes_turn};
use crate::{Class, Port, Resolver};
use penstock_flow::{Flags, Transposition};
use penstock_model::{Gso, HEADROOM, Nanos, Packet, Verdict};
use penstock_wire::{Headers, gso};

impl<R: Resolver> Port<R> {
    /// [`Port::process`] for one packet that may be a super-frame (`offload.gso`): TCP that its sender left for an interface to
    /// cut.
    ///
    /// If it goes on as it is (to a local port, plain to the underlay), it stays whole and the verdict says where to; the
    /// driver of that port cuts it if it must. If it is to be encapsulated or tunnelled, no driver could cut it afterwards: it
    /// is cut here, each segment is decided by the one decision, finished, and handed to `emit` with its verdict; the whole
    /// frame's verdict is then `Consumed`. The ledger counts the segments, not the whole. `scratch` holds one segment with
    /// headroom before it (2 KiB do for an MTU of 1,500).
    ///
    /// To keep the order within flows, send what was processed before, first.
    pub fn process_super(
        &mut self,
        packet: &mut Packet<'_>,
        scratch: &mut [u8],
        now: Nanos,
        emit: &mut dyn FnMut(&mut Packet<'_>),
    ) {
        if packet.offload.gso == Gso::None {
            return self.process(std::slice::from_mut(packet), now);
        }
        self.resolver.refresh(now);
        let mut job = Job::new();
        self.parse(packet, &mut job);
        self.classify(packet, &mut job);
        let h = &job.headers;
        let decision = match job.class {
            Class::Flow { key, hash, epoch } => {
                let value = self.decide_flow(packet, h, &key, hash, epoch, now, now.coarse());
                if let Ok(value) = &value
                    && self.resolver.settles()
                    && !takes_turn::<R>(h)
                    && self.flows.is_established(&key, hash, now.coarse())
                {
                    self.settle(packet, h, &key, hash, value);
                }
                value.map(|v| (*self.resolver.transposition(&v), hash)).map_err(Verdict::Drop)
            }
            Class::Direct { token, hash } => {
                self.resolver.direct(token, hash, h).map(|t| (*t, hash)).map_err(Verdict::Drop)
            }
            Class::Local => Err(self.resolver.local(packet, h, now)),
            Class::Pass => Err(Verdict::Pass),
            Class::Drop(reason) => Err(Verdict::Drop(reason)),
        };
        let verdict = match decision {
            Ok((t, hash)) if t.flags.has(Flags::ENCAP | Flags::TUNNEL) && !t.flags.has(Flags::DROP) => {
                return self.cut(job.class.key(), &t, hash, packet, h, scratch, now, emit);
            }
            Ok((t, hash)) => {
                self.stats.receive(packet.len());
                replay(&self.resolver, &mut self.stats, job.class.key(), &t, packet, &mut { *h }, hash, now)
            }
            Err(verdict) => {
                self.stats.receive(packet.len());
                verdict
            }
        };
        packet.verdict = self.stats.enter(verdict, packet.len());
    }

    #[allow(clippy::too_many_arguments, reason = "what is known of a packet by then")]
    fn cut(
        &mut self,
        key: Option<&R::Key>,
        t: &Transposition,
        hash: u64,
        packet: &mut Packet<'_>,
        h: &Headers,
        scratch: &mut [u8],
        now: Nanos,
        emit: &mut dyn FnMut(&mut Packet<'_>),
    ) {
        // The segments begin at the inner frame: what a decapsulation takes off is gone already.
        let mut t = *t;
        t.flags.0 &= !Flags::DECAP;
        let mut own = *h;
        (own.l2, own.l3, own.l4, own.payload) = (0, h.l3 - h.l2, h.l4 - h.l2, h.payload - h.l2);
        let (resolver, stats, port) = (&self.resolver, &mut self.stats, packet.port);
        let size = usize::from(packet.offload.gso_size);
        let result = gso::segment(packet.frame(), h, size, scratch, HEADROOM, |buffer, len| {
            let Some(mut segment) = Packet::new(buffer, HEADROOM, len, port) else { return };
            own.end = len as u32;
            stats.receive(len);
            let verdict = replay(resolver, stats, key, &t, &mut segment, &mut { own }, hash, now);
            segment.verdict = stats.enter(verdict, segment.len());
            emit(&mut segment);
        });
        packet.verdict = match result {
            Ok(_) => Verdict::Consumed,
            Err(reason) => {
                self.stats.receive(packet.len());
                self.stats.enter(Verdict::Drop(reason), packet.len())
            }
        };
    }
}
