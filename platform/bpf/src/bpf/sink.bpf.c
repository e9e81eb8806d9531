/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* Drops and counts every frame, before (xdp) or after (tc) the kernel has made a socket buffer of it. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

struct tally {
	__u64 packets;
	__u64 bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tally);
} tallies SEC(".maps");

static __always_inline void count(__u64 bytes)
{
	__u32 zero = 0;
	struct tally *tally = bpf_map_lookup_elem(&tallies, &zero);

	if (tally) {
		tally->packets += 1;
		tally->bytes += bytes;
	}
}

SEC("xdp")
int penstock_sink_xdp(struct xdp_md *ctx)
{
	count(ctx->data_end - ctx->data);
	return XDP_DROP;
}

SEC("tc")
int penstock_sink_tc(struct __sk_buff *skb)
{
	count(skb->len);
	return TC_ACT_SHOT;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
