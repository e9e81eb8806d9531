/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * For measurements with BPF_PROG_TEST_RUN, whose repetitions do not restore the packet: `penstock_rotate` gives it its first
 * length and the headers of the next flow and calls the program under test. With `penstock_empty` as that program it is what
 * has to be subtracted; `penstock_floor` is the least that a balancer can do, also live: encapsulate and transmit.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "flows.h"

#define WORDS_V4 7
#define WORDS_V6 9
#define SOURCE_V4 26
#define SOURCE_V6 34
#define PUSHED 50

struct rotation {
	__u32 flows;
	__u32 stride;
	__u32 base_address; /* host order; of IPv6 the last four bytes */
	__u32 ports;
	__u32 first_port;
	__u32 length;
	__u32 is_v6;
	__u32 pad;
	__u64 headers[WORDS_V6];
};

const volatile struct rotation config = {};

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} target SEC(".maps");

SEC("xdp")
int penstock_rotate(struct xdp_md *ctx)
{
	__u32 length = (__u32)(ctx->data_end - ctx->data), zero = 0, ports = config.ports ? config.ports : 1;
	__u32 *at = bpf_map_lookup_elem(&position, &zero);
	__u32 flow, source;
	void *data, *end;

	if (!at)
		return XDP_ABORTED;
	flow = *at;
	*at = flow + config.stride;
	if (*at >= config.flows)
		*at -= config.flows;
	if (length != config.length && bpf_xdp_adjust_head(ctx, (int)(length - config.length)))
		return XDP_ABORTED;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	source = bpf_htonl(config.base_address + flow / ports);
	if (config.is_v6) {
		if (data + WORDS_V6 * 8 > end)
			return XDP_ABORTED;
#pragma unroll
		for (int i = 0; i < WORDS_V6; i++)
			((__u64 *)data)[i] = config.headers[i];
		*(__be32 *)(data + SOURCE_V6) = source;
		*(__be16 *)(data + 54) = bpf_htons(config.first_port + flow % ports);
	} else {
		if (data + WORDS_V4 * 8 > end)
			return XDP_ABORTED;
#pragma unroll
		for (int i = 0; i < WORDS_V4; i++)
			((__u64 *)data)[i] = config.headers[i];
		*(__be32 *)(data + SOURCE_V4) = source;
		*(__be16 *)(data + 34) = bpf_htons(config.first_port + flow % ports);
		((struct iphdr *)(data + ETH_HLEN))->check = header_checksum(data + ETH_HLEN);
	}
	bpf_tail_call(ctx, &target, 0);
	return XDP_ABORTED;
}

SEC("xdp")
int penstock_empty(struct xdp_md *ctx)
{
	return XDP_TX;
}

SEC("xdp")
int penstock_floor(struct xdp_md *ctx)
{
	__be16 length = bpf_htons((__u16)(ctx->data_end - ctx->data + PUSHED - ETH_HLEN));
	void *data, *end;

	if (bpf_xdp_adjust_head(ctx, -PUSHED))
		return XDP_ABORTED;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	if (data + 64 > end)
		return XDP_ABORTED;
#pragma unroll
	for (int i = 0; i < 8; i++)
		((__u64 *)data)[i] = config.headers[i];
	((struct iphdr *)(data + ETH_HLEN))->tot_len = length;
	((struct iphdr *)(data + ETH_HLEN))->check = header_checksum(data + ETH_HLEN);
	return XDP_TX;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
