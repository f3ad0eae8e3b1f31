//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * drop.c: skb:kfree_skb, a packet freed as a drop.
 *
 * The tracepoint fires only when the last reference goes, so it also ends the
 * trail. Its arguments: (skb, location) to 5.16, then (skb, location, reason),
 * and (skb, location, reason, rx_sk) from 6.11 on.
 *
 * Behind the record is the kernel's stack if that was asked for: return
 * addresses, the innermost first, then zeros.
 */
#include "probe.h"
#include "sample.h"
#include "equal.h"

/* The kernel's stack is wanted: so many return addresses of it, in 8 bytes each. */
#define STACK_BYTES (32 * 8)

const volatile bool with_stack = false;

/*
 * Where is a packet that has no device any more, on its way into a socket? From
 * 6.11 on the kernel tells the socket. Else its route knows, unless that is let go
 * as well, as by UDP.
 */
static __always_inline __u32 netns_at_socket(struct bpf_raw_tracepoint_args *ctx,
					     struct sk_buff *skb)
{
	__u32 inum = has_rx_sk ? netns_of_sock((void *)ctx->args[3]) : 0;
	struct dst_entry *dst = (void *)(READ(skb, _skb_refdst) & ~1ul);

	return inum || !dst ? inum : netns_of_dev(READ(dst, dev));
}

SEC("raw_tp/kfree_skb")
int kfree_skb(struct bpf_raw_tracepoint_args *ctx)
{
	struct sk_buff *skb = (void *)ctx->args[0];
	__u32 low = low32(skb), inum, ifindex;
	__u64 key = (__u64)skb;
	struct trail *t = NULL;
	struct hook_stats *st;
	struct draft *d = NULL;
	struct record *rec;
	struct view v;
	bool carried;
	__u32 ext_len = with_stack ? STACK_BYTES : 0;

	if (maybe_tracked(low))
		t = trail_of(key);
	place_of(skb, &inum, &ifindex);
	if (t && !inum) { /* dev was cleared on the way to a socket */
		inum = t->netns;
		ifindex = t->ifindex;
	}
	if (!inum) {
		inum = netns_at_socket(ctx, skb);
		ifindex = inum ? READ(skb, skb_iif) : 0;
	}
	/* The cheaper question first. */
	if (!t && !netns_wanted(inum))
		return 0;
	v = view_of(skb);
	/* Packets that passed a device have a protocol: the memory is another's by now. */
	if (t && !v.ok && !READ(skb, protocol)) {
		trail_end(t, low);
		return 0;
	}
	if (!t && (!filter_view(&v) || left_out(&v, HOOK_KFREE_SKB)))
		return 0;

	st = stats_of(HOOK_KFREE_SKB);
	if (!st)
		return 0;
	st->seen++;
	if (count_equal) {
		d = draft_begin();
		rec = d ? &d->rec : NULL;
	} else {
		rec = bpf_ringbuf_reserve(&ring, sizeof(*rec) + ext_len + snaplen, 0);
	}
	if (!rec) {
		st->lost++;
		if (t)
			trail_end(t, low);
		return 0;
	}
	record_begin(rec, HOOK_KFREE_SKB, key, 0);
	rec->location = ctx->args[1];
	rec->netns = inum;
	rec->ifindex = ifindex;
	rec->mark = READ(skb, mark);
	rec->len = v.ok ? v.wire_len : READ(skb, len);
	rec->reason = has_reason ? (__u32)ctx->args[2] : 0;
	rec->flags = RECORD_END;
	rec->ext_len = ext_len;
	if (with_stack) {
		__builtin_memset(rec + 1, 0, STACK_BYTES);
		bpf_get_stack(ctx, rec + 1, STACK_BYTES, 0);
	}
	carried = identify(rec, &v, ext_len);

	if (t && (!v.ok || continues(t, rec))) {
		trail_go_on(t, rec);
	} else {
		if (t && (!filter_view(&v) || left_out(&v, HOOK_KFREE_SKB))) {
			trail_end(t, low);
			if (count_equal)
				draft_end(d);
			else
				bpf_ringbuf_discard(rec, BPF_RB_NO_WAKEUP);
			return 0;
		}
		rec->trail = new_trail_id();
		rec->flags |= RECORD_START | (t ? RECORD_REUSED : 0);
	}
	if (t)
		trail_end(t, low);
	show(rec, &v, ext_len, carried);
	if (count_equal) {
		if (t || !counted(d))
			write_draft(d, st);
		draft_end(d);
		return 0;
	}
	st->records++;
	bpf_ringbuf_submit(rec, BPF_RB_NO_WAKEUP);
	return 0;
}
