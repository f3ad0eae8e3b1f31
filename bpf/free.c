//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * free.c: a packet freed after use, and packets made of another.
 *
 * consume_skb and drops are tracepoints and exist everywhere, but most skbs
 * die in paths without one (__kfree_skb, deferred frees, the NAPI cache).
 * kfree_skbmem, and napi_skb_cache_put where it is not inlined, see them all.
 *
 * A packet bigger than the MTU (GSO) is cut into segments for a device or a
 * queue that wants them single; what is left of it is freed without a reason.
 */
#include "probe.h"

static __always_inline int free_hook(struct sk_buff *skb, enum hook hook, __u64 location)
{
	__u32 low = low32(skb);
	__u64 key = (__u64)skb;
	struct hook_stats *st;
	struct record *rec;
	struct trail *t;

	if (!maybe_tracked(low))
		return 0;
	t = trail_of(key);
	if (!t)
		return 0;
	st = stats_of(hook);
	if (!st)
		return 0;
	st->seen++;
	/* Only the header: a packet that was used up tells nothing new. */
	rec = bpf_ringbuf_reserve(&ring, sizeof(*rec), 0);
	if (!rec) {
		st->lost++;
		trail_end(t, low);
		return 0;
	}
	record_begin(rec, hook, key, 0);
	/*
	 * Packets that passed a device have a protocol. Without one the memory is
	 * another's by now, a netlink message's say: the packet's end was not seen.
	 */
	rec->location = READ(skb, protocol) ? location : 0;
	rec->trail = t->id;
	rec->parent = t->parent;
	rec->netns = t->netns;
	rec->ifindex = t->ifindex;
	rec->mark = READ(skb, mark);
	rec->len = READ(skb, len);
	rec->flags = RECORD_END;
	trail_end(t, low);
	st->records++;
	bpf_ringbuf_submit(rec, BPF_RB_NO_WAKEUP);
	return 0;
}

/* (skb) to 6.7, (skb, location) after; the register is there either way. */
SEC("raw_tp/consume_skb")
int consume_skb(struct bpf_raw_tracepoint_args *ctx)
{
	return free_hook((void *)ctx->args[0], HOOK_CONSUME_SKB, has_location ? ctx->args[1] : 0);
}

SEC("fentry/kfree_skbmem")
int BPF_PROG(fentry_kfree_skbmem, struct sk_buff *skb)
{
	return free_hook(skb, HOOK_KFREE_SKBMEM, 0);
}

SEC("kprobe/kfree_skbmem")
int BPF_KPROBE(kprobe_kfree_skbmem, struct sk_buff *skb)
{
	return free_hook(skb, HOOK_KFREE_SKBMEM, 0);
}

SEC("fentry/napi_skb_cache_put")
int BPF_PROG(fentry_napi_skb_cache_put, struct sk_buff *skb)
{
	return free_hook(skb, HOOK_KFREE_SKBMEM, 0);
}

SEC("kprobe/napi_skb_cache_put")
int BPF_KPROBE(kprobe_napi_skb_cache_put, struct sk_buff *skb)
{
	return free_hook(skb, HOOK_KFREE_SKBMEM, 0);
}

/*
 * A copy of a tracked packet is tracked too, as its child. Two of these are at
 * skb_clone: an interrupt that clones while one of them runs meets the other.
 */
static __always_inline int clone_hook(struct sk_buff *skb, struct sk_buff *copy)
{
	__u64 key = (__u64)skb, copy_key = (__u64)copy;
	struct hook_stats *st;
	struct record *rec;
	struct trail *t, *earlier, child;

	if (!copy || !maybe_tracked(low32(skb)))
		return 0;
	t = trail_of(key);
	if (!t)
		return 0;
	earlier = bpf_map_lookup_elem(&trails, &copy_key);
	if (earlier && earlier->id && earlier->parent == t->id)
		return 0; /* this program's twin was here */
	st = stats_of(HOOK_SKB_CLONE);
	if (!st)
		return 0;
	st->seen++;
	child = *t;
	child.id = new_trail_id();
	child.parent = t->id;
	if (!trail_put(copy_key, low32(copy), &child, earlier)) {
		st->untracked++;
		return 0;
	}
	rec = bpf_ringbuf_reserve(&ring, sizeof(*rec), 0);
	if (!rec) {
		st->lost++;
		return 0;
	}
	record_begin(rec, HOOK_SKB_CLONE, copy_key, 0);
	rec->trail = child.id;
	rec->parent = child.parent;
	rec->netns = child.netns;
	rec->ifindex = child.ifindex;
	rec->mark = READ(copy, mark);
	rec->len = READ(copy, len);
	st->records++;
	bpf_ringbuf_submit(rec, BPF_RB_NO_WAKEUP);
	return 0;
}

SEC("fexit/skb_clone")
int BPF_PROG(fexit_skb_clone, struct sk_buff *skb, __u32 gfp, struct sk_buff *ret)
{
	return clone_hook(skb, ret);
}

SEC("fexit/skb_copy")
int BPF_PROG(fexit_skb_copy, struct sk_buff *skb, __u32 gfp, struct sk_buff *ret)
{
	return clone_hook(skb, ret);
}

/* Longer lists do not occur: 64 KiB in segments of 1,448 bytes are 46. */
#define MAX_SEGMENTS 64

/*
 * A segment is another packet than the big one: its own length and sequence.
 * Global, so that the verifier looks at it once and not for every segment.
 */
__noinline int segment_record(__u64 key, __u64 parent, __u32 inum, __u32 ifindex)
{
	struct sk_buff *seg = (void *)key;
	struct hook_stats *st = stats_of(HOOK_SKB_SEGMENT);
	struct record *rec;
	struct view v;
	bool carried;

	if (!st)
		return 0;
	st->seen++;
	v = view_of(seg);
	rec = bpf_ringbuf_reserve(&ring, sizeof(*rec) + snaplen, 0);
	if (!rec) {
		st->lost++;
		return 0;
	}
	record_begin(rec, HOOK_SKB_SEGMENT, key, 0);
	rec->netns = inum;
	rec->ifindex = ifindex;
	rec->mark = READ(seg, mark);
	rec->len = v.ok ? v.wire_len : READ(seg, len);
	carried = identify(rec, &v, 0);
	rec->parent = parent;
	trail_begin(key, low32(seg), rec, bpf_map_lookup_elem(&trails, &key));
	show(rec, &v, 0, carried);
	rec->flags &= ~RECORD_START; /* the filter was not asked */
	st->records++;
	bpf_ringbuf_submit(rec, BPF_RB_NO_WAKEUP);
	return 0;
}

SEC("fexit/__skb_gso_segment")
int BPF_PROG(fexit_gso_segment, struct sk_buff *skb, __u64 features, bool tx_path,
	     struct sk_buff *ret)
{
	__u64 key = (__u64)skb, seg = 0;
	__u32 inum, ifindex;
	struct trail *t;
	__u64 parent;
	int i;

	if (!maybe_tracked(low32(skb)))
		return 0;
	t = trail_of(key);
	if (!t)
		return 0;
	/* Making the segments' entries may take this one's place. */
	parent = t->id;
	inum = t->netns;
	ifindex = t->ifindex;
	/* ret, as the number that a global function may get */
	bpf_probe_read_kernel(&seg, sizeof(seg), &ctx[3]);
	for (i = 0; i < MAX_SEGMENTS; i++) {
		if (!seg || seg >= (__u64)-4095) /* the end, or an error pointer */
			break;
		segment_record(seg, parent, inum, ifindex);
		seg = (__u64)BPF_CORE_READ((struct sk_buff *)seg, next);
	}
	return 0;
}
