//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * nat.c: which connection a packet belongs to, and what NAT makes of it
 * (net/netfilter/nf_conntrack_core.c, nf_nat_proto.c).
 *
 * nf_conntrack_in finds the connection of every packet that a namespace with
 * conntrack takes in or sends, or makes an entry; when it returns, state and
 * verdict are known. nf_nat_manip_pkt changes one end of a packet, every time:
 * it makes it what the other direction of the connection expects.
 */
#include "probe.h"
#include "reply.h"

#define NFCT_MASK  7ul /* NFCT_INFOMASK of include/linux/skbuff.h */
#define MANIP_SRC  0   /* NF_NAT_MANIP_SRC of include/uapi/linux/netfilter/nf_nat.h */
#define IP_CT_ORIG 0   /* IP_CT_DIR_ORIGINAL of nf_conntrack_tuple_common.h */

static __always_inline struct nf_conntrack_tuple *tuple_of(struct nf_conn *ct, __u32 dir)
{
	if (dir == IP_CT_ORIG)
		return __builtin_preserve_access_index(&ct->tuplehash[0].tuple);
	return __builtin_preserve_access_index(&ct->tuplehash[1].tuple);
}

static __always_inline bool is_icmp(const struct nf_conntrack_tuple *t)
{
	__u8 proto = BPF_CORE_READ(t, dst.protonum);

	return proto == IPPROTO_ICMP || proto == IPPROTO_ICMPV6;
}

static __always_inline void read_addr(__u8 *addr, const union nf_inet_addr *from, __u16 family)
{
	__u32 v4;

	if (family != AF_INET) {
		bpf_probe_read_kernel(addr, 16, from);
		return;
	}
	bpf_probe_read_kernel(&v4, sizeof(v4), from);
	map_v4(addr, &v4);
}

/* Masquerade notes the device whose address it gives (nf_nat_masquerade.c). */
static __always_inline bool is_masqueraded(struct nf_conn *ct)
{
	struct nf_ct_ext *ext = BPF_CORE_READ(ct, ext);
	struct nf_conn_nat *nat;
	__u8 off = 0;

	if (!ext || !bpf_core_enum_value_exists(enum nf_ct_ext_id, NF_CT_EXT_NAT) ||
	    !bpf_core_field_exists(struct nf_conn_nat, masq_index))
		return false;
	bpf_probe_read_kernel(&off, sizeof(off),
			      (void *)ext + bpf_core_field_offset(struct nf_ct_ext, offset) +
				      bpf_core_enum_value(enum nf_ct_ext_id, NF_CT_EXT_NAT));
	if (!off)
		return false;
	nat = (void *)ext + off;
	return BPF_CORE_READ(nat, masq_index) != 0;
}

/* Answers to this connection are wanted although the filter does not know them. */
static __always_inline void learn_tuple(struct nf_conntrack_tuple *t)
{
	__u16 family = BPF_CORE_READ(t, src.l3num);
	struct reply_key key = {};

	read_addr(key.src, __builtin_preserve_access_index(&t->src.u3), family);
	read_addr(key.dst, __builtin_preserve_access_index(&t->dst.u3), family);
	key.proto = BPF_CORE_READ(t, dst.protonum);
	key.sport = BPF_CORE_READ(t, src.u.all);
	if (wants_ports(key.proto))
		key.dport = BPF_CORE_READ(t, dst.u.all);
	learn_reply(&key);
}

static __always_inline int nat_hook(struct sk_buff *skb, struct nf_conn *ct, __u32 manip, __u32 dir)
{
	struct record *rec = waypoint(skb, HOOK_NAT, sizeof(struct nat_ext));
	struct nf_conntrack_tuple *other;
	struct nat_ext *ext;
	__u16 family;

	if (!rec)
		return 0;
	ext = (void *)(rec + 1);
	other = tuple_of(ct, !dir);
	family = BPF_CORE_READ(other, src.l3num);
	if (manip == MANIP_SRC) {
		read_addr(ext->addr, __builtin_preserve_access_index(&other->dst.u3), family);
		ext->port = BPF_CORE_READ(other, dst.u.all);
	} else {
		read_addr(ext->addr, __builtin_preserve_access_index(&other->src.u3), family);
		ext->port = BPF_CORE_READ(other, src.u.all);
	}
	if (is_icmp(other)) /* whose type and code are in dst.u */
		ext->port = BPF_CORE_READ(other, src.u.all);
	ext->manip = manip;
	ext->dir = dir;
	if (is_masqueraded(ct))
		ext->flags |= NAT_MASQUERADE;
	bpf_ringbuf_submit(rec, BPF_RB_NO_WAKEUP);
	if (learn_replies && dir == IP_CT_ORIG)
		learn_tuple(other);
	return 0;
}

SEC("fentry/nf_nat_manip_pkt")
int BPF_PROG(fentry_nat_manip, struct sk_buff *skb, struct nf_conn *ct, __u32 manip, __u32 dir)
{
	return nat_hook(skb, ct, manip, dir);
}

SEC("kprobe/nf_nat_manip_pkt")
int BPF_KPROBE(kprobe_nat_manip, struct sk_buff *skb, struct nf_conn *ct, __u32 manip, __u32 dir)
{
	return nat_hook(skb, ct, manip, dir);
}

SEC("fexit/nf_conntrack_in")
int BPF_PROG(fexit_conntrack_in, struct sk_buff *skb, void *state, __u32 verdict)
{
	struct record *rec = waypoint(skb, HOOK_CONNTRACK, sizeof(struct conntrack_ext));
	struct conntrack_ext *ext;
	struct nf_conn *ct;
	unsigned long nfct;

	if (!rec)
		return 0;
	ext = (void *)(rec + 1);
	rec->verdict = verdict;
	nfct = BPF_CORE_READ(skb, _nfct);
	ext->info = nfct & NFCT_MASK;
	ct = (void *)(nfct & ~NFCT_MASK);
	if (ct) {
		ext->flags |= CONNTRACK_FOUND;
		ext->status = BPF_CORE_READ(ct, status);
		ext->tcp_state = BPF_CORE_READ(ct, proto.tcp.state);
		if (bpf_core_field_exists(ct->mark)) /* CONFIG_NF_CONNTRACK_MARK */
			ext->mark = BPF_CORE_READ(ct, mark);
	}
	bpf_ringbuf_submit(rec, BPF_RB_NO_WAKEUP);
	return 0;
}
