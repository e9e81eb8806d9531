use crate::arguments::Format;
use crate::error::CliError;
use serde::Serialize;
use serde_json::json;
use std::io::{IsTerminal, Write};

/// Where answers go: text for people, coloured on a terminal only, or JSON or YAML.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    format: Format,
    colour: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    Bold,
    Dim,
    Good,
    Bad,
}

impl Output {
    pub(crate) fn new(format: Format) -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        let text = matches!(format, Format::Table | Format::Wide);
        Self { format, colour: text && !plain && std::io::stdout().is_terminal() }
    }

    #[cfg(test)]
    pub(crate) const fn plain() -> Self {
        Self { format: Format::Table, colour: false }
    }

    /// For programs: what is shown is a value.
    pub(crate) const fn is_json(&self) -> bool {
        matches!(self.format, Format::Json | Format::Yaml)
    }

    pub(crate) const fn is_wide(&self) -> bool {
        matches!(self.format, Format::Wide)
    }

    pub(crate) const fn is_names(&self) -> bool {
        matches!(self.format, Format::Name)
    }

    pub(crate) fn is_terminal() -> bool {
        std::io::stdout().is_terminal()
    }

    pub(crate) fn paint(&self, style: Style, text: &str) -> String {
        let code = match style {
            Style::Bold => "1",
            Style::Dim => "2",
            Style::Good => "32",
            Style::Bad => "31;1",
        };
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub(crate) fn text(&self, text: &str) -> Result<(), CliError> {
        let mut out = std::io::stdout().lock();
        let end = if text.ends_with('\n') || text.is_empty() { "" } else { "\n" };
        match write!(out, "{text}{end}").and_then(|()| out.flush()) {
            // `penstock get ... | head` is fine.
            Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(CliError::io("standard output")(e)),
            _ => Ok(()),
        }
    }

    pub(crate) fn value(&self, value: &impl Serialize) -> Result<(), CliError> {
        if self.format == Format::Yaml {
            return self.text(&to_yaml("standard output", value)?);
        }
        let text = serde_json::to_string_pretty(value)
            .map_err(|error| CliError::Json { what: "standard output".to_owned(), error })?;
        self.text(&text)
    }

    /// Errors go to standard error; with `--json` as the API's error body to standard output, where programs read.
    pub(crate) fn error(&self, error: &CliError) {
        if self.is_json() {
            let body = match error.refusal() {
                Some(refusal) => json!({ "error": refusal.error }),
                None => json!({ "error": { "code": "ClientError", "message": error.to_string() } }),
            };
            drop(self.value(&body));
            return;
        }
        eprintln!("penstock: {}", headline(error));
        for detail in error.refusal().into_iter().flat_map(|r| &r.error.details) {
            eprintln!("  {}: {}", detail.target, detail.message);
        }
        if let Some(advice) = error.advice() {
            eprintln!("  -> {advice}");
        }
    }
}

pub(crate) fn to_yaml(what: &str, value: &impl Serialize) -> Result<String, CliError> {
    serde_saphyr::to_string(value).map_err(|error| CliError::Yaml { what: what.to_owned(), reason: error.to_string() })
}

/// The message; where it only repeats the first detail, how many there are.
fn headline(error: &CliError) -> String {
    match error.refusal().map(|r| &r.error) {
        Some(body) if body.details.first().is_some_and(|d| body.message.starts_with(&d.message)) => {
            let count = body.details.len();
            format!("refused for {count} reason{}", if count == 1 { "" } else { "s" })
        }
        _ => error.to_string(),
    }
}

/// A borderless table with a heading; columns whose name begins with `>` are set right.
pub(crate) fn table(output: &Output, columns: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let headings = columns.iter().map(|c| output.paint(Style::Dim, c.trim_start_matches('>'))).collect();
    let lines: Vec<Vec<String>> = std::iter::once(headings).chain(rows).collect();
    let widths: Vec<usize> = (0..columns.len())
        .map(|column| lines.iter().filter_map(|line| line.get(column)).map(|cell| width(cell)).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for line in &lines {
        let mut row = String::new();
        for ((cell, column), wide) in line.iter().zip(columns).zip(&widths) {
            let gap = " ".repeat(wide.saturating_sub(width(cell)));
            let (before, after) = if column.starts_with('>') { (gap.as_str(), "") } else { ("", gap.as_str()) };
            row.extend([before, cell, after, "  "]);
        }
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

/// Characters that are seen: colours take no room.
fn width(cell: &str) -> usize {
    let mut wide = 0;
    let mut in_escape = false;
    for c in cell.chars() {
        match c {
            '\x1b' => in_escape = true,
            'm' if in_escape => in_escape = false,
            _ if in_escape => {}
            _ => wide += 1,
        }
    }
    wide
}

/// 1234567 -> `1.23 M`.
pub(crate) fn si(value: f64) -> String {
    const UNITS: [&str; 5] = ["", " k", " M", " G", " T"];
    let mut value = value;
    let mut unit = UNITS.iter();
    let mut name = unit.next().copied().unwrap_or_default();
    while value >= 1000.0 {
        let Some(next) = unit.next() else { break };
        value /= 1000.0;
        name = next;
    }
    let digits = if name.is_empty() || value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.digits$}{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_digits() {
        let shown: Vec<String> = [0.0, 7.0, 999.0, 1000.0, 12_345.0, 1_234_567.0, 987e9].map(si).into();
        assert_eq!(shown, ["0", "7", "999", "1.00 k", "12.3 k", "1.23 M", "987 G"]);
    }

    #[test]
    fn colours_take_no_room() {
        let coloured = Output { format: Format::Table, colour: true };
        let rows = || [vec!["yes".to_owned(), "1".to_owned()], vec![coloured.paint(Style::Bad, "no"), "2".to_owned()]];
        let strip = |text: &str| text.replace("\x1b[31;1m", "").replace("\x1b[2m", "").replace("\x1b[0m", "");
        let plain = table(
            &Output::plain(),
            &["UP", "N"],
            [vec!["yes".to_owned(), "1".to_owned()], vec!["no".to_owned(), "2".to_owned()]],
        );
        assert_eq!(strip(&table(&coloured, &["UP", "N"], rows())), plain);
    }

    #[test]
    fn tables_align_and_have_no_trailing_spaces() {
        let rows = [vec!["a".to_owned(), "1".to_owned()], vec!["long".to_owned(), "1000".to_owned()]];
        assert_eq!(table(&Output::plain(), &["NAME", ">COUNT"], rows), "NAME  COUNT\na         1\nlong   1000\n");
    }
}
