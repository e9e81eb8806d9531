/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * Traffic generator for measurements, driven by BPF_PROG_TEST_RUN with live frames: gives each frame the source address
 * and port of the next flow and redirects it to an interface.
 *
 * The frame is Ethernet, IPv4 without options, then TCP or UDP, 60 bytes at least. The kernel uses the memory of live
 * frames again with what is in it: a frame that the kernel under test forwarded comes back with another Ethernet address,
 * hop limit and translated destination. So all headers are written anew each time. Flow f has source address
 * base + f / ports and source port first + f % ports. The IPv4 header checksum is kept right; the transport checksum is
 * not: UDP frames have none (zero).
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "flows.h"

#define HEADER_WORDS 7

struct generator {
	__u32 ifindex;
	__u32 flows;
	__u32 stride; /* the next flow is this many further: coprime to flows visits all in another order */
	__u32 base_address; /* host order */
	__u32 ports;
	__u32 first_port;
	__u64 headers[HEADER_WORDS]; /* the frame's first bytes */
};

const volatile struct generator config = {};

SEC("xdp")
int penstock_generate(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = (void *)(long)ctx->data;
	struct iphdr *ip = (void *)(eth + 1);
	__be16 *source_port = (void *)(ip + 1);
	__u32 zero = 0, flow, ports = config.ports ? config.ports : 1;
	__u32 *at;

	if ((void *)eth + sizeof(config.headers) > end)
		return XDP_DROP;
#pragma unroll
	for (int i = 0; i < HEADER_WORDS; i++)
		((__u64 *)eth)[i] = config.headers[i];
	at = bpf_map_lookup_elem(&position, &zero);
	if (!at)
		return XDP_DROP;
	flow = *at;
	*at = flow + config.stride;
	if (*at >= config.flows)
		*at -= config.flows;
	ip->saddr = bpf_htonl(config.base_address + flow / ports);
	*source_port = bpf_htons(config.first_port + flow % ports);
	ip->check = header_checksum(ip);
	return bpf_redirect(config.ifindex, 0);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
