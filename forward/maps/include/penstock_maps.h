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

#endif
