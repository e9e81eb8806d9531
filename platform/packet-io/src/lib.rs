//! penstock-packet-io
