/// Why a goal state cannot be carried out. The policy that was in force stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct GoalError {
    /// Where in the goal state, as `tunnels[3].prefixes[0]`.
    pub field: String,
    pub problem: String,
}

impl GoalError {
    pub(crate) fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }
}
