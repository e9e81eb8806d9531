use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people; coloured on a terminal only.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    #[error("the log filter \"{filter}\" is not valid: {reason}")]
    Filter { filter: String, reason: String },
    #[error("logging was set up before")]
    Twice,
}

/// Logs to standard error. `filter` has the syntax of `RUST_LOG` (`info,penstock_mux_server=debug`).
///
/// # Errors
/// The filter is not valid, or logging was set up before.
pub fn init_logging(format: LogFormat, filter: &str) -> Result<(), LoggingError> {
    let env = EnvFilter::try_new(filter)
        .map_err(|e| LoggingError::Filter { filter: filter.to_owned(), reason: e.to_string() })?;
    let builder = tracing_subscriber::fmt().with_env_filter(env).with_writer(std::io::stderr);
    let result = match format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    result.map_err(|_| LoggingError::Twice)
}
