/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * parse.h: packet bytes -> the header fields of a record.
 *
 * The bytes are the record's own snapshot, of which the first PARSE_LEN are
 * looked at. What cannot be reached there leaves its field 0 and sets
 * RECORD_TRUNC.
 */
#ifndef WAYMARK_PARSE_H
#define WAYMARK_PARSE_H

#include "state.h"

/* At most this many IPv6 extension headers are skipped; more is not traffic. */
#define MAX_EXT_HDRS 6

/* A pointer to n bytes at off, or NULL. n is constant. */
static __always_inline __u8 *bytes_at(__u8 *snap, __u32 have, __u32 off, __u32 n)
{
	/*
	 * The register that is checked must be the one that is added: without
	 * this the compiler adds another of which it knows the same, and the
	 * verifiers before 6.18 do not.
	 */
	asm volatile("" : "+r"(off));
	if (off > PARSE_LEN - n || off + n > have)
		return NULL;
	asm volatile("" : "+r"(off));
	return snap + off;
}

static __always_inline __u16 be16_at(const __u8 *p)
{
	return p[0] << 8 | p[1];
}

static __always_inline __u32 be32_at(const __u8 *p)
{
	return (__u32)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3];
}

/* RFC 9293, RFC 768, RFC 9260, RFC 792/4443: the transport header at off. */
static __always_inline void parse_l4(struct record *rec, __u8 *snap, __u32 have, __u32 off,
				     __u32 l4_len)
{
	__u8 *p, *payload;

	rec->payload_len = l4_len;
	if (rec->frag_off & ~7) /* a later fragment has no transport header */
		return;
	switch (rec->proto) {
	case IPPROTO_TCP:
		p = bytes_at(snap, have, off, 20);
		if (!p)
			break;
		rec->seq = be32_at(p + 4);
		rec->ack = be32_at(p + 8);
		rec->tcp_flags = p[13];
		rec->payload_len = l4_len - (p[12] >> 4) * 4;
		goto ports;
	case IPPROTO_UDP:
	case IPPROTO_UDPLITE:
		p = bytes_at(snap, have, off, 8);
		if (!p)
			break;
		rec->payload_len = l4_len - 8;
		payload = bytes_at(snap, have, off + 8, 4);
		if (payload)
			rec->seq = be32_at(payload);
		goto ports;
	case IPPROTO_SCTP:
		p = bytes_at(snap, have, off, 12);
		if (!p)
			break;
		rec->seq = be32_at(p + 4); /* verification tag */
		rec->payload_len = l4_len - 12;
		goto ports;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		p = bytes_at(snap, have, off, 8);
		if (!p)
			break;
		rec->icmp_type = p[0];
		rec->icmp_code = p[1];
		rec->seq = be32_at(p + 4);
		rec->payload_len = l4_len - 8;
		return;
	default:
		return;
	}
	rec->flags |= RECORD_TRUNC;
	return;
ports:
	__builtin_memcpy(&rec->sport, p, 2);
	__builtin_memcpy(&rec->dport, p + 2, 2);
}

static __always_inline void parse_ipv4(struct record *rec, __u8 *snap, __u32 have, __u32 off)
{
	__u8 *p = bytes_at(snap, have, off, 20);
	__u32 ihl;

	if (!p || p[0] >> 4 != 4) {
		rec->flags |= RECORD_TRUNC;
		return;
	}
	ihl = (p[0] & 0xf) * 4;
	rec->ip_version = 4;
	rec->ttl = p[8];
	rec->proto = p[9];
	rec->ip_id = be16_at(p + 4);
	/* flags and offset: 3 bits DF/MF, 13 bits in units of 8 bytes */
	rec->frag_off = (be16_at(p + 6) & 0x1fff) << 3 | (p[6] >> 5 & 1);
	rec->src[10] = rec->src[11] = rec->dst[10] = rec->dst[11] = 0xff;
	__builtin_memcpy(rec->src + 12, p + 12, 4);
	__builtin_memcpy(rec->dst + 12, p + 16, 4);
	parse_l4(rec, snap, have, off + ihl, be16_at(p + 2) - ihl);
}

static __always_inline void parse_ipv6(struct record *rec, __u8 *snap, __u32 have, __u32 off)
{
	__u8 *p = bytes_at(snap, have, off, 40);
	__u32 left, start = off + 40;
	__u8 next;

	if (!p || p[0] >> 4 != 6) {
		rec->flags |= RECORD_TRUNC;
		return;
	}
	rec->ip_version = 6;
	rec->ttl = p[7];
	__builtin_memcpy(rec->src, p + 8, 16);
	__builtin_memcpy(rec->dst, p + 24, 16);
	next = p[6];
	left = be16_at(p + 4);
	off = start;
	for (int i = 0; i < MAX_EXT_HDRS; i++) {
		__u32 n;

		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS &&
		    next != IPPROTO_FRAGMENT && next != IPPROTO_AH)
			break;
		p = bytes_at(snap, have, off, 8);
		if (!p) {
			rec->proto = next;
			rec->flags |= RECORD_TRUNC;
			return;
		}
		n = 8 + p[1] * 8;
		if (next == IPPROTO_AH)
			n = (p[1] + 2) * 4; /* RFC 4302 counts in 4-byte units */
		if (next == IPPROTO_FRAGMENT) {
			n = 8;
			rec->frag_off = (be16_at(p + 2) & 0xfff8) | (p[3] & 1);
			rec->ip_id = be16_at(p + 6);
		}
		next = p[0];
		off += n;
		if (rec->frag_off & ~7)
			break;
	}
	rec->proto = next;
	parse_l4(rec, snap, have, off, left - (off - start));
}

/*
 * Fill the header fields of rec from its snapshot of `have` bytes.
 * RECORD_L3 tells that it starts at the network header, whose EtherType is
 * then in rec->l3_proto already.
 */
static __always_inline void parse_packet(struct record *rec, __u8 *snap, __u32 have)
{
	__u32 off = 0;

	if (!(rec->flags & RECORD_L3)) {
		__u8 *p = bytes_at(snap, have, 12, 2);

		if (!p) {
			rec->flags |= RECORD_TRUNC;
			return;
		}
		rec->l3_proto = be16_at(p);
		off = ETH_HLEN;
		for (int i = 0; i < 2; i++) { /* a tag in the frame, or two (802.1ad) */
			if (rec->l3_proto != ETH_P_8021Q && rec->l3_proto != ETH_P_8021AD)
				break;
			p = bytes_at(snap, have, off + 2, 2);
			if (!p)
				break;
			rec->l3_proto = be16_at(p);
			off += 4;
		}
	}
	if (rec->l3_proto == ETH_P_IP)
		parse_ipv4(rec, snap, have, off);
	else if (rec->l3_proto == ETH_P_IPV6)
		parse_ipv6(rec, snap, have, off);
}

#endif
