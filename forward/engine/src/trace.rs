use crate::port::replay;
use crate::stats::Stats;
use crate::tcp::Turn;
use crate::{Class, Ending, Explanation, Port, Prior, Resolution, Resolver, Step, Why};
use penstock_model::{DropReason, Epoch, HEADROOM, Nanos, Packet, PortId, Verdict};
use penstock_wire::Headers;

/// Longest frame that is explained: an IP packet of 65,535 bytes and its Ethernet header.
const MAX_FRAME: usize = 65_535 + 18;

impl<R: Resolver> Port<R> {
    /// What would become of `frame` if it came in by `port` now, and why. Runs the code that [`Port::process`] runs, and
    /// leaves no trace in flows, meters, counters or the ledger.
    pub fn explain(&mut self, frame: &[u8], port: PortId, now: Nanos) -> Explanation {
        let mut steps = Vec::new();
        if frame.len() > MAX_FRAME {
            return Explanation { steps, ending: Ending::Drop(DropReason::TooLarge), frame: Vec::new() };
        }
        let mut buffer = vec![0; HEADROOM + frame.len()];
        buffer[HEADROOM..].copy_from_slice(frame);
        let Some(mut packet) = Packet::new(&mut buffer, HEADROOM, frame.len(), port) else {
            return Explanation { steps, ending: Ending::Drop(DropReason::TooLarge), frame: Vec::new() };
        };
        self.resolver.refresh(now);
        let ending = match self.explain_packet(&mut packet, now, &mut steps) {
            Verdict::Transmit(port) => Ending::Transmit(port),
            Verdict::Tunnel(tunnel) => Ending::Tunnel(tunnel),
            Verdict::Pass => Ending::Pass,
            Verdict::Consumed => Ending::Consumed,
            Verdict::Drop(reason) => Ending::Drop(reason),
            Verdict::Pending => Ending::Drop(DropReason::Unsupported),
        };
        if let Ending::Drop(reason) = ending {
            steps.because("drop", || reason.sentence().to_owned());
        }
        Explanation { steps, ending, frame: packet.frame().to_vec() }
    }

    fn explain_packet(&mut self, packet: &mut Packet<'_>, now: Nanos, why: &mut Vec<Step>) -> Verdict {
        let mut h = match penstock_wire::parse(packet.frame()) {
            Ok(h) => h,
            Err(reason) => return Verdict::Drop(reason),
        };
        match self.resolver.explain_classify(packet, &mut h, why) {
            Class::Flow { key, hash, epoch } => self.explain_flow(packet, &h, &key, hash, epoch, now, why),
            Class::Direct { token, hash } => match self.resolver.explain_direct(token, hash, &h, why) {
                Ok(t) => replay(&self.resolver, &mut Stats::default(), None, t, packet, &mut h, hash, now),
                Err(reason) => Verdict::Drop(reason),
            },
            Class::Local => {
                why.because("local", || "the packet is for this node itself".to_owned());
                Verdict::Consumed
            }
            Class::Pass => {
                why.because("local", || "the packet is for the kernel's own stack".to_owned());
                Verdict::Pass
            }
            Class::Drop(reason) => Verdict::Drop(reason),
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn explain_flow(
        &mut self,
        packet: &mut Packet<'_>,
        h: &Headers,
        key: &R::Key,
        hash: u64,
        epoch: Epoch,
        now: Nanos,
        why: &mut Vec<Step>,
    ) -> Verdict {
        let hit = self.flows.peek(key, hash, now.coarse());
        let begins = hit.is_some_and(|hit| self.begins(h, &hit.value));
        if let Some(hit) = hit.filter(|hit| hit.is_of(epoch) && !begins) {
            why.because("flow", || format!("an entry decides: {key:?}"));
            let t = *self.resolver.transposition(&hit.value);
            return replay(&self.resolver, &mut Stats::default(), Some(key), &t, packet, &mut { *h }, hash, now);
        }
        let hit = hit.filter(|hit| !begins || !hit.is_new && !self.is_closing(key, hash));
        why.because("flow", || {
            match (begins, hit) {
                (true, Some(_)) => "a SYN for a connection that is under way is decided again",
                (true, None) => "a SYN begins the connection anew: what was known of it does not count",
                (false, Some(_)) => "the entry is of an older policy and is decided again",
                (false, None) => "no entry: this is decided as the first packet of a flow",
            }
            .to_owned()
        });
        let prior = hit.map(|hit| *self.resolver.transposition(&hit.value));
        let prior = prior.as_ref().map(|transposition| Prior { transposition });
        match self.resolver.explain_resolve(key, hash, packet, h, prior, now, why) {
            Resolution::Drop(reason) => Verdict::Drop(reason),
            Resolution::Claim { none, .. } => match self.claim(key, now.coarse()) {
                Some((value, _)) => {
                    let t = *self.resolver.transposition(&value);
                    replay(&self.resolver, &mut Stats::default(), Some(key), &t, packet, &mut { *h }, hash, now)
                }
                None => Verdict::Drop(none),
            },
            Resolution::Instead(other) => {
                let hash = self.resolver.hash(&other);
                self.explain_flow(packet, h, &other, hash, epoch, now, why)
            }
            Resolution::Once(value) | Resolution::Install { value, .. } => {
                let t = *self.resolver.transposition(&value);
                replay(&self.resolver, &mut Stats::default(), Some(key), &t, packet, &mut { *h }, hash, now)
            }
        }
    }

    /// Whether the packet is decided by the resolver although the flow of this `value` is known. See `Port::decide_flow`.
    fn begins(&self, h: &Headers, value: &R::Value) -> bool {
        R::TCP.is_some() && Turn::of(h) == Some(Turn::Opens) && self.is_forward(value)
    }
}
