/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * probe.h: an skb as the tracing hooks meet it: a kernel pointer whose headers
 * may start anywhere, or not be there yet.
 */
#ifndef WAYMARK_PROBE_H
#define WAYMARK_PROBE_H

#include "trail.h"

/* Where the packet's bytes are. */
struct view {
	__u64 start;	/* kernel address of the link or network header */
	__u32 linear;	/* bytes readable from there; the rest is in fragments */
	__u32 wire_len; /* bytes of packet from there */
	__u32 vlan;	/* tag outside the frame: bit 16 set, tci; bit 17: 802.1ad */
	__u16 l3_proto;
	bool l3; /* starts at the network header */
	bool ok;
};

static __always_inline __u32 vlan_of(struct sk_buff *skb)
{
	struct sk_buff___vlan_all *all = (void *)skb;
	__u16 proto = BPF_CORE_READ(skb, vlan_proto);

	if (bpf_core_field_exists(all->vlan_all) ? !BPF_CORE_READ(all, vlan_all) : !proto)
		return 0;
	return 1 << 16 | (proto == bpf_htons(ETH_P_8021AD)) << 17 | BPF_CORE_READ(skb, vlan_tci);
}

/*
 * Find the packet. The network header is trusted only when it was set (0 is
 * headroom on every skb that has one) and lies before the tail; the link
 * header only when it ends right where the network header starts.
 */
static __always_inline struct view view_of(struct sk_buff *skb)
{
	__u64 head = (__u64)BPF_CORE_READ(skb, head);
	__u64 data = (__u64)BPF_CORE_READ(skb, data);
	__u32 tail = BPF_CORE_READ(skb, tail);
	__u32 nh = BPF_CORE_READ(skb, network_header);
	__u32 mac = BPF_CORE_READ(skb, mac_header);
	__u32 start = nh;
	struct view v = {};

	if (nh == 0 || nh == 0xffff || nh >= tail)
		return v;
	v.l3_proto = bpf_ntohs(BPF_CORE_READ(skb, protocol));
	v.l3 = true;
	if (mac != 0xffff && mac + ETH_HLEN == nh) {
		start = mac;
		v.l3 = false;
		v.vlan = vlan_of(skb);
	}
	v.start = head + start;
	v.linear = tail - start;
	/* skb->len counts from data, which may be past our start, or before it */
	v.wire_len = BPF_CORE_READ(skb, len) + (__u32)(data - head) - start;
	v.ok = true;
	return v;
}

static __always_inline bool filter_view(const struct view *v)
{
	if (!v->ok)
		return false;
	if (v->l3)
		return filter_l3(v->start, v->linear, v->wire_len, v->l3_proto);
	return filter_l2(v->start, v->linear, v->wire_len, v->vlan);
}

/* Copy the packet into the record's snapshot and parse it. */
static __always_inline void snapshot(struct record *rec, const struct view *v)
{
	__u8 *snap = (void *)(rec + 1);
	__s64 n = v->linear;

	if (!v->ok)
		return;
	if (n > snaplen)
		n = snaplen;
	if (bounded(&n) && !bpf_probe_read_kernel(snap, n, (void *)v->start))
		rec->snap_len = n;
	rec->l3_proto = v->l3_proto;
	if (v->l3)
		rec->flags |= RECORD_L3;
	if (v->vlan) {
		rec->flags |= RECORD_VLAN;
		rec->vlan_tci = v->vlan;
	}
	parse_packet(rec, snap, rec->snap_len);
}

#endif
