//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * fastpath.c: the balancer's decision at TC ingress.
 *
 * What is decided here gets its mark and goes on; the rule that queues packets
 * to the balancer lets marked ones by. Whatever is not decided exactly as the
 * balancer would goes on as it came, to the queue.
 *
 * This is an object of its own: it is loaded by the balancer, not the tracer.
 */
#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include "fastpath.h"

/* include/uapi/linux/bpf.h */
#define BPF_MAP_TYPE_PROG_ARRAY	   3
#define BPF_MAP_TYPE_ARRAY_OF_MAPS 12
#define BPF_F_RECOMPUTE_CSUM	   1
#define BPF_MTU_CHK_SEGS	   1
#define AF_INET			   2
#define AF_INET6		   10
#define PACKET_HOST		   0

struct bpf_redir_neigh {
	__u32 nh_family;
	__u32 nh[4];
};

/* The bytes of an image, a power of two, less 1. Set before load. */
const volatile __u32 image_mask = 0xfff;

struct image {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, 4);
	__uint(value_size, 0x1000 + FAST_SLACK);
};

/* The image in force. Replacing it is the one switch between two states. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__uint(key_size, 4);
	__array(values, struct image);
} images SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, FAST_OUTCOMES);
	__type(key, __u32);
	__type(value, __u64);
} outcomes SEC(".maps");

/* Packets by flow and by target, for two images: one in force and one before. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2 * FAST_COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} hits SEC(".maps");

/*
 * The program that decides. The kernel empties this map when its last user
 * closes it, so a filter that outlives a dead balancer (before tcx they do)
 * does nothing.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, 4);
	__uint(value_size, 4);
} decider SEC(".maps");

static __always_inline void count(void *map, __u32 i)
{
	__u64 *n = bpf_map_lookup_elem(map, &i);

	if (n)
		(*n)++;
}

/* What is at an offset of the image; up to FAST_SLACK bytes may be read. */
static __always_inline void *at(void *img, __u64 off)
{
	asm volatile("" : "+r"(off));
	off &= image_mask;
	asm volatile("" : "+r"(off));
	return img + off;
}

static __always_inline __u32 u32_at(void *img, __u32 off)
{
	return *(__u32 *)at(img, off);
}

static __always_inline __u64 u64_at(void *img, __u32 off)
{
	return *(__u64 *)at(img, off);
}

/* A packet as the balancer knows it. */
struct packet {
	__u64 src[2], dst[2]; /* as in memory; IPv4 is mapped */
	__u64 tail;	      /* ICMP id, protocol in little endian, ports */
	__u32 v6;
	__u32 len; /* what the IP header says, with the link header */
};

/*
 * The hash of eight bytes of the key, djb2 from 0: neighbours are joined side
 * by side in one word, in which none can overflow its place.
 */
static __always_inline __u32 hash_word(__u64 v)
{
	v = (v & 0x00ff00ff00ff00ff) * 33 + (v >> 8 & 0x00ff00ff00ff00ff);
	v = (v & 0x0000ffff0000ffff) * (33 * 33) + (v >> 16 & 0x0000ffff0000ffff);
	return (__u32)v * (33u * 33 * 33 * 33) + (__u32)(v >> 32);
}

/* djb2 over the 40 bytes of the key, from 5381. Of IPv4 two words are 0. */
static __always_inline __u32 hash_key(const struct packet *p)
{
	const __u32 p4 = 33u * 33 * 33 * 33, p8 = p4 * p4, p16 = p8 * p8;
	__u32 h = 5381u * (p16 * p16 * p8) + hash_word(p->src[1]) * (p16 * p8) +
		  hash_word(p->dst[1]) * p8 + hash_word(p->tail);

	if (__builtin_expect(p->v6, 0))
		h += hash_word(p->src[0]) * (p16 * p16) + hash_word(p->dst[0]) * p16;
	return h;
}

/* djb2 over the four bytes of the ports alone. */
static __noinline __u32 hash_ports(const struct packet *p)
{
	__u32 v = p->tail >> 32, h = 5381;

	for (int i = 0; i < 4; i++, v >>= 8)
		h = h * 33 + (v & 0xff);
	return h;
}

/*
 * The place of the lowest bit, by a de Bruijn sequence: each shift of it has
 * other upper six bits. Without a branch, so that the verifier has one way.
 */
static const __u8 bit_places[64] = {0,	1,  48, 2,  57, 49, 28, 3,  61, 58, 50, 42, 38, 29, 17, 4,
				    62, 55, 59, 36, 53, 51, 43, 22, 45, 39, 33, 30, 24, 18, 12, 5,
				    63, 47, 56, 27, 60, 41, 37, 16, 54, 35, 52, 21, 44, 32, 23, 11,
				    46, 26, 40, 15, 34, 20, 31, 10, 25, 14, 19, 9,  13, 8,  7,	6};

static __always_inline __u32 lowest(__u64 v)
{
	return bit_places[(v & -v) * 0x03f79d71b4cb0a89 >> 58];
}

/*
 * The row of an address: a binary search over the prefix lengths that occur,
 * each step a look into one hash table. Where a step leads is read and not
 * computed: the verifier then takes all ways to a step for one.
 */
static __noinline __u32 prefix_row(void *img, __u32 prefixes, __u64 hi, __u64 lo)
{
	struct fast_prefixes *x = at(img, prefixes);
	__u32 row = x->other, next = x->first;

	for (int step = 0; step < FAST_STEPS && next; step++) {
		struct fast_length *m = at(img, next);
		__u64 h = hi & m->hi, l = lo & m->lo;
		__u64 slot = ((h ^ (l << 7 | l >> 57)) + m->number) * 0x9e3779b97f4a7c15;

		slot >>= 32;
		next = m->shorter;
		for (int i = 0; i < FAST_PROBES; i++, slot++) {
			struct fast_prefix *e = at(img, x->entries + (slot & x->last) * sizeof(*e));

			if (!e->length)
				break;
			if (e->hi == h && e->lo == l && e->length == m->number) {
				row = e->row;
				next = m->longer;
				break;
			}
		}
	}
	return row;
}

static __always_inline __u32 port_row(void *img, __u32 pages, __be16 port)
{
	if (!pages)
		return ALL_FLOWS;
	return u32_at(img, u32_at(img, pages + (port & 0xff) * 4) + (port >> 8) * 4);
}

/* The 64 flows from 64*w on, of a row that is a bitmap. */
static __always_inline __u64 row_word(void *img, struct fast_image *x, __u32 row, __u32 w)
{
	__u32 block = u32_at(img, x->refs + (row * x->blocks + w / 8) * 4);

	return u64_at(img, block + w % 8 * 8);
}

/*
 * What few packets need is kept in functions of its own: the way of the others
 * is then short enough to stay in the instruction cache.
 */
static __noinline bool bitmap_has(void *img, __u32 row, __u32 flow)
{
	return row_word(img, img, row, flow / 64) >> (flow % 64) & 1;
}

static __always_inline bool row_has(void *img, __u32 row, __u32 flow)
{
	if (row == ALL_FLOWS || row == (ONE_FLOW | flow))
		return true;
	return !(row & ONE_FLOW) && bitmap_has(img, row, flow);
}

struct rows {
	__u32 dst, src, other, dport, sport;
};

/* The first flow that is in all rows, which are bitmaps, -1 if none is. */
static __noinline __s32 search_bitmaps(void *img, struct rows *r)
{
	struct fast_image *x = img;
	__u32 dst = r->dst, src = r->src, other = r->other, dport = r->dport, sport = r->sport;
	__u64 sum = u64_at(img, x->sums + dst * 8) & u64_at(img, x->sums + src * 8) &
		    u64_at(img, x->sums + other * 8) & u64_at(img, x->sums + dport * 8) &
		    u64_at(img, x->sums + sport * 8);

	for (int i = 0; i < FAST_FLOWS / 64 && sum; i++, sum &= sum - 1) {
		__u32 w = lowest(sum);
		__u64 v = row_word(img, x, dst, w) & row_word(img, x, src, w) &
			  row_word(img, x, other, w) & row_word(img, x, dport, w) &
			  row_word(img, x, sport, w);

		if (v)
			return w * 64 + lowest(v);
	}
	return -1;
}

/* The first flow that is in all rows, -1 if none is. */
static __always_inline __s32 first_flow(void *img, struct rows *r)
{
	__u32 one = r->dst;

	if (!(one & ONE_FLOW))
		one = r->dport;
	if (!(one & ONE_FLOW))
		one = r->other;
	if (!(one & ONE_FLOW))
		one = r->src;
	if (!(one & ONE_FLOW))
		one = r->sport;
	if (!(one & ONE_FLOW))
		return search_bitmaps(img, r);
	one &= ~ONE_FLOW;
	if (row_has(img, r->dst, one) && row_has(img, r->src, one) && row_has(img, r->other, one) &&
	    row_has(img, r->dport, one) && row_has(img, r->sport, one))
		return one;
	return -1;
}

/*
 * Read the packet's addresses and ports. Only what the IP layer would keep of
 * it counts: it may be followed by padding.
 */
static __always_inline enum fast_outcome parse(struct __sk_buff *ctx, struct packet *p)
{
	void *end = (void *)(long)ctx->data_end;
	void *l4, *l3 = (void *)(long)ctx->data + ETH_HLEN;
	__u32 len, ports = 0;
	__u16 id = 0;
	__u8 proto;

	if (ctx->vlan_present)
		return FAST_NOT_IP;
	if (ctx->protocol == bpf_htons(ETH_P_IP)) {
		__u8 *ip = l3;

		l4 = l3 + 20;
		if (l4 + 4 > end || ip[0] != 0x45)
			return FAST_HEADER;
		len = bpf_ntohs(*(__u16 *)(ip + 2));
		p->len = len + ETH_HLEN;
		if (len < 20 || p->len > ctx->len)
			return FAST_HEADER;
		len -= 20;
		if (*(__u16 *)(ip + 6) & bpf_htons(0x3fff))
			return FAST_FRAGMENT;
		proto = ip[9];
		p->v6 = 0;
		p->src[0] = p->dst[0] = 0;
		p->src[1] = 0xffff0000 | (__u64) * (__u32 *)(ip + 12) << 32;
		p->dst[1] = 0xffff0000 | (__u64) * (__u32 *)(ip + 16) << 32;
	} else if (ctx->protocol == bpf_htons(ETH_P_IPV6)) {
		__u8 *ip = l3;

		l4 = l3 + 40;
		if (l4 + 4 > end || ip[0] >> 4 != 6)
			return FAST_HEADER;
		len = bpf_ntohs(*(__u16 *)(ip + 4));
		p->len = len + 40 + ETH_HLEN;
		if (p->len > ctx->len)
			return FAST_HEADER;
		proto = ip[6];
		if (proto == IPPROTO_FRAGMENT)
			return FAST_FRAGMENT;
		if (proto == IPPROTO_HOPOPTS || proto == IPPROTO_ROUTING ||
		    proto == IPPROTO_DSTOPTS)
			return FAST_HEADER;
		p->v6 = 1;
		/* Addresses are 2 bytes off an 8-byte boundary; every supported CPU takes that. */
		__builtin_memcpy(p->src, ip + 8, 16);
		__builtin_memcpy(p->dst, ip + 24, 16);
	} else {
		return FAST_NOT_IP;
	}

	if (proto == IPPROTO_TCP || proto == IPPROTO_UDP || proto == IPPROTO_SCTP) {
		if (len < 4)
			return FAST_HEADER;
		ports = *(__u32 *)l4;
	} else if (proto == (p->v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP)) {
		__u8 *icmp = l4, type;

		if (len < 8 || l4 + 8 > end)
			return FAST_HEADER;
		type = icmp[0];
		if (p->v6 ? type == 1 || type == 2
			  : type == 3 || type == 4 || type == 5 || type == 11)
			return FAST_ICMP_ERROR;
		if (type == (p->v6 ? 128 : 8)) /* echo request */
			id = *(__u16 *)(icmp + 4);
	} else {
		return FAST_PROTOCOL;
	}
	p->tail = id | (__u32)proto << 16 | (__u64)ports << 32;
	return FAST_PLACED;
}

/* What the balancer decides for a packet. */
struct decision {
	__u32 mark;
	__u32 dev;    /* the nexthop's device; 0: routing must decide */
	__u32 mtu;    /* the device's when the image was made */
	__u32 via[4]; /* network order; of IPv4 the first */
};

/*
 * Decide for one packet by one image. A global function: the verifier looks at
 * it once, and not once for each kind of packet.
 */
__noinline int decide(const struct packet *p, struct decision *d)
{
	__u32 row, hash, slot, index, proto, zero = 0;
	struct fast_target *to;
	struct fast_image *x;
	struct fast_table *t;
	struct fast_flow *f;
	struct rows r;
	__s32 flow;
	void *img;
	bool ping;

	if (!p || !d)
		return FAST_OFF;
	img = bpf_map_lookup_elem(&images, &zero);
	if (!img)
		return FAST_OFF;
	img = bpf_map_lookup_elem(img, &zero);
	if (!img)
		return FAST_OFF;
	x = img;
	proto = p->tail >> 16 & 0xff;
	row = prefix_row(img, __builtin_offsetof(struct fast_image, dsts),
			 bpf_be64_to_cpu(p->dst[0]), bpf_be64_to_cpu(p->dst[1]));
	if (row == x->dsts.other || row == x->dsts.any4)
		return FAST_NOT_VIP;
	r.dst = row;
	r.src = x->srcs.other;
	if (x->srcs.first)
		r.src = prefix_row(img, __builtin_offsetof(struct fast_image, srcs),
				   bpf_be64_to_cpu(p->src[0]), bpf_be64_to_cpu(p->src[1]));
	ping = x->ping && (proto == IPPROTO_ICMP || proto == IPPROTO_ICMPV6);
	if (ping) {
		r.other = x->pings;
		r.dport = r.sport = ALL_FLOWS;
	} else {
		r.other = x->protos[proto == IPPROTO_TCP    ? 1
				    : proto == IPPROTO_UDP  ? 2
				    : proto == IPPROTO_SCTP ? 3
							    : 0];
		r.sport = port_row(img, x->sports, p->tail >> 32);
		r.dport = port_row(img, x->dports, p->tail >> 48);
	}
	/* Before the search: what follows it then does not hang on the protocol. */
	hash = x->hash_ports && proto == IPPROTO_SCTP ? hash_ports(p) : hash_key(p);
	flow = first_flow(img, &r);
	if (flow < 0) {
		d->mark = x->no_flow;
		return d->mark ? FAST_NO_FLOW : FAST_UNMARKED;
	}
	f = at(img, x->flows + flow * sizeof(*f));
	if (!f->table || (f->bytes && !ping))
		return FAST_BYTES;
	t = at(img, f->table);
	/* hash modulo m without a division: the quotient is at most 1 too small. */
	slot = hash - (__u32)((__u64)hash * t->inverse >> 32) * t->m;
	if (slot >= t->m)
		slot -= t->m;
	index = *(__u16 *)at(img, f->table + sizeof(*t) + slot * 2);
	if (index == NO_INDEX) {
		d->mark = x->no_target;
		if (!d->mark)
			return FAST_UNMARKED;
		count(&hits, x->counters + f->counter);
		return FAST_NO_TARGET;
	}
	to = at(img, t->targets + index * sizeof(*to));
	d->mark = to->mark;
	if (!d->mark)
		return FAST_UNMARKED;
	d->dev = p->v6 ? to->dev6 : to->dev4;
	/* The IP layer refuses packets that claim to come from this host. */
	if (d->dev && x->local_bits >> (bpf_be64_to_cpu(p->src[1]) & 63) & 1 &&
	    prefix_row(img, __builtin_offsetof(struct fast_image, local),
		       bpf_be64_to_cpu(p->src[0]), bpf_be64_to_cpu(p->src[1])) != x->local.other)
		d->dev = 0;
	if (p->v6) {
		d->mtu = to->mtu6;
		__builtin_memcpy(d->via, to->via6, sizeof(d->via));
	} else {
		d->mtu = to->mtu4;
		d->via[0] = to->via4;
	}
	count(&hits, x->counters + f->counter);
	count(&hits, x->counters + t->counter + index);
	return FAST_PLACED;
}

static __always_inline bool too_large(struct __sk_buff *ctx, struct decision *d)
{
	__u32 mtu = 0;

	/* Of segments that are to be sent one by one, only the kernel knows the length. */
	return ctx->len > d->mtu + ETH_HLEN &&
	       bpf_check_mtu(ctx, d->dev, &mtu, 0, BPF_MTU_CHK_SEGS);
}

/*
 * Hand a placed packet to its target's nexthop, where user space found that
 * routing has no other outcome. What the IP layer would treat otherwise than
 * the common packet is left to it. Returns -1 then.
 */
static __always_inline int redirect(struct __sk_buff *ctx, struct packet *p, struct decision *d)
{
	struct bpf_redir_neigh via = {};
	__u8 *end = (void *)(long)ctx->data_end;
	__u8 *ip = (void *)(long)ctx->data + ETH_HLEN;
	__u32 dev = d->dev;

	/* The IP layer cuts padding off. */
	if (!dev || dev == ctx->ifindex || ctx->pkt_type != PACKET_HOST || p->len != ctx->len)
		return -1;
	if (p->v6) {
		__u8 src = p->src[0], dst = p->dst[0], hops;

		/* Not global: unspecified and mapped, link local, multicast. */
		if (ip + 40 > end || !src || !dst || src >= 0xfe || dst >= 0xfe)
			return -1;
		hops = ip[7] - 1;
		if (ip[7] <= 1 || too_large(ctx, d))
			return -1;
		via.nh_family = AF_INET6;
		__builtin_memcpy(via.nh, d->via, sizeof(via.nh));
		if (bpf_skb_store_bytes(ctx, ETH_HLEN + 7, &hops, 1, BPF_F_RECOMPUTE_CSUM))
			return -1;
	} else {
		__u8 src = p->src[1] >> 32, dst = p->dst[1] >> 32;
		__u32 sum = 0;

		/* This network, loopback, multicast and above. */
		if (ip + 20 > end || !src || !dst || src == 127 || dst == 127 || src >= 224 ||
		    dst >= 224)
			return -1;
		/* The forwarded packet's priority follows from these bits. */
		if (ip[1] & 0x18)
			return -1;
		for (int i = 0; i < 20; i += 2)
			sum += *(__u16 *)(ip + i);
		sum = (sum & 0xffff) + (sum >> 16);
		sum = (sum & 0xffff) + (sum >> 16);
		if (sum != 0xffff || ip[8] <= 1 || too_large(ctx, d))
			return -1;
		/* RFC 1624 for a high byte that is one less; the header's sum stays. */
		sum = *(__u16 *)(ip + 10) + (__u32)bpf_htons(0x0100);
		*(__u16 *)(ip + 10) = sum + (sum >= 0xffff);
		ip[8]--;
		via.nh_family = AF_INET;
		via.nh[0] = d->via[0];
	}
	return bpf_redirect_neigh(dev, &via, sizeof(via), 0);
}

static __always_inline int fastpath(struct __sk_buff *ctx, bool may_redirect)
{
	struct decision d = {};
	struct packet p = {};
	int outcome;

	outcome = parse(ctx, &p);
	if (outcome == FAST_PLACED)
		outcome = decide(&p, &d);
	/* The verifier knows nothing of what a global function returns. */
	if (outcome >= FAST_PLACED && outcome <= FAST_NO_TARGET)
		ctx->mark = d.mark;
	if (outcome != FAST_PLACED) {
		count(&outcomes, outcome);
	} else if (may_redirect) {
		int r = redirect(ctx, &p, &d);

		if (r >= 0)
			return r;
		count(&outcomes, outcome);
	}
	return TC_ACT_UNSPEC;
}

SEC("tc")
int fastpath_mark(struct __sk_buff *ctx)
{
	return fastpath(ctx, false);
}

SEC("tc")
int fastpath_redirect(struct __sk_buff *ctx)
{
	return fastpath(ctx, true);
}

/* What is attached to devices. */
SEC("tc")
int fastpath_entry(struct __sk_buff *ctx)
{
	bpf_tail_call(ctx, &decider, 0);
	return TC_ACT_UNSPEC;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Types that user space wants generated. */
const enum fast_outcome *unused_outcome __attribute__((unused));
const enum fast_limits *unused_limits __attribute__((unused));
const struct fast_image *unused_image __attribute__((unused));
const struct fast_prefixes *unused_prefixes __attribute__((unused));
const struct fast_length *unused_length __attribute__((unused));
const struct fast_prefix *unused_prefix __attribute__((unused));
const struct fast_flow *unused_flow __attribute__((unused));
const struct fast_table *unused_table __attribute__((unused));
const struct fast_target *unused_target __attribute__((unused));
