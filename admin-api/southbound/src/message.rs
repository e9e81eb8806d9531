use crate::source::Lead;
use penstock_gateway_proto::{GatewayGoal, GatewayStatus};
use penstock_model::Revision;
use penstock_mux_proto::{MuxGoal, MuxStatus};
use penstock_slb_host::{HostGoal, HostStatus};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What kind of node forwards packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeRole {
    Mux,
    Host,
    Gateway,
}

impl NodeRole {
    pub const ALL: [NodeRole; 3] = [NodeRole::Mux, NodeRole::Host, NodeRole::Gateway];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mux => "mux",
            Self::Host => "host",
            Self::Gateway => "gateway",
        }
    }
}

impl fmt::Display for NodeRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that names no node role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no node role: mux, host or gateway")]
pub struct NodeRoleError(pub String);

impl FromStr for NodeRole {
    type Err = NodeRoleError;
    fn from_str(s: &str) -> Result<Self, NodeRoleError> {
        Self::ALL.into_iter().find(|r| r.name() == s).ok_or_else(|| NodeRoleError(s.to_owned()))
    }
}

/// Everything that one node in one role should be doing: whole, with its revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeGoal {
    Mux(MuxGoal),
    Host(HostGoal),
    Gateway(GatewayGoal),
}

impl NodeGoal {
    #[must_use]
    pub const fn revision(&self) -> Revision {
        match self {
            Self::Mux(g) => g.revision,
            Self::Host(g) => g.revision,
            Self::Gateway(g) => g.revision,
        }
    }

    #[must_use]
    pub const fn role(&self) -> NodeRole {
        match self {
            Self::Mux(_) => NodeRole::Mux,
            Self::Host(_) => NodeRole::Host,
            Self::Gateway(_) => NodeRole::Gateway,
        }
    }
}

/// What a node tells the controller of itself in one role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeReport {
    Mux(MuxStatus),
    Host(HostStatus),
    Gateway(GatewayStatus),
}

impl NodeReport {
    /// The revision that the node's data plane forwards by.
    #[must_use]
    pub const fn revision(&self) -> Revision {
        match self {
            Self::Mux(s) => s.applied,
            Self::Host(s) => s.applied,
            Self::Gateway(s) => s.applied,
        }
    }

    #[must_use]
    pub const fn role(&self) -> NodeRole {
        match self {
            Self::Mux(_) => NodeRole::Mux,
            Self::Host(_) => NodeRole::Host,
            Self::Gateway(_) => NodeRole::Gateway,
        }
    }
}

/// From the node, on the stream that it opened for one role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(clippy::large_enum_variant, reason = "one exists at a time, about once a second, and almost all are reports")]
pub enum ToController {
    /// First on the stream. The role must be one that the node's certificate grants.
    Hello {
        role: NodeRole,
    },
    Report(NodeReport),
}

/// From the controller, on the same stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ToNode {
    /// First on the stream: who gives the goals.
    Welcome(Lead),
    /// The whole goal; replaces what came before.
    Goal(NodeGoal),
}

impl ToNode {
    /// How the variant is called in JSON.
    pub(crate) const GOAL: &str = "goal";
}

/// What ties the goal and the status of one role together.
pub trait Role: Send + Sync + 'static {
    type Goal: fmt::Debug + Clone + PartialEq + Send + Sync + 'static;
    type Status: fmt::Debug + Clone + PartialEq + Send + Sync + 'static;
    const ROLE: NodeRole;

    /// The goal, if it is one for this role.
    fn goal(goal: NodeGoal) -> Option<Self::Goal>;
    fn report(status: Self::Status) -> NodeReport;
    fn revision(goal: &Self::Goal) -> Revision;
    /// The revision that the data plane forwards by.
    fn applied(status: &Self::Status) -> Revision;
    /// The goal as a message, to be kept on disk.
    fn message(goal: &Self::Goal) -> NodeGoal;
}

macro_rules! role {
    ($(#[$doc:meta])* $name:ident, $variant:ident, $goal:ty, $status:ty) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy)]
        pub enum $name {}

        impl Role for $name {
            type Goal = $goal;
            type Status = $status;
            const ROLE: NodeRole = NodeRole::$variant;

            fn goal(goal: NodeGoal) -> Option<$goal> {
                match goal {
                    NodeGoal::$variant(goal) => Some(goal),
                    _ => None,
                }
            }

            fn report(status: $status) -> NodeReport {
                NodeReport::$variant(status)
            }

            fn revision(goal: &$goal) -> Revision {
                goal.revision
            }

            fn applied(status: &$status) -> Revision {
                status.applied
            }

            fn message(goal: &$goal) -> NodeGoal {
                NodeGoal::$variant(goal.clone())
            }
        }
    };
}

role!(
    /// [`MuxGoal`] and [`MuxStatus`].
    Mux, Mux, MuxGoal, MuxStatus
);
role!(
    /// [`HostGoal`] and [`HostStatus`].
    Host, Host, HostGoal, HostStatus
);
role!(
    /// [`GatewayGoal`] and [`GatewayStatus`].
    Gateway, Gateway, GatewayGoal, GatewayStatus
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_says_its_role_and_revision_and_survives_json() {
        let goal = NodeGoal::Mux(MuxGoal { revision: Revision(7), ..MuxGoal::default() });
        assert_eq!((goal.role(), goal.revision()), (NodeRole::Mux, Revision(7)));
        let text = serde_json::to_string(&ToNode::Goal(goal.clone())).unwrap();
        assert_eq!(serde_json::from_str::<ToNode>(&text).unwrap(), ToNode::Goal(goal));
    }

    #[test]
    fn a_goal_of_another_role_is_not_taken() {
        assert_eq!(Mux::goal(NodeGoal::Host(HostGoal::default())), None);
        assert_eq!(Host::goal(NodeGoal::Host(HostGoal::default())), Some(HostGoal::default()));
    }

    #[test]
    fn a_role_reads_back_from_its_name() {
        for role in NodeRole::ALL {
            assert_eq!(role.name().parse(), Ok(role));
        }
        assert!("Mux".parse::<NodeRole>().is_err());
    }
}
