//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * device.c: a packet enters or leaves a device, at TC.
 *
 * The same two programs run as tcx links (6.6 and later) and as cls_bpf
 * filters with direct action. They only watch: TC_ACT_UNSPEC goes on with
 * whatever else is attached.
 */
#include "trail.h"
#include "sample.h"

/* Copy the packet from off on into a record without snapshot, and parse it. */
static __noinline int take(struct __sk_buff *ctx, struct record *rec, __u32 off)
{
	struct parsed *snap = (void *)(rec + 1);
	__s64 n = (__s64)ctx->len - off;

	if (n > snaplen)
		n = snaplen;
	if (bounded(&n) && !bpf_skb_load_bytes(ctx, off, snap, n))
		rec->snap_len = n;
	parse_packet(rec, snap);
	return 0;
}

/*
 * Write the record of a packet that matched or may be tracked. Not inline:
 * what almost every packet runs through stays a few cache lines.
 */
static __noinline int device_record(struct __sk_buff *ctx, enum hook hook, bool matched)
{
	__u32 low = low32(ctx);
	__u64 key = (__u64)ctx;
	struct hook_stats *st;
	struct sk_buff *skb;
	struct record *rec;
	struct trail *slot, *t;
	__u32 frame;

	slot = bpf_map_lookup_elem(&trails, &key);
	t = slot && slot->id ? slot : NULL;
	if (!t && !matched && !wanted(ctx, hook))
		return TC_ACT_UNSPEC;

	st = stats_of(hook);
	if (!st)
		return TC_ACT_UNSPEC;
	st->seen++;
	rec = bpf_ringbuf_reserve(&ring, sizeof(*rec) + snaplen, 0);
	if (!rec) {
		st->lost++;
		return TC_ACT_UNSPEC;
	}
	record_begin(rec, hook, key, 0);
	skb = (void *)ctx;
	rec->netns = netns_of_dev(READ(skb, dev));
	rec->ifindex = ctx->ifindex;
	rec->mark = ctx->mark;
	rec->len = ctx->len;
	rec->verdict = TC_ACT_UNSPEC;
	if (ctx->vlan_present) {
		rec->flags |= RECORD_VLAN;
		rec->vlan_tci = ctx->vlan_tci;
	}

	take(ctx, rec, 0);
	frame = vxlan_frame(rec);
	if (frame) {
		forget_packet(rec);
		take(ctx, rec, frame);
	}

	if (t && continues(t, rec)) {
		trail_go_on(t, rec);
	} else {
		/* Another packet in the memory of one whose free was not seen. */
		if (t && !matched && !wanted(ctx, hook)) {
			trail_end(t, low);
			bpf_ringbuf_discard(rec, BPF_RB_NO_WAKEUP);
			return TC_ACT_UNSPEC;
		}
		trail_begin(key, low, rec, slot);
	}
	if (frame) {
		forget_packet(rec);
		take(ctx, rec, 0);
	}
	rec->at = 0;
	st->records++;
	bpf_ringbuf_submit(rec, BPF_RB_NO_WAKEUP);
	return TC_ACT_UNSPEC;
}

/* The way of almost every packet: a load, the filter, and on. No helper call. */
static __always_inline int device_hook(struct __sk_buff *ctx, enum hook hook)
{
	if (maybe_tracked(low32(ctx)))
		return device_record(ctx, hook, false);
	if (wanted(ctx, hook))
		return device_record(ctx, hook, true);
	return TC_ACT_UNSPEC;
}

SEC("tc")
int tc_ingress(struct __sk_buff *ctx)
{
	return device_hook(ctx, HOOK_TC_INGRESS);
}

SEC("tc")
int tc_egress(struct __sk_buff *ctx)
{
	return device_hook(ctx, HOOK_TC_EGRESS);
}
