use crate::hub::GoalHub;
use crate::resources::Resources;
use penstock_admin_store::{Store, StoreError};
use std::sync::Arc;
pub(crate) struct Compiler;
impl Compiler {
    pub(crate) async fn open(_store: Arc<dyn Store>, _resources: Arc<Resources>, _hub: Arc<GoalHub>) -> Result<Self, StoreError> { Ok(Self) }
    pub(crate) async fn run(self) { std::future::pending().await }
}
