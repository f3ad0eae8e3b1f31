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
	__u16 proto = READ(skb, vlan_proto);

	if (bpf_core_field_exists(all->vlan_all) ? !READ(all, vlan_all) : !proto)
		return 0;
	return 1 << 16 | (proto == bpf_htons(ETH_P_8021AD)) << 17 | READ(skb, vlan_tci);
}

/*
 * Find the packet. The network header is trusted only when it was set (0 is
 * headroom on every skb that has one) and lies before the tail; the link
 * header only when it ends right where the network header starts.
 */
static __always_inline struct view view_of(struct sk_buff *skb)
{
	__u64 head = (__u64)READ(skb, head);
	__u64 data = (__u64)READ(skb, data);
	__u32 tail = READ(skb, tail);
	__u32 nh = READ(skb, network_header);
	__u32 mac = READ(skb, mac_header);
	__u32 start = nh;
	struct view v = {};

	if (nh == 0 || nh == 0xffff || nh >= tail)
		return v;
	v.l3_proto = bpf_ntohs(READ(skb, protocol));
	v.l3 = true;
	if (mac != 0xffff && mac + ETH_HLEN == nh) {
		start = mac;
		v.l3 = false;
		v.vlan = vlan_of(skb);
	}
	v.start = head + start;
	v.linear = tail - start;
	/* skb->len counts from data, which may be past our start, or before it */
	v.wire_len = READ(skb, len) + (__u32)(data - head) - start;
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

/* Copy the packet behind ext_len bytes of a record without snapshot, and parse it. */
static __noinline int snapshot(struct record *rec, const struct view *v, __u32 ext_len)
{
	struct parsed *snap = (void *)(rec + 1) + ext_len;
	__s64 n = v->linear;

	if (!v->ok)
		return 0;
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
	parse_packet(rec, snap);
	return 0;
}

/* The frame at off bytes of a packet. Without a tag: that is around the packet. */
static __always_inline struct view view_at(const struct view *v, __u32 off)
{
	struct view in = {
		.start = v->start + off,
		.linear = v->linear > off ? v->linear - off : 0,
		.ok = true,
	};

	return in;
}

/*
 * Fill rec with what the packet is known by: itself, or the one that VXLAN
 * carries in it. Then true is returned, and show() brings back what is around it.
 */
static __always_inline bool identify(struct record *rec, const struct view *v, __u32 ext_len)
{
	struct view in;
	__u32 frame;

	snapshot(rec, v, ext_len);
	frame = vxlan_frame(rec);
	if (!frame)
		return false;
	in = view_at(v, frame);
	forget_packet(rec);
	snapshot(rec, &in, ext_len);
	return true;
}

static __always_inline void show(struct record *rec, const struct view *v, __u32 ext_len,
				 bool carried)
{
	if (carried) {
		forget_packet(rec);
		snapshot(rec, v, ext_len);
	}
	rec->at = 0;
}

/*
 * Where does the packet stand? Its device tells, without one its socket does.
 */
static __always_inline void place_of(struct sk_buff *skb, __u32 *inum, __u32 *ifindex)
{
	struct net_device *dev = READ(skb, dev);

	*inum = netns_of_dev(dev);
	*ifindex = dev ? READ(dev, ifindex) : 0;
	if (!*inum)
		*inum = netns_of_sock(READ(skb, sk));
}

/*
 * A record of a tracked packet at a hook on its way, with ext_len bytes of
 * zeros for the hook to fill; NULL if the packet is not followed, or the
 * record is lost. The caller submits it.
 */
static __always_inline struct record *waypoint(struct sk_buff *skb, enum hook hook, __u32 ext_len)
{
	__u64 key = (__u64)skb;
	struct hook_stats *st;
	struct record *rec;
	struct trail *t;
	struct view v;
	bool carried;

	if (!maybe_tracked(low32(skb)))
		return NULL;
	t = trail_of(key);
	if (!t)
		return NULL;
	st = stats_of(hook);
	if (!st)
		return NULL;
	st->seen++;
	v = view_of(skb);
	rec = bpf_ringbuf_reserve(&ring, sizeof(*rec) + ext_len + snaplen, 0);
	if (!rec) {
		st->lost++;
		return NULL;
	}
	record_begin(rec, hook, key, ext_len);
	place_of(skb, &rec->netns, &rec->ifindex);
	if (!rec->netns) {
		rec->netns = t->netns;
		rec->ifindex = t->ifindex;
	}
	rec->mark = READ(skb, mark);
	rec->len = v.ok ? v.wire_len : READ(skb, len);
	carried = identify(rec, &v, ext_len);
	/* Another packet in the memory of one whose end was missed. */
	if (!v.ok || !continues(t, rec)) {
		bpf_ringbuf_discard(rec, BPF_RB_NO_WAKEUP);
		return NULL;
	}
	trail_go_on(t, rec);
	show(rec, &v, ext_len, carried);
	st->records++;
	return rec;
}

#endif
