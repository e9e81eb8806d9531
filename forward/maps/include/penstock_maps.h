/* SPDX-License-Identifier: Apache-2.0 */
/* Written from forward/maps/src/layout.rs; a test of that crate keeps the two equal. */
#ifndef PENSTOCK_MAPS_H
#define PENSTOCK_MAPS_H

#include <linux/types.h>

#define PENSTOCK_VIP_CAPACITY 65536
#define PENSTOCK_ENDPOINT_CAPACITY 4096
#define PENSTOCK_QUEUES 64
#define PENSTOCK_COUNTERS 4
#define PENSTOCK_ASK 4294967295
#define PENSTOCK_PROBES 8
#define PENSTOCK_HEADERS_V4 64
#define PENSTOCK_HEADERS_V6 84
#define PENSTOCK_FIVE_TUPLE 0
#define PENSTOCK_ADDRESSES 1
#define PENSTOCK_ADDRESSES_PROTOCOL 2
#define PENSTOCK_MARK 1886614529
#define PENSTOCK_FLOW_IDLE_SECONDS 20
#define PENSTOCK_CONTAINER 2147483648
#define PENSTOCK_FLOW_DROP 1
#define PENSTOCK_FLOW_TTL 2
#define PENSTOCK_FLOW_NAT 4

enum penstock_counter {
	PENSTOCK_VIP = 0,
	PENSTOCK_ENDPOINT = 1,
	PENSTOCK_PASSED = 2,
	PENSTOCK_NO_SOCKET = 3,
};

/* A virtual IP: the whole address belongs to the node, whatever the protocol. */
struct penstock_address {
	__u8 bytes[16];
};
_Static_assert(sizeof(struct penstock_address) == 16, "layout");
_Static_assert(__builtin_offsetof(struct penstock_address, bytes) == 0, "layout");

/* A tunnel endpoint: an address of the node itself, and an IP protocol or a UDP port on it. */
struct penstock_endpoint {
	struct penstock_address address;
	__u8 port[2];
	__u8 protocol;
	__u8 pad;
};
_Static_assert(sizeof(struct penstock_endpoint) == 20, "layout");
_Static_assert(__builtin_offsetof(struct penstock_endpoint, address) == 0, "layout");
_Static_assert(__builtin_offsetof(struct penstock_endpoint, port) == 16, "layout");
_Static_assert(__builtin_offsetof(struct penstock_endpoint, protocol) == 18, "layout");
_Static_assert(__builtin_offsetof(struct penstock_endpoint, pad) == 19, "layout");

/* What the mux's program is compiled with: constants to the kernel's verifier. */
struct penstock_replay {
	__u64 keys[5];
	__u32 mask;
	__u32 mtu;
	__u32 headers;
	__u32 out;
	__u32 shift;
	__u32 pad;
};
_Static_assert(sizeof(struct penstock_replay) == 64, "layout");
_Static_assert(__builtin_offsetof(struct penstock_replay, keys) == 0, "layout");
_Static_assert(__builtin_offsetof(struct penstock_replay, mask) == 40, "layout");
_Static_assert(__builtin_offsetof(struct penstock_replay, mtu) == 44, "layout");
_Static_assert(__builtin_offsetof(struct penstock_replay, headers) == 48, "layout");
_Static_assert(__builtin_offsetof(struct penstock_replay, out) == 52, "layout");
_Static_assert(__builtin_offsetof(struct penstock_replay, shift) == 56, "layout");
_Static_assert(__builtin_offsetof(struct penstock_replay, pad) == 60, "layout");

/* A virtual IP, protocol and port, and what becomes of packets for it. A cache line. */
struct penstock_service {
	__u64 vip[2];
	__u64 vip_hash;
	__u32 tail;
	__u32 pool;
	__u32 service;
	__u32 distribution;
	__u64 pad[3];
};
_Static_assert(sizeof(struct penstock_service) == 64, "layout");
_Static_assert(__builtin_offsetof(struct penstock_service, vip) == 0, "layout");
_Static_assert(__builtin_offsetof(struct penstock_service, vip_hash) == 16, "layout");
_Static_assert(__builtin_offsetof(struct penstock_service, tail) == 24, "layout");
_Static_assert(__builtin_offsetof(struct penstock_service, pool) == 28, "layout");
_Static_assert(__builtin_offsetof(struct penstock_service, service) == 32, "layout");
_Static_assert(__builtin_offsetof(struct penstock_service, distribution) == 36, "layout");
_Static_assert(__builtin_offsetof(struct penstock_service, pad) == 40, "layout");

/* The slot table of a pool: indices into the backends, or PENSTOCK_ASK. */
struct penstock_pool {
	__u32 owner[4096];
};
_Static_assert(sizeof(struct penstock_pool) == 16384, "layout");
_Static_assert(__builtin_offsetof(struct penstock_pool, owner) == 0, "layout");

/* What is put before the IP packet for a backend: the encapsulation, then the inner Ethernet header. Two cache lines. */
struct penstock_backend {
	__u64 headers[16];
};
_Static_assert(sizeof(struct penstock_backend) == 128, "layout");
_Static_assert(__builtin_offsetof(struct penstock_backend, headers) == 0, "layout");

/* What the program has sent, per CPU. */
struct penstock_traffic {
	__u64 packets;
	__u64 bytes;
	__u64 sent;
};
_Static_assert(sizeof(struct penstock_traffic) == 24, "layout");
_Static_assert(__builtin_offsetof(struct penstock_traffic, packets) == 0, "layout");
_Static_assert(__builtin_offsetof(struct penstock_traffic, bytes) == 8, "layout");
_Static_assert(__builtin_offsetof(struct penstock_traffic, sent) == 16, "layout");

/* What a host's programs are compiled with. */
struct penstock_host {
	__u64 own[2];
};
_Static_assert(sizeof(struct penstock_host) == 16, "layout");
_Static_assert(__builtin_offsetof(struct penstock_host, own) == 0, "layout");

/* What a packet says of its flow. */
struct penstock_flow_key {
	__u64 src[2];
	__u64 dst[2];
	__u8 ports[4];
	__u32 place;
	__u32 protocol;
	__u32 version;
};
_Static_assert(sizeof(struct penstock_flow_key) == 48, "layout");
_Static_assert(__builtin_offsetof(struct penstock_flow_key, src) == 0, "layout");
_Static_assert(__builtin_offsetof(struct penstock_flow_key, dst) == 16, "layout");
_Static_assert(__builtin_offsetof(struct penstock_flow_key, ports) == 32, "layout");
_Static_assert(__builtin_offsetof(struct penstock_flow_key, place) == 36, "layout");
_Static_assert(__builtin_offsetof(struct penstock_flow_key, protocol) == 40, "layout");
_Static_assert(__builtin_offsetof(struct penstock_flow_key, version) == 44, "layout");

/* What was decided for a flow: only packets are meant that come as the first one came. */
struct penstock_flow {
	__u64 src[2];
	__u64 dst[2];
	__u64 outer[2];
	__u64 seen;
	__u32 address_sum;
	__u32 header_sum;
	__u32 port_sum;
	__u8 ports[4];
	__u32 generation;
	__u32 out;
	__u32 flags;
	__u32 zone;
	__u16 from;
	__u16 to;
	__u8 eth[12];
	__u8 mac[6];
	__u16 headers_length;
	__u8 headers[84];
	__u8 pad[4];
};
_Static_assert(sizeof(struct penstock_flow) == 200, "layout");
_Static_assert(__builtin_offsetof(struct penstock_flow, src) == 0, "layout");
_Static_assert(__builtin_offsetof(struct penstock_flow, dst) == 16, "layout");
_Static_assert(__builtin_offsetof(struct penstock_flow, outer) == 32, "layout");
_Static_assert(__builtin_offsetof(struct penstock_flow, seen) == 48, "layout");
_Static_assert(__builtin_offsetof(struct penstock_flow, address_sum) == 56, "layout");
_Static_assert(__builtin_offsetof(struct penstock_flow, header_sum) == 60, "layout");
_Static_assert(__builtin_offsetof(struct penstock_flow, port_sum) == 64, "layout");
_Static_assert(__builtin_offsetof(struct penstock_flow, ports) == 68, "layout");
_Static_assert(__builtin_offsetof(struct penstock_flow, generation) == 72, "layout");
_Static_assert(__builtin_offsetof(struct penstock_flow, out) == 76, "layout");
_Static_assert(__builtin_offsetof(struct penstock_flow, flags) == 80, "layout");
_Static_assert(__builtin_offsetof(struct penstock_flow, zone) == 84, "layout");
_Static_assert(__builtin_offsetof(struct penstock_flow, from) == 88, "layout");
_Static_assert(__builtin_offsetof(struct penstock_flow, to) == 90, "layout");
_Static_assert(__builtin_offsetof(struct penstock_flow, eth) == 92, "layout");
_Static_assert(__builtin_offsetof(struct penstock_flow, mac) == 104, "layout");
_Static_assert(__builtin_offsetof(struct penstock_flow, headers_length) == 110, "layout");
_Static_assert(__builtin_offsetof(struct penstock_flow, headers) == 112, "layout");
_Static_assert(__builtin_offsetof(struct penstock_flow, pad) == 196, "layout");

/* What became of frames at a port, per CPU. */
struct penstock_tally {
	__u64 received;
	__u64 received_bytes;
	__u64 sent;
	__u64 sent_bytes;
	__u64 denied;
	__u64 failed;
};
_Static_assert(sizeof(struct penstock_tally) == 48, "layout");
_Static_assert(__builtin_offsetof(struct penstock_tally, received) == 0, "layout");
_Static_assert(__builtin_offsetof(struct penstock_tally, received_bytes) == 8, "layout");
_Static_assert(__builtin_offsetof(struct penstock_tally, sent) == 16, "layout");
_Static_assert(__builtin_offsetof(struct penstock_tally, sent_bytes) == 24, "layout");
_Static_assert(__builtin_offsetof(struct penstock_tally, denied) == 32, "layout");
_Static_assert(__builtin_offsetof(struct penstock_tally, failed) == 40, "layout");

#endif
