//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * ipvs.c: what an IPVS director decides (net/netfilter/ipvs).
 *
 * Every packet of a connection that the director sends on goes through the
 * transmit function of its forwarding method, ip_vs_{nat,dr,tunnel,bypass,
 * null}_xmit, with the connection: which service, which destination, and
 * whether the scheduler was asked or the connection was there already. Replies
 * come back through the director only with masq, through handle_response.
 */
#include "probe.h"
#include "reply.h"

#define IP_VS_CONN_F_MASQ     0 /* include/uapi/linux/ip_vs.h */
#define IP_VS_CONN_F_FWD_MASK 7

/*
 * From cport to daf a connection's fields lie together, as they do since 3.18:
 * read at once, for each read is a helper call.
 */
#define CONN_BYTES 64
#define CONN_AT(field)                                                                             \
	(bpf_core_field_offset(struct ip_vs_conn, field) -                                         \
	 bpf_core_field_offset(struct ip_vs_conn, cport))
#define CONN(bytes, field)                                                                         \
	(*(typeof(((struct ip_vs_conn *)NULL)->field) *)((bytes) + CONN_AT(field)))

static __always_inline void ipvs_connection(struct ipvs_ext *ext, struct ip_vs_conn *cp)
{
	struct ip_vs_dest *dest = BPF_CORE_READ(cp, dest);
	__u8 conn[CONN_BYTES] __attribute__((aligned(8)));

	if (bpf_probe_read_kernel(conn, sizeof(conn),
				  (void *)cp + bpf_core_field_offset(cp->cport)))
		return;
	__builtin_memcpy(ext->caddr, conn + CONN_AT(caddr), 16);
	__builtin_memcpy(ext->vaddr, conn + CONN_AT(vaddr), 16);
	__builtin_memcpy(ext->daddr, conn + CONN_AT(daddr), 16);
	ext->cport = CONN(conn, cport);
	ext->vport = CONN(conn, vport);
	ext->dport = CONN(conn, dport);
	ext->protocol = CONN(conn, protocol);
	ext->af = CONN(conn, af);
	ext->daf = CONN(conn, daf);
	ext->method = CONN(conn, flags) & IP_VS_CONN_F_FWD_MASK;
	ext->fwmark = BPF_CORE_READ(cp, fwmark);
	ext->state = BPF_CORE_READ(cp, state);
	/* Counted after the packet is sent: 0 is the one that made it. */
	if (!BPF_CORE_READ(cp, in_pkts.counter))
		ext->flags |= IPVS_NEW;
	if (!dest)
		return;
	ext->flags |= IPVS_DEST;
	ext->weight = BPF_CORE_READ(dest, weight.counter);
	bpf_probe_read_kernel_str(&ext->scheduler, sizeof(ext->scheduler),
				  BPF_CORE_READ(dest, svc, scheduler, name));
}

static __always_inline void ipvs_addr(__u8 *addr, const __u8 *from, __u8 af)
{
	if (af == AF_INET)
		map_v4(addr, from);
	else
		__builtin_memcpy(addr, from, 16);
}

/* What the destination answers, before it gets the service's address again. */
static __always_inline void learn_masq(const struct ipvs_ext *ext)
{
	struct reply_key key = {};

	ipvs_addr(key.src, ext->daddr, ext->daf);
	ipvs_addr(key.dst, ext->caddr, ext->af);
	key.sport = ext->dport;
	key.dport = ext->cport;
	key.proto = ext->protocol;
	learn_reply(&key);
}

static __always_inline int ipvs_hook(struct sk_buff *skb, struct ip_vs_conn *cp, enum hook hook)
{
	struct record *rec = waypoint(skb, hook, sizeof(struct ipvs_ext));

	struct ipvs_ext *ext;

	if (!rec)
		return 0;
	ext = (void *)(rec + 1);
	ipvs_connection(ext, cp);
	if (learn_replies && hook == HOOK_IPVS_FORWARD && ext->method == IP_VS_CONN_F_MASQ)
		learn_masq(ext);
	bpf_ringbuf_submit(rec, BPF_RB_NO_WAKEUP);
	return 0;
}

SEC("kprobe.multi/ip_vs_nat_xmit")
int BPF_KPROBE(multi_ipvs_xmit, struct sk_buff *skb, struct ip_vs_conn *cp)
{
	return ipvs_hook(skb, cp, HOOK_IPVS_FORWARD);
}

SEC("kprobe/ip_vs_nat_xmit")
int BPF_KPROBE(kprobe_ipvs_xmit, struct sk_buff *skb, struct ip_vs_conn *cp)
{
	return ipvs_hook(skb, cp, HOOK_IPVS_FORWARD);
}

SEC("fentry/handle_response")
int BPF_PROG(fentry_ipvs_reply, int af, struct sk_buff *skb, void *pd, struct ip_vs_conn *cp)
{
	return ipvs_hook(skb, cp, HOOK_IPVS_REPLY);
}

SEC("kprobe/handle_response")
int BPF_KPROBE(kprobe_ipvs_reply, int af, struct sk_buff *skb, void *pd, struct ip_vs_conn *cp)
{
	return ipvs_hook(skb, cp, HOOK_IPVS_REPLY);
}
