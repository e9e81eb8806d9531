//! penstock-gateway-server
