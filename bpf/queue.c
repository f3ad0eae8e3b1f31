//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * queue.c: a packet waits in an NFQUEUE (net/netfilter/nfnetlink_queue.c).
 *
 * __nfqnl_enqueue_packet gets every packet that goes to a queue somebody
 * listens to, segments of a big one singly. nfqnl_reinject gets it back with
 * the listener's verdict, after the mark was set. Neither has the sk_buff as
 * an argument. What no queue takes is a drop and seen as one.
 */
#include "probe.h"

static __always_inline int queue_enter(struct nfqnl_instance *queue, struct nf_queue_entry *entry)
{
	struct record *rec =
		waypoint(BPF_CORE_READ(entry, skb), HOOK_QUEUE_ENTER, sizeof(struct queue_ext));
	struct queue_ext *ext;

	if (!rec)
		return 0;
	ext = (void *)(rec + 1);
	/* The id is given under the queue's lock, a moment after this. */
	ext->packet_id = BPF_CORE_READ(queue, id_sequence) + 1;
	ext->depth = BPF_CORE_READ(queue, queue_total);
	ext->maxlen = BPF_CORE_READ(queue, queue_maxlen);
	ext->queue = BPF_CORE_READ(queue, queue_num);
	ext->nf_hook = BPF_CORE_READ(entry, state.hook);
	ext->pf = BPF_CORE_READ(entry, state.pf);
	bpf_ringbuf_submit(rec, BPF_RB_NO_WAKEUP);
	return 0;
}

static __always_inline int queue_verdict(struct nf_queue_entry *entry, __u32 verdict)
{
	struct record *rec =
		waypoint(BPF_CORE_READ(entry, skb), HOOK_QUEUE_VERDICT, sizeof(struct queue_ext));
	struct queue_ext *ext;

	if (!rec)
		return 0;
	ext = (void *)(rec + 1);
	ext->packet_id = BPF_CORE_READ(entry, id);
	ext->nf_hook = BPF_CORE_READ(entry, state.hook);
	ext->pf = BPF_CORE_READ(entry, state.pf);
	rec->verdict = verdict;
	bpf_ringbuf_submit(rec, BPF_RB_NO_WAKEUP);
	return 0;
}

SEC("fentry/__nfqnl_enqueue_packet")
int BPF_PROG(fentry_nfqnl_enqueue, struct net *net, struct nfqnl_instance *queue,
	     struct nf_queue_entry *entry)
{
	return queue_enter(queue, entry);
}

SEC("kprobe/__nfqnl_enqueue_packet")
int BPF_KPROBE(kprobe_nfqnl_enqueue, struct net *net, struct nfqnl_instance *queue,
	       struct nf_queue_entry *entry)
{
	return queue_enter(queue, entry);
}

SEC("fentry/nfqnl_reinject")
int BPF_PROG(fentry_nfqnl_reinject, struct nf_queue_entry *entry, __u32 verdict)
{
	return queue_verdict(entry, verdict);
}

SEC("kprobe/nfqnl_reinject")
int BPF_KPROBE(kprobe_nfqnl_reinject, struct nf_queue_entry *entry, __u32 verdict)
{
	return queue_verdict(entry, verdict);
}
