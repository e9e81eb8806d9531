/// Why a goal is refused: nothing of it is applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("mux goal, {field}: {problem}")]
pub struct GoalError {
    /// Where, as in `services[3].port`.
    pub field: String,
    pub problem: String,
}

impl GoalError {
    pub(crate) fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }
}
