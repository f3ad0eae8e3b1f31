//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * bridge.c: what a bridge does with a frame (net/bridge).
 *
 * br_forward gets frames whose address the bridge knows, from a port or from
 * the bridge's own device, with the port; it may still refuse. Frames that it
 * does not know go through br_flood, and so do broadcasts; of multicast only
 * what snooping does not direct. What is for the bridge itself goes up through
 * br_pass_frame_up.
 */
#include "probe.h"

static __always_inline struct bridge_ext *bridge_ext_of(struct record *rec, struct sk_buff *skb)
{
	struct bridge_ext *ext = (void *)(rec + 1);
	struct br_input_skb_cb *cb = (void *)__builtin_preserve_access_index(&skb->cb);

	ext->bridge = BPF_CORE_READ(cb, brdev, ifindex);
	/* Of a frame of the bridge's own it would be from before. */
	if (ext->bridge != rec->ifindex &&
	    bpf_core_enum_value_exists(enum skb_ext_id, SKB_EXT_BRIDGE_NF) &&
	    BPF_CORE_READ(skb, active_extensions) >>
			    bpf_core_enum_value(enum skb_ext_id, SKB_EXT_BRIDGE_NF) &
		    1)
		ext->flags |= BRIDGE_NETFILTER;
	return ext;
}

static __always_inline int bridge_forward(struct net_bridge_port *to, struct sk_buff *skb)
{
	struct record *rec = waypoint(skb, HOOK_BRIDGE_FORWARD, sizeof(struct bridge_ext));
	struct bridge_ext *ext;

	if (!rec)
		return 0;
	ext = bridge_ext_of(rec, skb);
	ext->out = BPF_CORE_READ(to, dev, ifindex);
	ext->port_flags = BPF_CORE_READ(to, flags);
	ext->port_state = BPF_CORE_READ(to, state);
	bpf_ringbuf_submit(rec, BPF_RB_NO_WAKEUP);
	return 0;
}

static __always_inline int bridge_up(struct sk_buff *skb)
{
	struct record *rec = waypoint(skb, HOOK_BRIDGE_FORWARD, sizeof(struct bridge_ext));
	struct bridge_ext *ext;

	if (!rec)
		return 0;
	ext = bridge_ext_of(rec, skb);
	ext->out = ext->bridge;
	bpf_ringbuf_submit(rec, BPF_RB_NO_WAKEUP);
	return 0;
}

static __always_inline int bridge_flood(struct sk_buff *skb)
{
	struct record *rec = waypoint(skb, HOOK_BRIDGE_FLOOD, sizeof(struct bridge_ext));

	if (!rec)
		return 0;
	bridge_ext_of(rec, skb);
	bpf_ringbuf_submit(rec, BPF_RB_NO_WAKEUP);
	return 0;
}

SEC("fentry/br_forward")
int BPF_PROG(fentry_br_forward, struct net_bridge_port *to, struct sk_buff *skb)
{
	return bridge_forward(to, skb);
}

SEC("kprobe/br_forward")
int BPF_KPROBE(kprobe_br_forward, struct net_bridge_port *to, struct sk_buff *skb)
{
	return bridge_forward(to, skb);
}

SEC("fentry/br_pass_frame_up")
int BPF_PROG(fentry_br_up, struct sk_buff *skb)
{
	return bridge_up(skb);
}

SEC("kprobe/br_pass_frame_up")
int BPF_KPROBE(kprobe_br_up, struct sk_buff *skb)
{
	return bridge_up(skb);
}

SEC("fentry/br_flood")
int BPF_PROG(fentry_br_flood, void *br, struct sk_buff *skb)
{
	return bridge_flood(skb);
}

SEC("kprobe/br_flood")
int BPF_KPROBE(kprobe_br_flood, void *br, struct sk_buff *skb)
{
	return bridge_flood(skb);
}
