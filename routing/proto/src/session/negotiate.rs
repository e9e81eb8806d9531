//! What is offered in the OPEN, and what comes of both.
use super::{Remote, Session};
use crate::prefix::Family;
use crate::wire::attributes::Dialect;
use crate::wire::message::{self, MessageType};
use crate::wire::open::{AddPath, Capabilities, GracefulRestart, Open};
use crate::wire::update::Agreed;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

impl Session {
    fn own_open(&self) -> Open {
        let c = &self.config;
        let add_path = if c.add_path == AddPath::default() {
            BTreeMap::new()
        } else {
            c.families.iter().map(|f| (*f, c.add_path)).collect()
        };
        // Without families: routes of a peer that restarts are kept, own forwarding does not outlive this process.
        let restart = GracefulRestart { notification: true, ..GracefulRestart::default() };
        Open {
            asn: c.local_as,
            hold_seconds: c.hold_seconds,
            id: c.local_id,
            capabilities: Capabilities {
                families: c.families.clone(),
                four_byte_as: true,
                route_refresh: true,
                extended_next_hop: true,
                graceful_restart: c.restart_seconds.map(|_| restart),
                add_path,
            },
        }
    }

    /// The message that this side says first.
    #[must_use]
    pub fn sent_open(&self) -> Vec<u8> {
        message::open(&self.own_open())
    }

    /// `body`: of the message that `open` was read from.
    pub(super) fn negotiate(&self, open: &Open, body: &[u8]) -> Remote {
        let (c, theirs) = (&self.config, &open.capabilities);
        let families: BTreeSet<Family> = c.families.intersection(&theirs.families).copied().collect();
        let with_paths = |ours: bool, can: fn(&AddPath) -> bool| {
            let can = |f: &&Family| ours && theirs.add_path.get(f).is_some_and(can);
            families.iter().filter(can).copied().collect::<BTreeSet<_>>()
        };
        let agreed = Agreed {
            dialect: Dialect { four_byte_as: theirs.four_byte_as, external: open.asn != c.local_as },
            extended_next_hop: theirs.extended_next_hop,
            paths_received: with_paths(c.add_path.receive, |a| a.send),
            paths_sent: with_paths(c.add_path.send, |a| a.receive),
            families,
        };
        Remote {
            open: message::encode(MessageType::Open, |out| out.extend_from_slice(body)).into(),
            id: open.id,
            agreed,
            refresh: theirs.route_refresh,
            hold: Duration::from_secs(u64::from(open.hold_seconds.min(c.hold_seconds))),
            restart: theirs.graceful_restart.clone().filter(|_| c.restart_seconds.is_some()),
        }
    }

    /// How long a peer's routes outlive the session: its own word, within what is configured.
    pub(super) fn restart_time(&self, remote: &Remote) -> Option<Duration> {
        let restart = remote.restart.as_ref().filter(|r| !r.families.is_empty())?;
        let seconds = restart.seconds.min(self.config.restart_seconds?);
        (seconds > 0).then(|| Duration::from_secs(u64::from(seconds)))
    }
}
