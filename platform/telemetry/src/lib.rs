//! penstock-telemetry
