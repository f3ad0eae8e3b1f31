/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * equal.h: drops that are equal are counted here, instead of a record for each.
 *
 * For those who read counts anyway. A record is made in a draft. The first of a
 * kind is written; of the next ones, equal but for what differs from packet to
 * packet, only their number is kept, until user space runs tell_equal: that
 * writes one record for all of them, with record.equal set. A kind that is in
 * the way of another is told then. So each drop is told once, whatever the
 * number of kinds; with more of them than there are entries, each by itself.
 */
#ifndef WAYMARK_EQUAL_H
#define WAYMARK_EQUAL_H

#include "trail.h"

/* Drops are counted; then snaplen is PARSE_LEN and with_stack is not set. */
const volatile bool count_equal = false;

/* A power of two: per CPU 2048 * 320 bytes, 640 KiB. */
#define EQUALS 2048

struct equal {
	__u64 count;	      /* generation << 32 | drops of this kind that are not told yet */
	__u64 time_ns;	      /* of the latest of them */
	struct record drop;   /* what they have in common; what they have not is 0 */
	__u8 snap[PARSE_LEN]; /* of the first of them */
};

/* Entries are found by a hash. User space makes it one entry if it does not count. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, EQUALS);
	__type(key, __u32);
	__type(value, struct equal);
} equals SEC(".maps");

struct draft {
	struct record rec;
	__u8 snap[PARSE_LEN];
	__u32 busy;    /* being filled */
	__u32 pending; /* there is something to tell of this CPU */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct draft);
} drafts SEC(".maps");

/* Kernels before 6.2 let an interrupt run the program within itself: NULL then. */
static __always_inline struct draft *draft_begin(void)
{
	__u32 zero = 0;
	struct draft *d = bpf_map_lookup_elem(&drafts, &zero);

	if (!d || *(volatile __u32 *)&d->busy)
		return NULL;
	*(volatile __u32 *)&d->busy = 1;
	return d;
}

static __always_inline void draft_end(struct draft *d)
{
	*(volatile __u32 *)&d->busy = 0;
}

static __always_inline void write_draft(struct draft *d, struct hook_stats *st)
{
	if (bpf_ringbuf_output(&ring, d, sizeof(d->rec) + sizeof(d->snap), BPF_RB_NO_WAKEUP))
		st->lost++;
	else
		st->records++;
}

/*
 * Write what e has counted as one record, and count from 0. It may be another
 * CPU's, which goes on counting. False: there is no room, it stays counted.
 */
static __always_inline bool tell(struct equal *e)
{
	struct hook_stats *st = stats_of(HOOK_KFREE_SKB);
	struct record *rec;
	__u64 was = *(volatile __u64 *)&e->count;

	if (!(__u32)was)
		return true;
	rec = bpf_ringbuf_reserve(&ring, sizeof(*rec) + sizeof(e->snap), 0);
	if (!rec)
		return false;
	__builtin_memcpy(rec, &e->drop, sizeof(e->drop) + sizeof(e->snap));
	rec->time_ns = e->time_ns;
	rec->trail = new_trail_id();
	rec->equal = (__u32)was - 1;
	/* Else there is one more by now, or another kind, or it is told. */
	if (__sync_val_compare_and_swap(&e->count, was, was >> 32 << 32) != was) {
		bpf_ringbuf_discard(rec, BPF_RB_NO_WAKEUP);
		return false;
	}
	bpf_ringbuf_submit(rec, BPF_RB_NO_WAKEUP);
	if (st)
		st->records++;
	return true;
}

/*
 * Count the drop in d, whose record is whole, if it is like one before it. Else
 * false: it is the first of its kind, which is known from now on.
 */
static __noinline int counted(struct draft *d)
{
	struct record kind = d->rec;
	struct hook_stats *st;
	struct equal *e;
	__u64 h = 0, was;
	bool same = true;
	__u32 i;

	kind.time_ns = kind.trail = kind.skb = 0;
	kind.pid = kind.cpu = 0;
	kind.seq = kind.ack = kind.ip_id = 0;
	for (i = 0; i < sizeof(kind) / 8; i++)
		h = mix(h, ((__u64 *)&kind)[i]);
	i = h >> 32 & (EQUALS - 1);
	e = bpf_map_lookup_elem(&equals, &i);
	if (!e)
		return 0;
	for (i = 0; i < sizeof(kind) / 8; i++)
		same &= ((__u64 *)&kind)[i] == ((__u64 *)&e->drop)[i];
	if (same) {
		e->time_ns = d->rec.time_ns;
		__sync_fetch_and_add(&e->count, 1);
		*(volatile __u32 *)&d->pending = 1;
		return 1;
	}
	tell(e);
	/* The generation first: tell on another CPU may be reading the drop. */
	was = *(volatile __u64 *)&e->count;
	was = __sync_lock_test_and_set(&e->count, ((was >> 32) + 1) << 32);
	st = stats_of(HOOK_KFREE_SKB);
	if (st)
		st->lost += (__u32)was;
	e->drop = kind;
	__builtin_memcpy(e->snap, d->snap, sizeof(e->snap));
	return 0;
}

/* What tell_equal is about. */
struct telling {
	__u32 cpu;
	__u32 left; /* entries that could not be told */
};

static long tell_entry(__u32 i, struct telling *t)
{
	struct equal *e = bpf_map_lookup_percpu_elem(&equals, &i, t->cpu);

	if (e && !tell(e))
		t->left++;
	return !e;
}

static long tell_cpu(__u32 cpu, struct telling *t)
{
	__u32 zero = 0, left = t->left;
	struct draft *d = bpf_map_lookup_percpu_elem(&drafts, &zero, cpu);

	if (!d)
		return 1;
	if (!*(volatile __u32 *)&d->pending)
		return 0;
	*(volatile __u32 *)&d->pending = 0; /* before looking, so that nothing is missed */
	t->cpu = cpu;
	bpf_loop(EQUALS, tell_entry, t, 0);
	if (t->left != left)
		*(volatile __u32 *)&d->pending = 1;
	return 0;
}

/*
 * User space runs this itself, with the number of CPUs. Its result is how many
 * kinds could not be told, and still are to be: run it again.
 */
SEC("raw_tp/equal_drops")
int tell_equal(struct bpf_raw_tracepoint_args *ctx)
{
	struct telling t = {};

	bpf_loop(ctx->args[0], tell_cpu, &t, 0);
	return t.left;
}

#endif
