//! The second chance: a packet that belongs to a flow, but to none that this host knows, is passed to whom the mux has named.
//! While slots change hands a mux that did not see a connection open cannot tell whose it is; the containers' hosts can.

use crate::classify::is_geneve;
use crate::snat::Claim;
use penstock_engine::EncapTemplate;
use penstock_model::BATCH;
use penstock_wire::geneve::{NextOwners, next_owners};

/// What a packet says about other owners of its flow, and what a decision leaves to the worker.
#[derive(Debug, Default)]
pub(crate) struct Chance {
    /// Who is to be asked, this host's own containers that were asked included.
    pub(crate) next: NextOwners,
    /// It was passed to another container.
    pub(crate) is_passed: bool,
    /// The encapsulation that names those who are left, if any are.
    pub(crate) onward: Option<EncapTemplate>,
    /// The flow is to get a leased port.
    pub(crate) claim: Option<Claim>,
}

impl Chance {
    /// `frame` as it came from the underlay.
    pub(crate) fn of(frame: &[u8]) -> Self {
        let next = match penstock_wire::parse(frame) {
            Ok(outer) if is_geneve(&outer) => next_owners(frame, &outer),
            _ => NextOwners::default(),
        };
        Self { next, ..Self::default() }
    }
}

/// Encapsulations that hold for the packets of one batch. Each packet that is passed on names others, so these are made for it
/// and not kept in the policy.
#[derive(Debug)]
pub(crate) struct Onward {
    templates: Vec<Option<EncapTemplate>>,
    newest: usize,
}

impl Onward {
    /// Above every [`penstock_model::EncapId`] of a policy.
    const FIRST: u32 = 1 << 31;

    pub(crate) fn new() -> Self {
        Self { templates: vec![None; BATCH], newest: 0 }
    }

    /// The id by which the template is found until as many others have come as a batch has packets.
    pub(crate) fn keep(&mut self, template: EncapTemplate) -> u32 {
        self.newest = (self.newest + 1) % BATCH;
        if let Some(place) = self.templates.get_mut(self.newest) {
            *place = Some(template);
        }
        Self::FIRST + self.newest as u32
    }

    pub(crate) fn get(&self, id: u32) -> Option<&EncapTemplate> {
        self.templates.get(id.checked_sub(Self::FIRST)? as usize)?.as_ref()
    }
}
