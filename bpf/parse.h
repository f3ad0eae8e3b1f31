/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * parse.h: packet bytes -> the header fields of a record.
 *
 * The bytes are the record's own snapshot, of which the first PARSE_LEN are
 * looked at. What cannot be reached there leaves its field 0 and sets
 * RECORD_TRUNC.
 *
 * Each step leaves what it found in the record and the next reads it there,
 * really: of memory the verifier knows nothing, so it checks the next step once
 * and not for each way through those before.
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

/* What is in the record, not what the compiler knows it to be. */
#define STORED(field) (*(volatile typeof(field) *)&(field))

/*
 * RFC 9293, RFC 768, RFC 9260, RFC 792/4443: the transport header at
 * rec->at, which with its payload has rec->payload_len bytes.
 */
static __always_inline void parse_l4(struct record *rec, __u8 *snap, __u32 have)
{
	__u32 off = STORED(rec->at), l4_len = STORED(rec->payload_len);
	__u8 *p, *payload;

	if (rec->frag_off & ~7) /* a later fragment has no transport header */
		return;
	switch (STORED(rec->proto)) {
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

/* The headers at rec->at. False: the transport header is not told of. */
static __always_inline bool parse_ipv4(struct record *rec, __u8 *snap, __u32 have)
{
	__u32 off = STORED(rec->at), ihl;
	__u8 *p = bytes_at(snap, have, off, 20);

	if (!p || p[0] >> 4 != 4) {
		rec->flags |= RECORD_TRUNC;
		return false;
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
	rec->at = off + ihl;
	rec->payload_len = be16_at(p + 2) - ihl;
	return true;
}

static __always_inline bool parse_ipv6(struct record *rec, __u8 *snap, __u32 have)
{
	__u32 off = STORED(rec->at);
	__u8 *p = bytes_at(snap, have, off, 40);

	if (!p || p[0] >> 4 != 6) {
		rec->flags |= RECORD_TRUNC;
		return false;
	}
	rec->ip_version = 6;
	rec->ttl = p[7];
	__builtin_memcpy(rec->src, p + 8, 16);
	__builtin_memcpy(rec->dst, p + 24, 16);
	rec->proto = p[6];
	rec->payload_len = be16_at(p + 4);
	rec->at = off + 40;
	for (int i = 0; i < MAX_EXT_HDRS; i++) {
		__u8 next = STORED(rec->proto);
		__u32 n;

		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS &&
		    next != IPPROTO_FRAGMENT && next != IPPROTO_AH)
			break;
		off = STORED(rec->at);
		p = bytes_at(snap, have, off, 8);
		if (!p) {
			rec->payload_len = 0;
			rec->flags |= RECORD_TRUNC;
			return false;
		}
		n = 8 + p[1] * 8;
		if (next == IPPROTO_AH)
			n = (p[1] + 2) * 4; /* RFC 4302 counts in 4-byte units */
		if (next == IPPROTO_FRAGMENT) {
			n = 8;
			rec->frag_off = (be16_at(p + 2) & 0xfff8) | (p[3] & 1);
			rec->ip_id = be16_at(p + 6);
		}
		rec->proto = p[0];
		rec->at = off + n;
		rec->payload_len -= n;
		if (STORED(rec->frag_off) & ~7)
			break;
	}
	return true;
}

/* What the parser looks at of a snapshot. */
struct parsed {
	__u8 bytes[PARSE_LEN];
};

/*
 * Fill the header fields of rec from its snapshot of rec->snap_len bytes.
 * RECORD_L3 tells that it starts at the network header, whose EtherType is
 * then in rec->l3_proto already. Global, so that the verifier looks at it once
 * and not for every packet within a packet.
 */
__noinline int parse_packet(struct record *rec, struct parsed *parsed)
{
	bool transport = false;
	__u8 *snap, *p;
	__u32 have;

	if (!rec || !parsed) /* never; a global function has to ask */
		return 0;
	snap = parsed->bytes;
	have = STORED(rec->snap_len);
	rec->at = 0;
	if (!(STORED(rec->flags) & RECORD_L3)) {
		p = bytes_at(snap, have, 12, 2);
		if (!p) {
			rec->flags |= RECORD_TRUNC;
			return 0;
		}
		rec->l3_proto = be16_at(p);
		rec->at = ETH_HLEN;
		for (int i = 0; i < 2; i++) { /* a tag in the frame, or two (802.1ad) */
			__u16 proto = STORED(rec->l3_proto);

			if (proto != ETH_P_8021Q && proto != ETH_P_8021AD)
				break;
			p = bytes_at(snap, have, STORED(rec->at) + 2, 2);
			if (!p)
				break;
			rec->l3_proto = be16_at(p);
			rec->at += 4;
		}
	}
	if (STORED(rec->l3_proto) == ETH_P_IP)
		transport = parse_ipv4(rec, snap, have);
	else if (STORED(rec->l3_proto) == ETH_P_IPV6)
		transport = parse_ipv6(rec, snap, have);
	if (transport)
		parse_l4(rec, snap, have);
	return 0;
}

/* As if nothing had been parsed. */
static __always_inline void forget_packet(struct record *rec)
{
	rec->flags &= ~(RECORD_L3 | RECORD_TRUNC);
	rec->seq = rec->ack = 0;
	__builtin_memset(rec->src, 0,
			 __builtin_offsetof(struct record, vlan_tci) -
				 __builtin_offsetof(struct record, src));
	__builtin_memset(&rec->proto, 0,
			 __builtin_offsetof(struct record, ext_len) -
				 __builtin_offsetof(struct record, proto));
	rec->snap_len = 0;
}

/* IANA's port of VXLAN, and that of Linux when it is told none (drivers/net/vxlan). */
#define VXLAN_PORT	 4789
#define VXLAN_PORT_LINUX 8472

#define VXLAN_FLAG_VNI (1 << 27) /* of the header's first word: it has an identifier */
#define VXLAN_HEADERS  (8 + 8)	 /* UDP, VXLAN (RFC 7348) */

/*
 * Where in the packet that was parsed into rec the frame begins that VXLAN
 * carries; 0: none. Of fragments the first has it.
 */
static __always_inline __u32 vxlan_frame(const struct record *rec)
{
	if (STORED(rec->proto) != IPPROTO_UDP || rec->frag_off & ~7 || !(rec->seq & VXLAN_FLAG_VNI))
		return 0;
	if (rec->dport != bpf_htons(VXLAN_PORT) && rec->dport != bpf_htons(VXLAN_PORT_LINUX))
		return 0;
	return STORED(rec->at) + VXLAN_HEADERS;
}

#endif
