/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * trail.h: which records are one packet.
 *
 * A trail is the life of one struct sk_buff, from the first hook where the
 * filter matched to its free. The pointer is the key: it survives the veth
 * crossing between namespaces, NFQUEUE and back, bridging, NAT. It is reused
 * as soon as the skb is freed, and not every free can be seen on every kernel
 * (host kernels without kprobes miss most), so a pointer is never trusted
 * alone. The content has to agree as well:
 *
 *  - what nothing on the way changes must be the same: protocol, IP id, TCP
 *    sequence, acknowledgement and flags, ICMP id and sequence, payload
 *    length, the first payload bytes of UDP;
 *  - addresses may change (NAT), but not both in one step: DNAT and SNAT of
 *    one packet happen at different hooks;
 *  - the TTL never grows, and a packet is not a second time where its trail
 *    began with the TTL it had there (that is a retransmission, or the same
 *    bytes sent again).
 *
 * In VXLAN the skb stays the same while the kernel puts headers around the
 * packet and takes them off again. So a VXLAN packet is known by the packet it
 * carries: that is parsed into the record first, compared, and then what is
 * around it. The outer headers may change as they like. VXLAN is told by its
 * port; where the kernel keeps note of it (skb->encapsulation) is true of
 * packets it made itself only.
 *
 * What contradicts ends the old trail and, if the filter matches, starts a
 * new one, flagged RECORD_REUSED.
 *
 * Failure modes: a retransmission with the same IP id that gets the same
 * pointer and is first seen at a later hook than the trail began; two
 * packets of equal content through an encapsulating device; VXLAN on another
 * port than vxlan_frame() knows, and VXLAN in VXLAN; a packet that waits while
 * as many others as there are entries pass at new addresses.
 *
 * Most packets are not tracked, so `tracked` is asked first: a counter per
 * bucket of pointers, in .bss, one load without a helper call. It only errs
 * towards "maybe", which costs a lookup.
 */
#ifndef WAYMARK_TRAIL_H
#define WAYMARK_TRAIL_H

#include "state.h"
#include "parse.h"

struct trail {
	__u64 id; /* 0: over. The entry is used again for the next packet there. */
	__u64 parent;
	__u64 content; /* fingerprint of what nothing on the way changes */
	__u32 netns;   /* where it was last seen */
	__u32 ifindex;
	__u32 start_netns; /* where it began */
	__u32 start_ifindex;
	__u16 start_hook;
	__u8 start_ttl;
	__u8 ttl;  /* when last seen */
	__u32 src; /* folded addresses when last seen */
	__u32 dst;
	__u32 pad;
};

/*
 * Entries are never taken out: to write over the one that an address has takes
 * a tenth of what it takes to delete and insert it, and addresses come again
 * soon. LRU, for those that do not. 16384 is four times what the queues of
 * Meridio's balancer hold, and fits the caches better than more.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct trail);
} trails SEC(".maps");

/* One counter of trails begun per CPU; with the CPU in the lower bits an id. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} trail_ids SEC(".maps");

/* 4096 buckets: 16 KiB, so that they stay in the first caches. */
#define TRACKED_BITS 12
__u32 tracked[1 << TRACKED_BITS];

/*
 * sk_buffs are at least 64-byte aligned. The low 32 bits are enough for a
 * bucket, and may be taken of a context pointer, which the verifier does not
 * let us shift.
 */
static __always_inline __u32 *tracked_bucket(__u32 skb_low)
{
	__u32 h = (skb_low >> 6) * 2654435761u; /* Knuth's multiplicative hash */

	return &tracked[h >> (32 - TRACKED_BITS) & ((1 << TRACKED_BITS) - 1)];
}

static __always_inline __u32 low32(const void *ptr)
{
	__u32 low;

	/* A 32-bit move makes a number of it; the compiler would leave it out. */
	asm volatile("%0 = %1" : "=w"(low) : "w"((__u32)(__u64)ptr));
	return low;
}

static __always_inline bool maybe_tracked(__u32 skb_low)
{
	return *(volatile __u32 *)tracked_bucket(skb_low) != 0;
}

static __always_inline __u64 mix(__u64 h, __u64 v)
{
	h ^= v;
	h *= 0x9e3779b97f4a7c15ull; /* 2^64 / golden ratio */
	return h ^ h >> 29;
}

static __always_inline __u64 content_of(const struct record *rec)
{
	__u64 h = mix(0, (__u64)rec->l3_proto << 48 | (__u64)rec->proto << 40 |
				 (__u64)rec->tcp_flags << 32 | (__u64)rec->ip_id << 16 |
				 rec->payload_len);

	h = mix(h, (__u64)rec->seq << 32 | rec->ack);
	return mix(h, (__u64)rec->frag_off << 16 | rec->icmp_type << 8 | rec->icmp_code);
}

static __always_inline __u32 fold(const __u8 *addr)
{
	const __u32 *w = (const void *)addr;

	return w[0] ^ w[1] * 31 ^ w[2] * 961 ^ w[3] * 29791;
}

static __always_inline __u64 new_trail_id(void)
{
	__u32 zero = 0;
	__u64 *n = bpf_map_lookup_elem(&trail_ids, &zero);

	if (!n)
		return 0;
	/* 10 bits for the CPU: ids stay short enough to read aloud */
	return ++*n << 10 | (bpf_get_smp_processor_id() & 1023);
}

/* Does the packet in rec go on with trail t? */
static __always_inline bool continues(const struct trail *t, const struct record *rec)
{
	if (t->content != content_of(rec))
		return false;
	if (t->src != fold(rec->src) && t->dst != fold(rec->dst))
		return false;
	if (rec->ttl > t->ttl)
		return false;
	return !(rec->hook == t->start_hook && rec->netns == t->start_netns &&
		 rec->ifindex == t->start_ifindex && rec->ttl == t->start_ttl);
}

/* The trail of the packet at skb, or NULL. */
static __always_inline struct trail *trail_of(__u64 skb)
{
	struct trail *t = bpf_map_lookup_elem(&trails, &skb);

	return t && t->id ? t : NULL;
}

static __always_inline void trail_end(struct trail *t, __u32 skb_low)
{
	if (!t->id)
		return;
	t->id = 0;
	__sync_fetch_and_add(tracked_bucket(skb_low), -1);
}

/*
 * Write t to the entry old that the address skb has already, if there is one.
 * False: there is no room for another.
 */
static __always_inline bool trail_put(__u64 skb, __u32 skb_low, const struct trail *t,
				      struct trail *old)
{
	bool live = old && old->id;

	if (old)
		*old = *t;
	else if (bpf_map_update_elem(&trails, &skb, t, BPF_ANY))
		return false;
	if (!live)
		__sync_fetch_and_add(tracked_bucket(skb_low), 1);
	return true;
}

/* Go on with t at the place rec tells of. */
static __always_inline void trail_go_on(struct trail *t, struct record *rec)
{
	rec->trail = t->id;
	rec->parent = t->parent;
	t->netns = rec->netns;
	t->ifindex = rec->ifindex;
	t->ttl = rec->ttl;
	t->src = fold(rec->src);
	t->dst = fold(rec->dst);
}

/*
 * Begin a trail for the packet in rec. old is the entry that the pointer has
 * already, or NULL.
 */
static __always_inline void trail_begin(__u64 skb, __u32 skb_low, struct record *rec,
					struct trail *old)
{
	struct trail t = {
		.id = new_trail_id(),
		.parent = rec->parent,
		.content = content_of(rec),
		.netns = rec->netns,
		.ifindex = rec->ifindex,
		.start_netns = rec->netns,
		.start_ifindex = rec->ifindex,
		.start_hook = rec->hook,
		.start_ttl = rec->ttl,
		.ttl = rec->ttl,
		.src = fold(rec->src),
		.dst = fold(rec->dst),
	};

	rec->trail = t.id;
	rec->flags |= RECORD_START;
	if (old && old->id)
		rec->flags |= RECORD_REUSED;
	if (!trail_put(skb, skb_low, &t, old)) {
		struct hook_stats *s = stats_of(rec->hook);

		if (s)
			s->untracked++;
	}
}

#endif
