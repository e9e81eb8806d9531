use crate::hub::GoalHub;
use crate::state::State;
use serde_json::{Value, json};
pub(crate) fn status(_state: &State, _hub: &GoalHub) -> Value { json!({}) }
