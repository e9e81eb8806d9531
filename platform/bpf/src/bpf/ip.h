/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* What the programs that replay decisions share of IP. */
#ifndef PENSTOCK_IP_H
#define PENSTOCK_IP_H

#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "penstock_maps.h"

#define FRAGMENT_OFFSET 0x1fff
#define ANY_FRAGMENT 0x3fff

/* Whether a sum of few 32-bit words, not 0 itself, folds to 0xffff, which is zero. */
static __always_inline bool is_zero(__u64 sum)
{
	sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
	return sum == 0xffff || sum == 0x1fffe;
}

/* An IPv4 address mapped into IPv6: the first half is zero. */
static __always_inline __u64 mapped(__be32 address)
{
	return (__u64)address << 32 | 0xffff0000;
}

#endif
