//! Which connection stays where there could be two.
use super::{AUDIENCE, Ending, PATIENCE, Phase, Session, SessionState, Way};
use crate::wire::notification::{Notification, cease, code};
use crate::wire::open::Open;
use penstock_model::Nanos;

impl Session {
    /// Whether a connection that is there would be taken. If so, an earlier one of the same way is over, for the shell to close
    /// first: the peer has lost it. Its routes stay if they may.
    pub fn make_room(&mut self, way: Way, now: Nanos) -> bool {
        let welcome = self.welcomes(way, now);
        if welcome {
            self.end(way, Ending::Closed, "the peer connected anew", true, now);
        }
        welcome
    }

    pub(super) fn welcomes(&self, way: Way, now: Nanos) -> bool {
        let calm = match self.phase {
            Phase::Stopped => false,
            Phase::Holding { .. } => self.failures < PATIENCE || now.since(self.heard_at) >= AUDIENCE,
            _ => true,
        };
        // An established session is given up for a new one only where routes outlive it (RFC 4724, 4.2).
        let established = self.established().is_some_and(|(w, _)| w == way);
        calm && (!established || self.remote().is_some_and(|r| r.restart.is_some()))
    }

    /// RFC 4271, 6.8: of two connections, the one that the speaker with the higher identifier opened stays (RFC 6286: of
    /// equal identifiers, the one with the higher AS). Decided as soon as the identifier is known, so that neither of them is
    /// established before the other's OPEN has come.
    pub(super) fn survives_collision(&mut self, way: Way, open: &Open, now: Nanos) -> bool {
        let other = way.other();
        let Some(Some(c)) = self.connections.get(other as usize) else { return true };
        let keep_this = match c.state {
            SessionState::Established => {
                let outlived = c.remote.as_ref().is_some_and(|r| r.restart.is_some());
                if outlived {
                    self.end(other, Ending::Closed, "the peer connected anew", true, now);
                }
                return outlived;
            }
            _ => {
                let ours_higher = (self.config.local_id, self.config.local_as) > (open.id, open.asn);
                ours_higher == (way == Way::Active)
            }
        };
        if keep_this {
            let collision = Notification::new(code::CEASE, cease::COLLISION);
            self.end(other, Ending::Sent(collision), "connection collision", false, now);
        }
        keep_this
    }
}
