/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * The host's programs, on the ingress of the underlay and of each container's link: they replay what slb/host has decided for
 * flows that are established, byte for byte: take VXLAN off, translate, deliver; translate, return directly; and put VXLAN before
 * what goes to another host. Frames of many segments and checksums that are left to a device go through as they are.
 *
 * Packet sockets see a frame before these programs do. What is not replayed is therefore marked and taken in once more, and the
 * host agent's sockets take marked frames alone. That is every other frame of a container and, on the underlay, what comes
 * encapsulated for this host: beginnings and ends of connections, fragments, IP options, whatever is not TCP or UDP, flows that
 * the map does not know, that are of an older policy or that were not seen for a while.
 */
#include "ip.h"
#include <linux/pkt_cls.h>
#include <linux/tcp.h>

#define VXLAN_PORT 4789
#define GENEVE_PORT 6081
#define VXLAN_VNI_VALID 8
#define FIN_SYN_RST 7
/* Bytes that headers may take: an encapsulation over IPv6, Ethernet, IPv6, TCP without options. */
#define HEADERS (PENSTOCK_HEADERS_V6 + 40 + 20)
/* Not a packet to be replayed. */
#define LEAVE -2
/* Of linux/bpf.h since Linux 6.3: the family behind the headers that are taken off. */
#define DECAP_L3_IPV4 (1ULL << 7)
#define DECAP_L3_IPV6 (1ULL << 8)
#define ENCAP_ETHERNET                                                                               \
	(BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L4_UDP | BPF_F_ADJ_ROOM_ENCAP_L2(ETH_HLEN) | \
	 BPF_F_ADJ_ROOM_ENCAP_L2_ETH)

const volatile struct penstock_host config = {};

MAP(HASH, flows, struct penstock_flow_key, struct penstock_flow, 1, BPF_F_NO_PREALLOC);

/* Of the policy in force. */
MAP(ARRAY, generation, __u32, __u32, 1, 0);

/* By port. */
MAP(PERCPU_ARRAY, tallies, __u32, struct penstock_tally, 1, 0);

/* What decisions need of a packet. */
struct packet {
	struct penstock_flow_key key;
	__u64 outer[2];
	__u32 l3; /* of the packet that the decision is about */
	__u8 mac[6];
	__u8 ttl;
	__u8 tos;
};

/* Reads an IP packet at `l3` whose transport is whole and in sight, and that its frame ends with. */
static __always_inline bool read_packet(struct __sk_buff *ctx, struct packet *p, __u32 l3)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	void *at = data + l3, *transport;
	struct iphdr *ip = at;
	struct ipv6hdr *ip6 = at;
	__u32 length = ctx->len - l3;

	if ((void *)(ip + 1) > end)
		return false;
	p->l3 = l3;
	if (*(__be16 *)(at - 2) == bpf_htons(ETH_P_IP)) {
		if (ip->version != 4 || ip->ihl != 5 || ip->frag_off & bpf_htons(ANY_FRAGMENT) ||
		    bpf_ntohs(ip->tot_len) != length || !is_sound(at, 0))
			return false;
		p->key.src[1] = mapped(ip->saddr);
		p->key.dst[1] = mapped(ip->daddr);
		p->key.protocol = ip->protocol;
		p->key.version = 4;
		p->ttl = ip->ttl;
		p->tos = ip->tos;
		transport = ip + 1;
		length -= sizeof(*ip);
	} else {
		if (*(__be16 *)(at - 2) != bpf_htons(ETH_P_IPV6) || (void *)(ip6 + 1) > end || ip6->version != 6 ||
		    bpf_ntohs(ip6->payload_len) != length - sizeof(*ip6))
			return false;
		__builtin_memcpy(p->key.src, &ip6->saddr, 32);
		p->key.protocol = ip6->nexthdr;
		p->key.version = 6;
		p->ttl = ip6->hop_limit;
		p->tos = traffic_class(at);
		transport = ip6 + 1;
		length -= sizeof(*ip6);
	}
	if (p->key.protocol == IPPROTO_TCP) {
		__u8 *tcp = transport;

		if (transport + sizeof(struct tcphdr) > end || tcp[13] & FIN_SYN_RST || tcp[12] < 5 << 4 ||
		    (tcp[12] >> 4) * 4 > length)
			return false;
	} else {
		struct udphdr *udp = transport;

		if (p->key.protocol != IPPROTO_UDP || transport + sizeof(*udp) > end ||
		    bpf_ntohs(udp->len) != length)
			return false;
	}
	__builtin_memcpy(p->key.ports, transport, sizeof(p->key.ports));
	return p->ttl > 1;
}

/* Whether an encapsulation for this host arrives, and if it is VXLAN without further ado, what it says. */
static __always_inline bool read_outer(struct __sk_buff *ctx, struct packet *p)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	void *at = data + ETH_HLEN;
	struct iphdr *ip = at;
	struct ipv6hdr *ip6 = at;
	__u64 to[2] = {};
	struct udphdr *udp;
	__u8 *vxlan;
	__u32 length;
	bool is_usual;

	if ((void *)(ip + 1) > end || ctx->vlan_present)
		return false;
	if (*(__be16 *)(at - 2) == bpf_htons(ETH_P_IP)) {
		if (ip->version != 4 || ip->protocol != IPPROTO_UDP || ip->frag_off & bpf_htons(FRAGMENT_OFFSET))
			return false;
		p->outer[1] = mapped(ip->saddr);
		to[1] = mapped(ip->daddr);
		udp = at + ip->ihl * 4;
		length = ctx->len - ETH_HLEN - sizeof(*ip);
		is_usual = ip->ihl == 5 && !(ip->frag_off & bpf_htons(ANY_FRAGMENT)) &&
			   bpf_ntohs(ip->tot_len) == length + sizeof(*ip) && is_sound(at, 0);
		p->l3 = PENSTOCK_HEADERS_V4;
	} else {
		if (*(__be16 *)(at - 2) != bpf_htons(ETH_P_IPV6) || (void *)(ip6 + 1) > end || ip6->version != 6 ||
		    ip6->nexthdr != IPPROTO_UDP)
			return false;
		__builtin_memcpy(p->outer, &ip6->saddr, sizeof(to));
		__builtin_memcpy(to, &ip6->daddr, sizeof(to));
		udp = (void *)(ip6 + 1);
		length = ctx->len - ETH_HLEN - sizeof(*ip6);
		is_usual = bpf_ntohs(ip6->payload_len) == length;
		p->l3 = PENSTOCK_HEADERS_V6;
	}
	if ((void *)(udp + 1) > end || to[0] != config.own[0] || to[1] != config.own[1])
		return false;
	if (udp->dest != bpf_htons(VXLAN_PORT) && udp->dest != bpf_htons(GENEVE_PORT))
		return false;
	vxlan = (void *)(udp + 1);
	if ((void *)(vxlan + 8 + ETH_HLEN) > end || !is_usual || udp->dest != bpf_htons(VXLAN_PORT) ||
	    bpf_ntohs(udp->len) != length || !(vxlan[0] & VXLAN_VNI_VALID)) {
		p->l3 = 0;
		return true;
	}
	p->key.place = vxlan[4] << 16 | vxlan[5] << 8 | vxlan[6];
	__builtin_memcpy(p->mac, vxlan + 8, sizeof(p->mac));
	return true;
}

static __always_inline struct penstock_tally *tally_of(__u32 port)
{
	return bpf_map_lookup_elem(&tallies, &port);
}

static __always_inline struct penstock_flow *find_flow(struct packet *p)
{
	__u64 now = bpf_ktime_get_coarse_ns();
	__u32 only = 0;
	struct penstock_flow *flow = bpf_map_lookup_elem(&flows, &p->key);
	__u32 *current = bpf_map_lookup_elem(&generation, &only);
	__s64 age;

	if (!flow || !current || flow->generation != *current)
		return NULL;
	age = now - flow->seen;
	if (age > PENSTOCK_FLOW_IDLE_SECONDS * 1000000000LL || flow->outer[0] != p->outer[0] ||
	    flow->outer[1] != p->outer[1] || __builtin_memcmp(flow->mac, p->mac, sizeof(p->mac)))
		return NULL;
	/* Seldom, so that the line stays in the caches of all processors. */
	if (age > 100000000)
		flow->seen = now;
	return flow;
}

/* Puts an encapsulation before the IP packet, in place of its Ethernet header. */
static __always_inline long push(struct __sk_buff *ctx, struct packet *p, struct penstock_flow *flow, __u32 headers)
{
	struct {
		__u8 pad[2]; /* so that addresses are aligned */
		__u8 bytes[PENSTOCK_HEADERS_V6];
	} new;
	__u32 length = ctx->len - ETH_HLEN; /* of the outer IP packet */
	struct iphdr *ip = (void *)(new.bytes + ETH_HLEN);
	__be16 type = p->key.version == 4 ? bpf_htons(ETH_P_IP) : bpf_htons(ETH_P_IPV6);

	__builtin_memcpy(new.bytes, flow->headers, sizeof(new.bytes));
	if (headers == PENSTOCK_HEADERS_V4)
		write_outer_ipv4(ip, ip->check, length, p->tos);
	else
		write_outer_ipv6((void *)ip, length, p->tos);
	__builtin_memcpy(new.bytes + headers - sizeof(type), &type, sizeof(type));
	return bpf_skb_store_bytes(ctx, 0, new.bytes, headers, 0);
}

/* Addresses, ports and hop limit of a frame whose IP packet stands at `l3`, with all checksums. */
static __always_inline long rewrite(struct __sk_buff *ctx, struct packet *p, struct penstock_flow *flow, __u32 l3)
{
	struct {
		__u8 pad[7];
		__u8 hop_limit;
		__u64 src[2], dst[2];
	} ip6;
	__u8 ttl = p->ttl - !!(flow->flags & PENSTOCK_FLOW_TTL);
	__u32 l4, sum_at, mangled = 0;
	long failed;

	if (p->key.version == 4) {
		__be32 addresses[2] = { flow->src[1] >> 32, flow->dst[1] >> 32 };

		failed = bpf_skb_store_bytes(ctx, l3 + 12, addresses, sizeof(addresses), 0);
		failed |= bpf_skb_store_bytes(ctx, l3 + 8, &ttl, 1, 0);
		failed |= bpf_l3_csum_replace(ctx, l3 + 10, 0, flow->header_sum, 0);
		l4 = l3 + sizeof(struct iphdr);
	} else {
		ip6.hop_limit = ttl;
		__builtin_memcpy(ip6.src, flow->src, sizeof(ip6.src));
		__builtin_memcpy(ip6.dst, flow->dst, sizeof(ip6.dst));
		failed = bpf_skb_store_bytes(ctx, l3 + 7, &ip6.hop_limit, 33, BPF_F_RECOMPUTE_CSUM);
		l4 = l3 + sizeof(struct ipv6hdr);
	}
	if (!(flow->flags & PENSTOCK_FLOW_NAT))
		return failed;
	sum_at = l4 + offsetof(struct tcphdr, check);
	if (p->key.protocol == IPPROTO_UDP) {
		sum_at = l4 + offsetof(struct udphdr, check);
		mangled = BPF_F_MARK_MANGLED_0;
	}
	failed |= bpf_l4_csum_replace(ctx, sum_at, 0, flow->address_sum, mangled | BPF_F_PSEUDO_HDR);
	failed |= bpf_l4_csum_replace(ctx, sum_at, 0, flow->port_sum, mangled);
	failed |= bpf_skb_store_bytes(ctx, l4, flow->ports, sizeof(flow->ports), 0);
	return failed;
}

static __always_inline int replay(struct __sk_buff *ctx, struct packet *p)
{
	struct penstock_flow *flow = find_flow(p);
	struct penstock_tally *from, *to;
	__u64 bytes = ctx->len;
	__u32 l3 = ETH_HLEN;
	struct ethhdr eth;
	long failed;

	if (!flow)
		return LEAVE;
	from = tally_of(flow->from);
	to = tally_of(flow->to);
	if (!from || !to)
		return LEAVE;
	if (flow->flags & PENSTOCK_FLOW_DROP) {
		from->received += 1;
		from->received_bytes += bytes;
		from->denied += 1;
		return TC_ACT_SHOT;
	}
	if (p->l3 != ETH_HLEN) {
		__u64 inner = p->key.version == 4 ? DECAP_L3_IPV4 : DECAP_L3_IPV6;

		if (bpf_skb_adjust_room(ctx, ETH_HLEN - (__s32)p->l3, BPF_ADJ_ROOM_MAC,
					BPF_F_ADJ_ROOM_FIXED_GSO | inner))
			return LEAVE;
	}
	if (flow->headers_length) {
		__u64 outer = BPF_F_ADJ_ROOM_ENCAP_L3_IPV4;

		l3 = PENSTOCK_HEADERS_V4;
		if (flow->headers_length != PENSTOCK_HEADERS_V4) {
			l3 = PENSTOCK_HEADERS_V6;
			outer = BPF_F_ADJ_ROOM_ENCAP_L3_IPV6;
		}
		/* Longer ones have to be cut first. */
		if (bytes + l3 > 0xffff ||
		    bpf_skb_adjust_room(ctx, l3 - ETH_HLEN, BPF_ADJ_ROOM_MAC, ENCAP_ETHERNET | outer))
			return LEAVE;
		failed = l3 == PENSTOCK_HEADERS_V4 ? push(ctx, p, flow, PENSTOCK_HEADERS_V4) :
						     push(ctx, p, flow, PENSTOCK_HEADERS_V6);
	} else {
		__builtin_memcpy(&eth, flow->eth, sizeof(flow->eth));
		eth.h_proto = p->key.version == 4 ? bpf_htons(ETH_P_IP) : bpf_htons(ETH_P_IPV6);
		failed = bpf_skb_store_bytes(ctx, 0, &eth, sizeof(eth), 0);
	}
	from->received += 1;
	from->received_bytes += bytes;
	if (failed || rewrite(ctx, p, flow, l3)) {
		from->failed += 1;
		return TC_ACT_SHOT;
	}
	to->sent += 1;
	to->sent_bytes += ctx->len;
	return bpf_redirect(flow->out, 0);
}

/* To the packet socket: it takes marked frames alone, and the second time the kernel has the frame. */
static __always_inline int to_user_space(struct __sk_buff *ctx)
{
	ctx->mark = PENSTOCK_MARK;
	return bpf_redirect(ctx->ifindex, BPF_F_INGRESS);
}

static __always_inline bool was_in_user_space(struct __sk_buff *ctx)
{
	if (ctx->mark != PENSTOCK_MARK)
		return false;
	ctx->mark = 0;
	return true;
}

SEC("tc")
int penstock_underlay(struct __sk_buff *ctx)
{
	struct packet p = {};
	int action = LEAVE;

	if (was_in_user_space(ctx))
		return TC_ACT_UNSPEC;
	bpf_skb_pull_data(ctx, ctx->len < HEADERS ? ctx->len : HEADERS);
	if (!read_outer(ctx, &p))
		return TC_ACT_UNSPEC;
	if (p.l3 == PENSTOCK_HEADERS_V4 ? read_packet(ctx, &p, PENSTOCK_HEADERS_V4) :
	    p.l3 && read_packet(ctx, &p, PENSTOCK_HEADERS_V6))
		action = replay(ctx, &p);
	return action == LEAVE ? to_user_space(ctx) : action;
}

SEC("tc")
int penstock_container(struct __sk_buff *ctx)
{
	void *data, *end;
	struct packet p = {};
	int action = LEAVE;

	if (was_in_user_space(ctx))
		return TC_ACT_UNSPEC;
	bpf_skb_pull_data(ctx, ctx->len < HEADERS ? ctx->len : HEADERS);
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	if (!ctx->vlan_present && data + ETH_HLEN <= end) {
		__builtin_memcpy(p.mac, data + ETH_ALEN, sizeof(p.mac));
		p.key.place = PENSTOCK_CONTAINER | ctx->ifindex;
		if (read_packet(ctx, &p, ETH_HLEN))
			action = replay(ctx, &p);
	}
	return action == LEAVE ? to_user_space(ctx) : action;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
