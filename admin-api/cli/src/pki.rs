use crate::arguments::Pki;
use crate::error::CliError;
use crate::output::Output;
use penstock_southbound::pki::{self, Request};
use penstock_southbound::{CertRole, Identity};
use serde_json::json;
use std::time::{Duration, SystemTime};

pub(crate) fn run(command: Pki, output: &Output) -> Result<(), CliError> {
    let now = SystemTime::now();
    match command {
        Pki::Init { dir } => {
            let authority = pki::Pki::init(&dir, now)?;
            let ca = authority.ca();
            if output.is_json() {
                return output.value(&json!({ "ca": ca }));
            }
            let (ca, dir) = (ca.display(), dir.display());
            output.text(&format!("{ca} is to be known to every node and operator; keep {dir}/ca.key here and safe"))
        }
        Pki::Issue { dir, role, name, ip, dns, days } => {
            let identity = Identity::new(name, &role)?;
            if identity.may_be(CertRole::Controller) && ip.is_empty() && dns.is_empty() {
                return Err(CliError::NoAddress(CertRole::Controller));
            }
            let shown = identity.to_string();
            let validity = Duration::from_secs(u64::from(days) * 86_400);
            let request = Request { identity, addresses: ip, names: dns, validity };
            let issued = pki::Pki::open(&dir)?.issue(&request, now)?;
            if output.is_json() {
                return output.value(&json!({ "cert": issued.cert, "key": issued.key }));
            }
            output.text(&format!("{shown}: {} and {}", issued.cert.display(), issued.key.display()))
        }
    }
}
