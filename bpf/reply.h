/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * reply.h: the answers to a packet whose addresses were changed on the way.
 *
 * The filter knows the addresses before the change; until they are changed
 * back, the answers have others and would not match. Conntrack and IPVS know
 * them, so they are noted when a followed packet is translated (nat.c, ipvs.c),
 * and packets that enter or leave a device are compared with them (device.c).
 */
#ifndef WAYMARK_REPLY_H
#define WAYMARK_REPLY_H

#include "state.h"

/* Addresses and ports of an answer, as on the wire; IPv4 as ::ffff:a.b.c.d. */
struct reply_key {
	__u8 src[16];
	__u8 dst[16];
	__be16 sport; /* ICMP: the identifier, and dport is 0 */
	__be16 dport;
	__u8 proto;
	__u8 pad[3];
};

/* LRU, because the end of a connection is not seen. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096); /* connections; with more the oldest are forgotten */
	__type(key, struct reply_key);
	__type(value, __u8);
} replies SEC(".maps");

/* Set with the first entry: without NAT no packet pays more than this load. */
__u32 replies_known;

static __always_inline void map_v4(__u8 *addr, const void *v4)
{
	addr[10] = addr[11] = 0xff;
	__builtin_memcpy(addr + 12, v4, 4);
}

static __always_inline bool wants_ports(__u8 proto)
{
	return proto == IPPROTO_TCP || proto == IPPROTO_UDP || proto == IPPROTO_UDPLITE ||
	       proto == IPPROTO_SCTP;
}

static __always_inline void learn_reply(const struct reply_key *key)
{
	__u8 yes = 1;

	if (bpf_map_lookup_elem(&replies, key))
		return;
	bpf_map_update_elem(&replies, key, &yes, BPF_ANY);
	replies_known = 1;
}

/* Not inline: the path of almost every packet stays short. */
static __noinline int is_reply(struct __sk_buff *ctx)
{
	struct reply_key key = {};
	__u32 off = ETH_HLEN;
	__u8 h[40];

	if (ctx->protocol == bpf_htons(ETH_P_IP)) {
		if (bpf_skb_load_bytes(ctx, off, h, 20) || (h[6] & 0x1f) || h[7])
			return 0; /* a later fragment has no ports */
		key.proto = h[9];
		map_v4(key.src, h + 12);
		map_v4(key.dst, h + 16);
		off += (h[0] & 0xf) * 4;
	} else if (ctx->protocol == bpf_htons(ETH_P_IPV6)) {
		if (bpf_skb_load_bytes(ctx, off, h, 40))
			return 0;
		key.proto = h[6];
		__builtin_memcpy(key.src, h + 8, 16);
		__builtin_memcpy(key.dst, h + 24, 16);
		off += 40;
	} else {
		return 0;
	}
	if (bpf_skb_load_bytes(ctx, off, h, 8))
		return 0;
	if (wants_ports(key.proto)) {
		__builtin_memcpy(&key.sport, h, 2);
		__builtin_memcpy(&key.dport, h + 2, 2);
	} else if (key.proto == IPPROTO_ICMP || key.proto == IPPROTO_ICMPV6) {
		__builtin_memcpy(&key.sport, h + 4, 2);
	}
	return bpf_map_lookup_elem(&replies, &key) != NULL;
}

#endif
