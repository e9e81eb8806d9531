use crate::arguments::Top;
use crate::error::CliError;
use crate::output::Output;
use penstock_admin_client::Client;

pub(crate) async fn run(client: &Client, _top: &Top, output: &Output) -> Result<(), CliError> {
    output.value(&client.status().await?)
}
