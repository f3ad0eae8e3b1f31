/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * fastpath.h: the image of a balancer's flows and targets that user space
 * writes and fastpath.c reads.
 *
 * An image is one block of memory: the struct below, and at the offsets it
 * names (bytes from the image's start) what it refers to. Nothing in it ever
 * changes; another state of the balancer is another image.
 *
 * Flows are numbered in matching order. A set of flows is a row: the flow's
 * number and ONE_FLOW if it has one flow only, else the number of a bitmap.
 */
#ifndef WAYMARK_FASTPATH_H
#define WAYMARK_FASTPATH_H

#define ONE_FLOW  (1u << 31)
#define ALL_FLOWS 1	 /* the bitmap that has all of them */
#define NO_INDEX  0xffff /* in a lookup table: no target is active */

enum fast_limits {
	FAST_FLOWS = 4096, /* at most so many flows: the words of a bitmap have one summary word */
	FAST_STEPS = 8,	   /* of the search in the prefix lengths, of which 128 occur at most */
	FAST_PROBES = 8,   /* entries of the prefix table that are looked at for a prefix */
	FAST_SLACK = 128,  /* bytes behind an image: the longest thing read at an offset */
	FAST_COUNTERS = 8192 /* entries of hits for one image */
};

/* What became of a packet: it is placed, or why it goes on to the queue. */
enum fast_outcome {
	FAST_PLACED,  /* got its target's mark; counted by target, and here if it was not redirected
		       */
	FAST_NO_FLOW, /* no flow matched; it got the mark for such packets */
	FAST_NO_TARGET, /* the flow has no target; it got the mark for such packets */
	/* and to the queue: */
	FAST_OFF,     /* no image */
	FAST_NOT_IP,  /* neither IPv4 nor IPv6, or for a VLAN */
	FAST_NOT_VIP, /* no flow names the destination: only the queue's rule knows it */
	FAST_HEADER,  /* cut, not in one piece, options, extension headers */
	FAST_FRAGMENT,
	FAST_ICMP_ERROR,
	FAST_PROTOCOL, /* one without ports */
	FAST_BYTES,    /* a byte match or encapsulated SCTP decides */
	FAST_UNMARKED, /* to be dropped, or its mark is 0 */
	FAST_OUTCOMES
};

struct fast_prefixes {
	__u32 other;   /* row of addresses in no prefix */
	__u32 any4;    /* row of 0.0.0.0/0, other if there is none */
	__u32 first;   /* offset of the struct fast_length to begin with, 0: no prefixes */
	__u32 entries; /* offset of struct fast_prefix[] */
	__u32 last;    /* number of entries - 1, all bits set */
};

/* A prefix length, a step of the binary search over them. */
struct fast_length {
	__u64 hi, lo;	       /* the mask */
	__u32 number;	       /* not 0 */
	__u32 shorter, longer; /* offset of the next step, 0: the search is over */
	__u32 pad;
};

/* An address prefix and the flows that contain it. */
struct fast_prefix {
	__u64 hi, lo; /* host order; IPv4 is mapped */
	__u32 length; /* its length's number; 0: a free entry */
	__u32 row;
};

struct fast_flow {
	__u32 table;   /* offset of its struct fast_table; 0: the queue decides */
	__u32 counter; /* of its packets, in hits */
	__u32 bytes;   /* it has byte matches, which ping does not ask for */
};

struct fast_table {
	__u32 m;
	__u32 inverse;	/* 2^32 / m, rounded down */
	__u32 targets;	/* offset of struct fast_target[] */
	__u32 counter;	/* of the packets of target 0, in hits; those of the others follow */
	__u16 lookup[]; /* by hash modulo m: the target's index, or NO_INDEX */
};

/* A target's mark and, if routing by it has only one outcome, that. */
struct fast_target {
	__u32 mark;
	__u32 dev4, mtu4, via4; /* device (0: routing must decide) and nexthop, network order */
	__u32 dev6, mtu6, via6[4];
};

/* What every packet needs comes first, on few cache lines. */
struct fast_image {
	struct fast_prefixes dsts;
	__u32 counters;	      /* where this image's counters start in hits */
	__u32 hash_ports;     /* of SCTP only the ports are hashed */
	__u32 ping;	      /* any ICMP matches by its addresses */
	__u32 protos[4];      /* rows: any other, TCP, UDP, SCTP */
	__u32 pings;	      /* row for ping */
	__u32 dports, sports; /* offset of __u32[256]: by high byte, offset of rows by low byte; 0:
				 no flow asks */
	__u32 flows;	      /* offset of struct fast_flow[] */
	__u64 local_bits;     /* an address of this host has the bit of its low 6 bits here */
	struct fast_prefixes srcs;
	__u32 sums;    /* offset of __u64[]: by row, which words of it are not 0 */
	__u32 refs;    /* offset of __u32[]: by row and block, offset of the block's 8 words */
	__u32 blocks;  /* blocks in a row */
	__u32 no_flow; /* marks for packets without, 0: none */
	__u32 no_target;
	struct fast_prefixes local; /* addresses of this host: not in row other */
};

#endif
