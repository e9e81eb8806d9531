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

/* Who loads a program gives maps that are made for one entry their size. */
#define MAP(kind, name, of_key, of_value, entries, flags) \
	struct {                                          \
		__uint(type, BPF_MAP_TYPE_##kind);        \
		__uint(map_flags, flags);                 \
		__uint(max_entries, entries);             \
		__type(key, of_key);                      \
		__type(value, of_value);                  \
	} name SEC(".maps")

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

/* Whether the 32-bit words of an IPv4 header without options, and what else sums to `more`, are sound. */
static __always_inline bool is_sound(__u32 *word, __u64 more)
{
	return is_zero((__u64)word[0] + word[1] + word[2] + word[3] + word[4] + more);
}

/* Of a sum of few 16-bit words. */
static __always_inline __u16 fold_short(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return sum + (sum >> 16);
}

static __always_inline __u8 traffic_class(__u8 *ip6)
{
	return ip6[0] << 4 | ip6[1] >> 4;
}

/* Completes the headers of an encapsulation of `length` bytes from the outer IP header on. `check` is the checksum of an IPv4
 * header of length 0 and type of service 0 (RFC 1624 equation 3). */
static __always_inline struct udphdr *write_outer_ipv4(struct iphdr *ip, __u16 check, __u32 length, __u8 tos)
{
	struct udphdr *udp = (void *)(ip + 1);

	ip->tos = tos;
	ip->tot_len = bpf_htons(length);
	ip->check = bpf_htons(~fold_short((__u16)~bpf_ntohs(check) + length + tos));
	udp->len = bpf_htons(length - sizeof(*ip));
	return udp;
}

static __always_inline struct udphdr *write_outer_ipv6(struct ipv6hdr *ip, __u32 length, __u8 tos)
{
	struct udphdr *udp = (void *)(ip + 1);

	((__u8 *)ip)[0] |= tos >> 4;
	((__u8 *)ip)[1] |= tos << 4;
	ip->payload_len = udp->len = bpf_htons(length - sizeof(*ip));
	return udp;
}

#endif
