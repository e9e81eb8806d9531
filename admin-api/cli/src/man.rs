//! Manual pages, from the same definitions as the command line.
use crate::error::CliError;
use crate::output::Output;
use std::path::Path;

pub(crate) fn run(mut whole: clap::Command, dir: Option<&Path>, output: &Output) -> Result<(), CliError> {
    whole.build();
    let Some(dir) = dir else {
        return output.text(&String::from_utf8_lossy(&page(&whole)?));
    };
    std::fs::create_dir_all(dir).map_err(CliError::io(dir.display()))?;
    write(dir, &whole)?;
    for command in whole.get_subcommands().filter(|c| c.get_name() != "help") {
        write(dir, command)?;
    }
    output.text(&format!("manual pages are in {}", dir.display()))
}

fn page(command: &clap::Command) -> Result<Vec<u8>, CliError> {
    let mut out = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut out).map_err(CliError::io("manual page"))?;
    Ok(out)
}

fn write(dir: &Path, command: &clap::Command) -> Result<(), CliError> {
    // A page is named as it is looked for: man penstock-apply.
    let file = dir.join(format!("{}.1", command.get_display_name().unwrap_or(command.get_name())));
    std::fs::write(&file, page(command)?).map_err(CliError::io(file.display()))
}
