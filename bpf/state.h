/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * state.h: what the programs share: settings, the ring, the counters.
 */
#ifndef WAYMARK_STATE_H
#define WAYMARK_STATE_H

#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>
#include "record.h"

/*
 * The parser looks at the first PARSE_LEN bytes: link header 14 (+8 for two
 * VLAN tags), IPv6 40, TCP 20, and what is left for extension headers.
 */
#define PARSE_LEN 96

/* Settings, written by user space before load and constant to the verifier. */
const volatile __u32 snaplen = PARSE_LEN; /* bytes of packet in each record, >= PARSE_LEN */

const volatile bool has_reason = true;	 /* skb:kfree_skb tells a reason (from 5.17 on) */
const volatile bool has_rx_sk = false;	 /* and the socket that was to get it (from 6.11 on) */
const volatile bool has_location = true; /* skb:consume_skb tells a location (from 6.8 on) */
const volatile bool limit_netns = false; /* global hooks look only at namespaces in the map netns */

/* Answers are wanted too, also those whose addresses the filter does not know. */
const volatile bool learn_replies = true;

/*
 * 64 MiB: at 250 bytes a record this holds a quarter of a second of a million
 * records a second, which is what a burst takes the reader to stitch and print
 * on a busy machine. User space may resize it.
 */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 << 20);
} ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, HOOK_MAX);
	__type(key, __u32);
	__type(value, struct hook_stats);
} stats SEC(".maps");

/* Namespaces (inode numbers) that the global hooks look at, if limit_netns. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, __u8);
} netns SEC(".maps");

/* A pointer that loads may follow: what faults reads as zeros. From 6.2 on. */
void *bpf_rdonly_cast(const void *obj, __u32 btf_id) __ksym __weak;

/*
 * A field of an object whose type the kernel itself has, not a module: a load
 * where that can be, for a helper call takes as long as all else at a hook.
 */
#define READ(p, field)                                                                             \
	(&bpf_rdonly_cast                                                                          \
		 ? ((typeof(p))bpf_rdonly_cast((p), bpf_core_type_id_kernel(typeof(*(p)))))->field \
		 : BPF_CORE_READ(p, field))

static __always_inline struct hook_stats *stats_of(__u32 hook)
{
	return bpf_map_lookup_elem(&stats, &hook);
}

static __always_inline bool netns_wanted(__u32 inum)
{
	return !limit_netns || bpf_map_lookup_elem(&netns, &inum);
}

static __always_inline __u32 netns_of_dev(struct net_device *dev)
{
	struct net *net;

	if (!dev)
		return 0;
	net = READ(dev, nd_net.net);
	return READ(net, ns.inum);
}

static __always_inline __u32 netns_of_sock(struct sock *sk)
{
	struct net *net;

	if (!sk)
		return 0;
	net = READ(sk, __sk_common.skc_net.net);
	return READ(net, ns.inum);
}

/*
 * 0 < *n <= snaplen, in a way that every verifier follows: the compiler knows
 * it too well to leave the test in, and 6.1 learns a lower bound only from a
 * signed 64-bit comparison.
 */
static __always_inline bool bounded(__s64 *n)
{
	asm volatile("" : "+r"(*n));
	return *n > 0 && *n <= snaplen;
}

/*
 * The task the hook runs in, which is often not the one that sent the packet.
 * By the task struct, because TC programs before 6.10 may not call
 * bpf_get_current_pid_tgid.
 */
static __always_inline __u32 current_tgid(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	return READ(task, tgid);
}

/*
 * Begin a record with ext_len bytes of the hook's own: all that is not set is 0.
 * The compiler must know ext_len.
 */
static __always_inline void record_begin(struct record *rec, enum hook hook, __u64 skb,
					 __u32 ext_len)
{
	__builtin_memset(rec, 0, sizeof(*rec) + ext_len);
	rec->time_ns = bpf_ktime_get_boot_ns();
	rec->skb = skb;
	rec->pid = current_tgid();
	rec->hook = hook;
	rec->cpu = bpf_get_smp_processor_id();
	rec->ext_len = ext_len;
}

/*
 * The filter. These bodies are replaced before load by the compiled filter;
 * as they stand they match everything. Global and weak, so that the compiler
 * assumes nothing about them and the verifier checks each once.
 */
__weak __noinline int filter_tc(struct __sk_buff *skb)
{
	return skb->len != 0;
}

/* data: kernel address of the link header, of which linear bytes are readable. */
__weak __noinline int filter_l2(__u64 data, __u32 linear, __u32 wire_len, __u32 vlan)
{
	return data + linear + wire_len + vlan != 0;
}

/* data: kernel address of the network header of an l3_proto packet. */
__weak __noinline int filter_l3(__u64 data, __u32 linear, __u32 wire_len, __u32 l3_proto)
{
	return data + linear + wire_len + l3_proto != 0;
}

#endif
