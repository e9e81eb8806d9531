
#[derive(Debug, Default)]
pub struct Intent;
