/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * sample.h: fewer flows are followed, to keep to a budget.
 *
 * Asked where a trail would begin, and before anything is written. What is
 * followed goes by a hash of protocol, addresses and ports that both directions
 * share, so a flow is seen whole or not at all. NAT gives a packet another
 * hash: answers that reply.h knows belong to packets that are followed and are
 * never left out; a packet that was left out may be followed from there on.
 */
#ifndef WAYMARK_SAMPLE_H
#define WAYMARK_SAMPLE_H

#include "probe.h"
#include "reply.h"

/*
 * Of 2^n flows one is followed: those whose hash has zeros in these n lowest
 * bits. 0: all. User space changes it while the programs run.
 */
volatile __u32 sample_mask;

/* By helper in TC programs, else (ctx NULL) from kernel memory at start. */
static __always_inline bool read_at(struct __sk_buff *ctx, __u64 start, __u32 off, void *to,
				    __u32 n)
{
	if (ctx)
		return !bpf_skb_load_bytes(ctx, off, to, n);
	return !bpf_probe_read_kernel(to, n, (void *)(start + off));
}

/*
 * The flow's hash; off is where the network header is. What is not IP has 0
 * and is always followed. Fragments have no ports but in the first, so all go
 * by their addresses.
 */
static __always_inline __u32 flow_hash(struct __sk_buff *ctx, __u64 start, __u32 off,
				       __u16 l3_proto)
{
	__u32 h[10], addrs, ports = 0;
	bool whole = true;
	__u16 p[4];
	__u8 proto;

	if (l3_proto == ETH_P_IP) {
		if (!read_at(ctx, start, off, h, 20))
			return 0;
		addrs = h[3] + h[4];
		proto = ((__u8 *)h)[9];
		whole = !(h[1] & bpf_htonl(0x3fff)); /* no offset, no more fragments */
		off += (((__u8 *)h)[0] & 0xf) * 4;
	} else if (l3_proto == ETH_P_IPV6) {
		if (!read_at(ctx, start, off, h, 40))
			return 0;
		addrs = (h[2] + h[6]) + (h[3] + h[7]) * 31 + (h[4] + h[8]) * 961 +
			(h[5] + h[9]) * 29791;
		proto = ((__u8 *)h)[6];
		off += 40;
	} else {
		return 0;
	}
	if (whole && wants_ports(proto) && read_at(ctx, start, off, p, 4))
		ports = p[0] + p[1];
	else if (whole && (proto == IPPROTO_ICMP || proto == IPPROTO_ICMPV6) &&
		 read_at(ctx, start, off, p, 8))
		ports = p[2]; /* identifier of an echo */
	return mix(mix(0, addrs), (__u64)ports << 8 | proto) >> 32;
}

static __always_inline bool count_left_out(enum hook hook)
{
	struct hook_stats *st = stats_of(hook);

	if (st)
		st->sampled_out++;
	return true;
}

static __noinline int device_left_out(struct __sk_buff *ctx, enum hook hook)
{
	if (!(flow_hash(ctx, 0, ETH_HLEN, bpf_ntohs(ctx->protocol)) & sample_mask))
		return 0;
	if (*(volatile __u32 *)&replies_known && is_reply(ctx))
		return 0;
	return count_left_out(hook);
}

/* Global, so that the verifier looks at it once and not for every way to it. */
__noinline int probe_left_out(__u64 start, __u32 off, __u16 l3_proto, enum hook hook)
{
	if (!(flow_hash(NULL, start, off, l3_proto) & sample_mask))
		return 0;
	return count_left_out(hook);
}

/* Of a packet without a trail, as probe.h sees it: is it not to be followed? */
static __always_inline bool left_out(const struct view *v, enum hook hook)
{
	return sample_mask && probe_left_out(v->start, v->l3 ? 0 : ETH_HLEN, v->l3_proto, hook);
}

/* Is the packet of interest, by the filter or as an answer? */
static __always_inline bool wanted(struct __sk_buff *ctx, enum hook hook)
{
	if (filter_tc(ctx))
		return !sample_mask || !device_left_out(ctx, hook);
	return *(volatile __u32 *)&replies_known && is_reply(ctx);
}

#endif
