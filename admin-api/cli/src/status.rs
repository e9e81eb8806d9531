use crate::error::CliError;
use crate::output::Output;
use penstock_admin_client::Client;

pub(crate) async fn run(client: &Client, output: &Output) -> Result<(), CliError> {
    let status = client.status().await?;
    output.value(&status)
}
