/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * The mux's program: replays what mux/proto decides for packets that need no flow table, byte for byte, and transmits them
 * by the interface that they came in by. Whatever it does not know it leaves as it is to steering: fragments, ICMP, slots
 * that have moved, packets over the MTU, and all that user space would drop, which it does by name.
 *
 * One policy, one program: its maps are filled before it takes the place of the one before, and never changed after, so
 * that no packet sees a part of a policy.
 *
 * It reads like forward/wire/src/{headers,rewrite}.rs, mux/proto/src/decide.rs and forward/engine/src/{apply,encap}.rs,
 * which say why; a test of mux/server holds it to them.
 */
#include "steer.h"

#define SLOT_SHIFT 52
#define EXTENSION_HEADERS 8
/* Bounds where IP and transport headers can be, for the verifier. */
#define L3_OFFSETS 0x1f
#define OFFSETS 0x7fff
#define LENGTHS 0x1fff
/* Of the longest segment whose checksum is completed here: eight blocks. */
#define BLOCK 512
#define BLOCKS 8
/* The second half of ::1. */
#define LOOPBACK (1ULL << 56)
/* Keeps the compiler from putting another check in the place of the one that the verifier wants to see. */
#define KEEP(value) asm volatile("" : "+r"(value))
/* Not a packet to be replayed: steering decides. */
#define LEAVE -1

const volatile struct penstock_replay config = {};

MAP(ARRAY, services, __u32, struct penstock_service, 1, 0);
MAP(ARRAY, pools, __u32, struct penstock_pool, 1, 0);
MAP(ARRAY, backends, __u32, struct penstock_backend, 1, 0);
MAP(PERCPU_ARRAY, service_traffic, __u32, struct penstock_traffic, 1, 0);
MAP(PERCPU_ARRAY, backend_traffic, __u32, struct penstock_traffic, 1, 0);

/* Frames that were lost because their headers could not be written. Nothing that is read leads there: only the verifier does not
 * know. */
MAP(PERCPU_ARRAY, aborted, __u32, __u64, 1, 0);

/* Until when to replay, by the monotonic clock: its process puts it off while it lives. A policy that nobody looks after grows
 * old. */
MAP(ARRAY, lease, __u32, __u64, 1, 0);

/* What decisions need of a packet. Offsets count from the start of the frame. */
struct packet {
	__u64 client[2];
	__u64 vip[2];
	__u64 pseudo; /* sum of the pseudo-header */
	__u32 l3;
	__u32 l4;
	__u32 end;
	__u16 client_port;
	__u16 vip_port;
	__u16 checksum; /* of the transport, as on the wire */
	__u8 protocol;
	__u8 tos;
	__u8 is_v6;
};

/* The full product of two words, its halves folded together: forward/flow/src/hash.rs. */
static __always_inline __u64 mix(__u64 a, __u64 b)
{
	__u64 a0 = (__u32)a, a1 = a >> 32, b0 = (__u32)b, b1 = b >> 32;
	__u64 low = a0 * b0, left = a1 * b0, right = a0 * b1;
	__u64 middle = (low >> 32) + (__u32)left + (__u32)right;

	return (a * b) ^ (a1 * b1 + (left >> 32) + (right >> 32) + (middle >> 32));
}

static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

static __always_inline __u64 words(__u64 word)
{
	return (word & 0xffffffff) + (word >> 32);
}

/* The sum of the options of an IPv4 header of `length` bytes at `l3`, not folded; 0 (no options sum to that) if they are cut
 * off. The verifier looks at functions like this one once, whatever leads to them. */
__noinline __u64 sum_options(struct xdp_md *ctx, __u32 l3, __u32 length)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 *option = data + (l3 & L3_OFFSETS) + sizeof(struct iphdr);
	__u64 sum = 0xffff;

	for (int i = 0; i < 10; i++) {
		if (sizeof(struct iphdr) + i * 4 >= length)
			break;
		KEEP(option);
		if ((void *)(option + 1) > end)
			return 0;
		sum += *option;
		option++;
	}
	return sum;
}

static __always_inline bool read_ipv4(struct xdp_md *ctx, struct packet *p, void *at, void *end)
{
	struct iphdr *ip = at;
	__u32 total, length;
	__u64 options = 0;
	__u8 first;

	if ((void *)(ip + 1) > end || ip->version != 4 || ip->ihl < 5)
		return false;
	length = ip->ihl * 4;
	if (length > sizeof(*ip)) {
		options = sum_options(ctx, p->l3, length);
		if (!options)
			return false;
	}
	first = ip->saddr & 0xff;
	if (!is_sound(at, options) || ip->frag_off & bpf_htons(ANY_FRAGMENT) || ip->ttl <= 1 || first == 127 ||
	    first >= 224)
		return false;
	total = bpf_ntohs(ip->tot_len);
	if (total < length || total > end - at)
		return false;
	p->client[0] = 0;
	p->client[1] = mapped(ip->saddr);
	p->vip[0] = 0;
	p->vip[1] = mapped(ip->daddr);
	p->pseudo = (__u64)ip->saddr + ip->daddr;
	p->l4 = p->l3 + length;
	p->end = p->l3 + total;
	p->protocol = ip->protocol;
	p->tos = ip->tos;
	p->is_v6 = 0;
	return true;
}

/* Follows what comes between an IPv6 header and its transport: hop-by-hop, routing, authentication and destination options.
 * Returns the transport's protocol in the upper half and its distance from the IPv6 header in the lower; 0 if it is not found
 * within `length` bytes after the header. */
__noinline __u32 skip_extension_headers(struct xdp_md *ctx, __u32 l3, __u32 kind, __u32 length)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 at = sizeof(struct ipv6hdr);

	length += at;
	for (int i = 0; i < EXTENSION_HEADERS; i++) {
		__u8 *ext = data + (l3 & L3_OFFSETS) + (at & OFFSETS);

		if (kind == IPPROTO_TCP || kind == IPPROTO_UDP)
			break;
		if (kind != IPPROTO_HOPOPTS && kind != IPPROTO_ROUTING && kind != IPPROTO_AH && kind != IPPROTO_DSTOPTS)
			return 0;
		if ((void *)(ext + 8) > end || at + 8 > length)
			return 0;
		if ((kind == IPPROTO_HOPOPTS && i > 0) || (kind == IPPROTO_ROUTING && !ext[2] && ext[3]))
			return 0;
		at += kind == IPPROTO_AH ? (ext[1] + 2) * 4 : (ext[1] + 1) * 8;
		kind = ext[0];
		if (at > length)
			return 0;
	}
	return kind << 16 | at;
}

static __always_inline bool is_mapped(__u64 *address)
{
	return !address[0] && (__u32)address[1] == 0xffff0000;
}

static __always_inline bool read_ipv6(struct xdp_md *ctx, struct packet *p, void *at, void *end)
{
	struct ipv6hdr *ip = at;
	__u64 *address = (void *)&ip->saddr;
	__u32 length, transport;

	if ((void *)(ip + 1) > end || ip->version != 6 || ip->hop_limit <= 1)
		return false;
	length = bpf_ntohs(ip->payload_len);
	if (length > end - (void *)(ip + 1))
		return false;
	p->client[0] = address[0];
	p->client[1] = address[1];
	p->vip[0] = address[2];
	p->vip[1] = address[3];
	if ((p->client[0] & 0xff) == 0xff || is_mapped(p->client) || is_mapped(p->vip))
		return false;
	if (!p->client[0] && p->client[1] == LOOPBACK)
		return false;
	p->pseudo = words(p->client[0]) + words(p->client[1]) + words(p->vip[0]) + words(p->vip[1]);
	p->l4 = p->l3 + sizeof(*ip);
	p->end = p->l4 + length;
	p->protocol = ip->nexthdr;
	p->tos = traffic_class(at);
	p->is_v6 = 1;
	if (p->protocol != IPPROTO_TCP && p->protocol != IPPROTO_UDP) {
		transport = skip_extension_headers(ctx, p->l3, p->protocol, length);
		p->l4 = p->l3 + (transport & OFFSETS);
		p->protocol = transport >> 16;
	}
	return true;
}

static __always_inline bool read_transport(struct packet *p, void *at, void *end)
{
	__u32 length = p->end - p->l4;
	__be16 *word = at;

	if (at + sizeof(struct udphdr) > end)
		return false;
	if (p->protocol == IPPROTO_TCP) {
		__u32 header;

		if (length < 20 || at + 20 > end)
			return false;
		header = (((__u8 *)at)[12] >> 4) * 4;
		if (header < 20 || header > length)
			return false;
		p->checksum = word[8];
	} else if (p->protocol == IPPROTO_UDP) {
		__u32 stated = bpf_ntohs(word[2]);

		if (length < 8 || stated < 8 || stated > length)
			return false;
		p->checksum = word[3];
	} else {
		return false;
	}
	p->client_port = bpf_ntohs(word[0]);
	p->vip_port = bpf_ntohs(word[1]);
	p->pseudo += bpf_htons(p->protocol) + bpf_htons(length);
	return true;
}

/* Reads a frame whose transport is whole and in sight. False: it is not such, or user space would drop it. */
static __always_inline bool read_packet(struct xdp_md *ctx, struct packet *p)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	void *at = eth + 1;
	__be16 type;

	if (at > end)
		return false;
	type = eth->h_proto;
	p->l3 = sizeof(*eth);
	if (!skip_tags(&at, end, &type, &p->l3))
		return false;
	if (type == bpf_htons(ETH_P_IP)) {
		if (!read_ipv4(ctx, p, at, end))
			return false;
	} else if (type != bpf_htons(ETH_P_IPV6) || !read_ipv6(ctx, p, at, end)) {
		return false;
	}
	return read_transport(p, at + ((p->l4 - p->l3) & OFFSETS), end);
}

static __always_inline struct penstock_service *find_service(struct packet *p)
{
	__u32 tail = (__u32)p->vip_port << 16 | p->protocol;
	__u32 place = (p->vip[0] * config.keys[3] + (p->vip[1] ^ tail) * config.keys[4]) >> config.shift;

	for (int i = 0; i < PENSTOCK_PROBES; i++) {
		__u32 index = (place + i) & config.mask;
		struct penstock_service *s = bpf_map_lookup_elem(&services, &index);

		if (!s || !s->tail)
			return NULL;
		if (s->tail == tail && s->vip[0] == p->vip[0] && s->vip[1] == p->vip[1])
			return s;
	}
	return NULL;
}

/* The sum over all fields; what chooses the slot is in `chosen`. */
static __always_inline __u64 hash(struct packet *p, struct penstock_service *s, __u64 *chosen)
{
	__u64 addresses = mix(p->client[0] ^ config.keys[0], p->client[1] ^ config.keys[1]) ^ s->vip_hash;
	__u64 protocol = (__u64)p->protocol << 32;
	__u64 all = mix(addresses, (protocol | (__u32)p->client_port << 16 | p->vip_port) ^ config.keys[4]);

	*chosen = all;
	if (s->distribution == PENSTOCK_ADDRESSES)
		*chosen = mix(addresses, config.keys[4]);
	else if (s->distribution == PENSTOCK_ADDRESSES_PROTOCOL)
		*chosen = mix(addresses, protocol ^ config.keys[4]);
	return all;
}

static __always_inline struct penstock_backend *find_backend(struct penstock_service *s, __u64 chosen, __u32 *owner)
{
	struct penstock_pool *pool = bpf_map_lookup_elem(&pools, &s->pool);

	if (!pool)
		return NULL;
	*owner = pool->owner[chosen >> SLOT_SHIFT];
	if (*owner == PENSTOCK_ASK)
		return NULL;
	return bpf_map_lookup_elem(&backends, owner);
}

/* Completes the transport's checksum, of which its sender has left all but the pseudo-header to its interface. The transport
 * begins at `l4` and ends with the frame. */
__noinline bool complete_checksum(struct xdp_md *ctx, __u32 l4, bool is_udp)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	void *start = data + (l4 & OFFSETS), *at;
	__u32 length = (end - start) & LENGTHS, blocks = 0;
	__u16 *word = start;
	__u16 checksum;
	__u64 sum;

	for (int i = 0; i < BLOCKS && (i + 1) * BLOCK <= length; i++) {
		at = start + i * BLOCK;
		KEEP(at);
		if (at + BLOCK > end)
			return false;
		blocks = bpf_csum_diff(0, 0, at, BLOCK, blocks);
	}
	/* The rest by the bits of the length: where a part begins does not depend on what was done before, so that the
	 * verifier's ways meet again after each. */
#define PART_AT(size)                                              \
	at = start + (length & (LENGTHS & ~(2 * (size) - 1)));     \
	KEEP(at);                                                  \
	if (at + (size) > end)                                     \
		return false;
#define PART(size)                                                 \
	if (length & (size)) {                                     \
		PART_AT(size)                                      \
		blocks = bpf_csum_diff(0, 0, at, size, blocks);    \
	}
	PART(256) PART(128) PART(64) PART(32) PART(16) PART(8) PART(4)
	sum = blocks;
	if (length & 2) {
		PART_AT(2)
		sum += *(__u16 *)at;
	}
	if (length & 1) {
		PART_AT(1)
		sum += *(__u8 *)at;
	}
#undef PART
#undef PART_AT
	checksum = ~fold(sum);
	if (is_udp) {
		if (start + 8 > end)
			return false;
		word[3] = checksum ? checksum : 0xffff;
	} else {
		if (start + 20 > end)
			return false;
		word[8] = checksum;
	}
	return true;
}

static __always_inline void count_sent(void *map, __u32 *index, __u32 bytes, __u32 sent)
{
	struct penstock_traffic *traffic = bpf_map_lookup_elem(map, index);

	if (traffic) {
		traffic->packets += 1;
		traffic->bytes += bytes;
		traffic->sent += sent;
	}
}

static __always_inline int abort_frame(void)
{
	__u32 only = 0;
	__u64 *frames = bpf_map_lookup_elem(&aborted, &only);

	if (frames)
		*frames += 1;
	return XDP_ABORTED;
}

/* Writes all headers of the frame, which has been given its new length. */
static __always_inline bool write_frame(struct xdp_md *ctx, struct packet *p, struct penstock_backend *b, __u32 sent,
					__u64 entropy, bool is_partial)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	void *inner = data + config.headers;
	__u16 *type = inner - 2;
	struct udphdr *udp;

	if (inner + sizeof(struct iphdr) > end)
		return false;
	for (int i = 0; i < PENSTOCK_HEADERS_V4 / 8; i++)
		((__u64 *)data)[i] = b->headers[i];
	if (config.headers == PENSTOCK_HEADERS_V4) {
		udp = write_outer_ipv4(data + ETH_HLEN, ((__u16 *)b->headers)[12], sent - ETH_HLEN, p->tos);
	} else {
		((__u64 *)data)[8] = b->headers[8];
		((__u64 *)data)[9] = b->headers[9];
		((__u32 *)data)[20] = b->headers[10];
		udp = write_outer_ipv6(data + ETH_HLEN, sent - ETH_HLEN, p->tos);
	}
	udp->source = bpf_htons(0xc000 | (__u16)entropy);
	if (p->is_v6) {
		*type = bpf_htons(ETH_P_IPV6);
		((struct ipv6hdr *)inner)->hop_limit -= 1;
	} else {
		struct iphdr *ip = inner;
		/* A word gets smaller by 0x0100: ~m + m' is always 0xfeff (RFC 1624 equation 3). */
		__u32 sum = (__u16)~bpf_ntohs(ip->check) + 0xfeff;

		*type = bpf_htons(ETH_P_IP);
		ip->ttl -= 1;
		ip->check = bpf_htons(~((sum & 0xffff) + (sum >> 16)));
	}
	return !is_partial || complete_checksum(ctx, config.headers + p->l4 - p->l3, p->protocol == IPPROTO_UDP);
}

static __always_inline int replay(struct xdp_md *ctx)
{
	struct packet p;
	struct penstock_service *service;
	struct penstock_backend *backend;
	__u32 bytes = (__u32)(ctx->data_end - ctx->data), sent, owner;
	__u64 entropy, chosen;
	bool is_partial;

	if (!read_packet(ctx, &p))
		return LEAVE;
	service = find_service(&p);
	if (!service)
		return LEAVE;
	entropy = hash(&p, service, &chosen);
	backend = find_backend(service, chosen, &owner);
	if (!backend)
		return LEAVE;
	sent = config.headers + p.end - p.l3;
	/* The folded sum of the pseudo-header alone, which is never 0. */
	is_partial = p.checksum && is_zero(p.pseudo + (__u16)~p.checksum);
	if (sent - ETH_HLEN > config.mtu || (is_partial && p.end - p.l4 >= BLOCKS * BLOCK))
		return LEAVE;
	/* What lies behind the IP packet is padding of the Ethernet it came by. */
	if (bytes > p.end && bpf_xdp_adjust_tail(ctx, (int)(p.end - bytes)))
		return LEAVE;
	if (bpf_xdp_adjust_head(ctx, (int)(p.l3 - config.headers)))
		return LEAVE;
	if (!write_frame(ctx, &p, backend, sent, entropy, is_partial))
		return abort_frame();
	/* Handed to the driver, which does not tell a program what it could not send. */
	count_sent(&service_traffic, &service->service, bytes, sent);
	/* A backend is not sent the padding that a rule was offered. */
	count_sent(&backend_traffic, &owner, p.end, sent);
	return config.out ? bpf_redirect(config.out, 0) : XDP_TX;
}

SEC("xdp")
int penstock_mux(struct xdp_md *ctx)
{
	__u32 only = 0;
	__u64 *until = bpf_map_lookup_elem(&lease, &only);
	int action = until && bpf_ktime_get_coarse_ns() < *until ? replay(ctx) : LEAVE;

	return action == LEAVE ? steer(ctx) : action;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
