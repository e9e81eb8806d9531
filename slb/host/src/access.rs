use penstock_engine::Why;
use penstock_model::FlowKey;
use penstock_policy::{Acl, AclAction, AclDirection, AclRule};

/// One access control list as the host applies it.
#[derive(Debug, Clone)]
pub(crate) struct AccessList {
    acl: Acl,
}

/// May the flow `key` be opened?
#[derive(Debug, Clone, Copy)]
pub(crate) struct Question<'a> {
    pub(crate) direction: AclDirection,
    pub(crate) key: &'a FlowKey,
    /// Whether the other end is in the virtual network.
    pub(crate) peer_is_inside: bool,
}

impl AccessList {
    pub(crate) fn compile(acl: &Acl) -> Result<Self, String> {
        let mut acl = acl.clone();
        acl.rules.sort_by_key(|r| r.priority);
        Ok(Self { acl })
    }

    pub(crate) fn permits(&self, q: &Question<'_>, why: &mut impl Why) -> bool {
        let name = &self.acl.name;
        if let Some(rule) = self.acl.rules.iter().find(|r| matches(r, q)) {
            why.because("acl", || format!("\"{name}\": rule \"{}\" says {:?}", rule.name, rule.action));
            return rule.action == AclAction::Allow;
        }
        let permitted = self.acl.rules.is_empty() || q.direction == AclDirection::Outbound || q.peer_is_inside;
        why.because("acl", || format!("\"{name}\": no rule matches; {}", if permitted { "allowed" } else { "denied" }));
        permitted
    }
}

fn matches(r: &AclRule, q: &Question<'_>) -> bool {
    let (src, dst) = (q.key.src.to_ip(), q.key.dst.to_ip());
    r.direction == q.direction
        && r.protocol.is_none_or(|p| p == q.key.protocol())
        && (r.src.is_empty() || r.src.iter().any(|n| n.contains(src)))
        && (r.dst.is_empty() || r.dst.iter().any(|n| n.contains(dst)))
        && r.src_ports.contains(q.key.src_port)
        && r.dst_ports.contains(q.key.dst_port)
}
