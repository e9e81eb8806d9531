//! How do a node and its controller speak? QUIC with mutual TLS; the node dials, gets its goal state, reports its status.
