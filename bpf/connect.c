//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * connect.c: a TCP connection that cannot begin, for want of a port.
 *
 * No packet is made then, so nothing else of this project sees it. The record is
 * of the SYN that would have been sent, without a source port.
 */
#include "probe.h"
#include "sample.h"

#define EADDRNOTAVAIL 99 /* include/uapi/asm-generic/errno.h */
#define TTL	      64 /* as net.ipv4.ip_default_ttl and net.ipv6.conf.*.hop_limit are set */
#define TCP_LEN	      20 /* of a header without options */

/* The SYN's headers as they would be on the wire, as far as the parser looks. */
struct syn {
	__u8 bytes[40 + TCP_LEN] __attribute__((aligned(8)));
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct syn);
} syns SEC(".maps");

/* A socket of IPv6 may connect to IPv4, by ::ffff:a.b.c.d (RFC 4291). */
static __always_inline bool mapped(const struct syn *s)
{
	const __u32 *dst = (const __u32 *)(s->bytes + 24);

	return !dst[0] && !dst[1] && dst[2] == bpf_htonl(0xffff);
}

/* Write the headers, and return how long that of IP is. */
static __always_inline __u32 syn_of(struct sock *sk, struct syn *s)
{
	__u16 family = BPF_CORE_READ(sk, __sk_common.skc_family);
	struct in6_addr *addrs = (struct in6_addr *)(s->bytes + 8);
	__be16 dport = BPF_CORE_READ(sk, __sk_common.skc_dport);
	__be32 *addrs4 = (__be32 *)(s->bytes + 12);
	__u32 ip = 20;

	__builtin_memset(s, 0, sizeof(*s));
	if (family == AF_INET6) {
		addrs[0] = BPF_CORE_READ(sk, __sk_common.skc_v6_rcv_saddr);
		addrs[1] = BPF_CORE_READ(sk, __sk_common.skc_v6_daddr);
	}
	if (family == AF_INET6 && !mapped(s)) {
		s->bytes[0] = 0x60;
		s->bytes[5] = TCP_LEN;
		s->bytes[6] = IPPROTO_TCP;
		s->bytes[7] = TTL;
		ip = 40;
	} else {
		__builtin_memset(s, 0, sizeof(*s));
		s->bytes[0] = 0x45;
		s->bytes[3] = 20 + TCP_LEN;
		s->bytes[8] = TTL;
		s->bytes[9] = IPPROTO_TCP;
		addrs4[0] = BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr);
		addrs4[1] = BPF_CORE_READ(sk, __sk_common.skc_daddr);
	}
	__builtin_memcpy(s->bytes + ip + 2, &dport, sizeof(dport));
	s->bytes[ip + 12] = TCP_LEN / 4 << 4;
	s->bytes[ip + 13] = 0x02; /* SYN */
	return ip;
}

/* inet_hash_connect and inet6_hash_connect choose the port. */
SEC("fexit/inet_hash_connect")
int BPF_PROG(fexit_hash_connect, void *death_row, struct sock *sk, int ret)
{
	__u32 zero = 0, inum, ip;
	struct hook_stats *st;
	struct record *rec;
	struct view v = {};
	struct syn *s;

	if (ret != -EADDRNOTAVAIL)
		return 0;
	inum = netns_of_sock(sk);
	s = bpf_map_lookup_elem(&syns, &zero);
	if (!s || !netns_wanted(inum))
		return 0;
	ip = syn_of(sk, s);
	/* As the number that a global function may get. */
	bpf_probe_read_kernel(&v.start, sizeof(v.start), &s);
	v.linear = v.wire_len = ip + TCP_LEN;
	v.l3_proto = ip == 20 ? ETH_P_IP : ETH_P_IPV6;
	v.l3 = v.ok = true;
	if (!filter_view(&v) || left_out(&v, HOOK_CONNECT))
		return 0;
	st = stats_of(HOOK_CONNECT);
	if (!st)
		return 0;
	st->seen++;
	rec = bpf_ringbuf_reserve(&ring, sizeof(*rec) + snaplen, 0);
	if (!rec) {
		st->lost++;
		return 0;
	}
	record_begin(rec, HOOK_CONNECT, 0, 0);
	rec->netns = inum;
	rec->mark = BPF_CORE_READ(sk, sk_mark);
	rec->len = v.wire_len;
	rec->verdict = ret;
	rec->trail = new_trail_id();
	rec->flags = RECORD_START | RECORD_END;
	snapshot(rec, &v, 0);
	rec->at = 0;
	st->records++;
	bpf_ringbuf_submit(rec, BPF_RB_NO_WAKEUP);
	return 0;
}
