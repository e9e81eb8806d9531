/* SPDX-License-Identifier: Apache-2.0 */
/* Written from forward/maps/src/layout.rs; a test of that crate keeps the two equal. */
#ifndef PENSTOCK_MAPS_H
#define PENSTOCK_MAPS_H

#include <linux/types.h>

#define PENSTOCK_VIP_CAPACITY 65536
#define PENSTOCK_ENDPOINT_CAPACITY 4096
#define PENSTOCK_QUEUES 64
#define PENSTOCK_COUNTERS 4

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

#endif
