/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * Steering: what the node owns goes to the AF_XDP socket of its receive queue, everything else to the kernel's stack.
 *
 * Owned is (a) any packet to a virtual IP, whatever its protocol, fragments and ICMP included, and (b) what is to a tunnel
 * endpoint: a UDP port, or an IP protocol such as GRE. A packet that cannot be parsed is not ours: the kernel counts it.
 *
 * Of a tunnel's packet that the underlay has fragmented, the first piece goes to the socket, whose owner counts it as a
 * fragment that it cannot take; the later ones, which show no port, and whatever stands behind IPv6 extension headers, pass to
 * the kernel, which gives them up without the first. VXLAN may not be fragmented (RFC 7348 section 4.3), GRE may (RFC 2784 says
 * nothing of it): its ends see to it by the MTU inside.
 */
#ifndef PENSTOCK_STEER_H
#define PENSTOCK_STEER_H

#include "ip.h"

#define VLAN_TAGS 2

struct vlan {
	__be16 tag;
	__be16 type;
};

MAP(HASH, vips, struct penstock_address, __u32, PENSTOCK_VIP_CAPACITY, BPF_F_NO_PREALLOC);
MAP(HASH, endpoints, struct penstock_endpoint, __u32, PENSTOCK_ENDPOINT_CAPACITY, 0);
MAP(XSKMAP, sockets, __u32, __u32, PENSTOCK_QUEUES, 0);
MAP(PERCPU_ARRAY, counters, __u32, __u64, PENSTOCK_COUNTERS, 0);

/* Behind the VLAN tags at `next`, if `type` says that there are any; `length` grows by theirs. False: they are cut off. */
static __always_inline bool skip_tags(void **next, void *end, __be16 *type, __u32 *length)
{
	for (int i = 0; i < VLAN_TAGS; i++) {
		struct vlan *vlan = *next;

		if (*type != bpf_htons(ETH_P_8021Q) && *type != bpf_htons(ETH_P_8021AD))
			break;
		if ((void *)(vlan + 1) > end)
			return false;
		*type = vlan->type;
		*next = vlan + 1;
		*length += sizeof(*vlan);
	}
	return true;
}

static __always_inline void count(__u32 counter)
{
	__u64 *value = bpf_map_lookup_elem(&counters, &counter);

	if (value)
		*value += 1;
}

static __always_inline int to_socket(struct xdp_md *ctx, __u32 counter)
{
	long action = bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_PASS);

	count(action == XDP_REDIRECT ? counter : PENSTOCK_NO_SOCKET);
	return action;
}

static __always_inline int pass(void)
{
	count(PENSTOCK_PASSED);
	return XDP_PASS;
}

/* The address in one form for both families; `l4` is not there in a later fragment. */
static __always_inline int classify(struct xdp_md *ctx, struct penstock_endpoint *to, void *l4)
{
	void *end = (void *)(long)ctx->data_end;
	struct udphdr *udp = l4;

	if (bpf_map_lookup_elem(&vips, &to->address))
		return to_socket(ctx, PENSTOCK_VIP);
	if (!l4)
		return pass();
	if (to->protocol == IPPROTO_UDP) {
		if ((void *)(udp + 1) > end)
			return pass();
		__builtin_memcpy(to->port, &udp->dest, sizeof(to->port));
	}
	if (bpf_map_lookup_elem(&endpoints, to))
		return to_socket(ctx, PENSTOCK_ENDPOINT);
	return pass();
}

static __noinline int steer(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = (void *)(long)ctx->data;
	struct penstock_endpoint to = {};
	void *next = eth + 1;
	void *l4 = 0;
	__u32 length = 0;
	__be16 type;

	if (next > end)
		return pass();
	type = eth->h_proto;
	if (!skip_tags(&next, end, &type, &length))
		return pass();
	if (type == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = next;

		if ((void *)(ip + 1) > end || ip->ihl < 5)
			return pass();
		to.address.bytes[10] = 0xff;
		to.address.bytes[11] = 0xff;
		__builtin_memcpy(to.address.bytes + 12, &ip->daddr, 4);
		to.protocol = ip->protocol;
		if (!(ip->frag_off & bpf_htons(FRAGMENT_OFFSET)))
			l4 = next + ip->ihl * 4;
	} else if (type == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip6 = next;

		if ((void *)(ip6 + 1) > end)
			return pass();
		__builtin_memcpy(to.address.bytes, &ip6->daddr, 16);
		to.protocol = ip6->nexthdr;
		l4 = ip6 + 1;
	} else {
		return pass();
	}
	return classify(ctx, &to, l4);
}

#endif
