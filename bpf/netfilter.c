//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * netfilter.c: what the chains decide.
 *
 * nft_do_chain (net/netfilter/nf_tables_core.c) walks a base chain, and the
 * chains that its rules jump to: nftables, and iptables-nft, which is nftables
 * underneath. It returns the verdict but not the rule that gave it. So the
 * functions of the expressions that can give one are hooked as well; each
 * leaves its verdict in the registers. The last that gave a final one is in the
 * rule that decided, which is looked for when nft_do_chain returns.
 *
 * By then a dropped packet may be freed (NF_DROP_REASON), and its trail gone:
 * all that names it is noted when the chain begins.
 *
 * ipt_do_table and ip6t_do_table are the same for iptables-legacy. What they
 * drop lives on until they have returned.
 *
 * A packet that is sent from here meets the chains of output before any device.
 * nf_hook_slow (net/netfilter/core.c) calls them, if there are any: there its
 * trail begins.
 */
#include "probe.h"
#include "sample.h"

/* include/uapi/linux/netfilter/nf_tables.h; these are not final */
#define NFT_CONTINUE (-1)
#define NFT_BREAK    (-2)
#define NFT_JUMP     (-3)
#define NFT_GOTO     (-4)
#define NFT_RETURN   (-5)

/* include/uapi/linux/netfilter.h: enum nf_inet_hooks and NFPROTO_* */
#define NF_INET_LOCAL_OUT 3
#define NFPROTO_IPV4	  2
#define NFPROTO_IPV6	  10

/*
 * Chains jumped to that are remembered: those a packet is in and the last ones
 * it came back from. The kernel nests 16 at most, people rarely more than 5.
 */
#define NFT_JUMPS 8

/* Rules of the deciding chain that are looked at: 0.1 ms at most. */
#define NFT_RULES 4096

static __noinline int sent_from_here(struct sk_buff *skb, __u32 inum)
{
	__u64 key = (__u64)skb;
	struct trail *slot = bpf_map_lookup_elem(&trails, &key);
	struct hook_stats *st;
	struct record *rec;
	struct view v;
	bool carried;

	if (!netns_wanted(inum))
		return 0;
	v = view_of(skb);
	if (!filter_view(&v) || left_out(&v, HOOK_LOCAL_OUT))
		return 0;
	st = stats_of(HOOK_LOCAL_OUT);
	if (!st)
		return 0;
	st->seen++;
	rec = bpf_ringbuf_reserve(&ring, sizeof(*rec) + snaplen, 0);
	if (!rec) {
		st->lost++;
		return 0;
	}
	record_begin(rec, HOOK_LOCAL_OUT, key, 0);
	rec->netns = inum;
	rec->mark = READ(skb, mark);
	rec->len = v.wire_len;
	carried = identify(rec, &v, 0);
	/* It came from elsewhere, and IPVS sends it on as if from here. */
	if (slot && slot->id && slot->content == content_of(rec)) {
		bpf_ringbuf_discard(rec, BPF_RB_NO_WAKEUP);
		return 0;
	}
	trail_begin(key, low32(skb), rec, slot);
	show(rec, &v, 0, carried);
	st->records++;
	bpf_ringbuf_submit(rec, BPF_RB_NO_WAKEUP);
	return 0;
}

/* A packet in nft_do_chain. */
struct nft_run {
	__u64 time_ns;
	__u64 trail;
	__u64 parent;
	__u64 expr; /* address of the expression that gave the final verdict; 0: none did */
	__u64 chains[NFT_JUMPS]; /* jumped to, a ring */
	__u32 jumps;		 /* how many, the next goes to this modulo NFT_JUMPS */
	__u32 mark;
	__u32 netns;
	__u32 ifindex;
};

/* LRU, should an exit be missed; as many as there are trails. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64); /* the sk_buff */
	__type(value, struct nft_run);
} nft_runs SEC(".maps");

/* Entries in nft_runs or more, so that an exit without any costs one load. */
__u32 nft_running;

SEC("fentry/nft_do_chain")
int BPF_PROG(fentry_nft_do_chain, struct nft_pktinfo *pkt)
{
	struct sk_buff *skb = pkt->skb;
	__u64 key = (__u64)skb;
	struct nft_run run = {};
	struct trail *t;

	if (!maybe_tracked(low32(skb)))
		return 0;
	t = trail_of(key);
	if (!t)
		return 0;
	run.time_ns = bpf_ktime_get_boot_ns();
	run.trail = t->id;
	run.parent = t->parent;
	run.mark = BPF_CORE_READ(skb, mark);
	run.netns = BPF_CORE_READ(pkt, state, net, ns.inum);
	run.ifindex = t->ifindex;
	if (!bpf_map_update_elem(&nft_runs, &key, &run, BPF_ANY))
		__sync_fetch_and_add(&nft_running, 1);
	return 0;
}

/* The function of any expression that can give a verdict. */
SEC("fexit/nft_immediate_eval")
int BPF_PROG(fexit_nft_eval, void *expr, struct nft_regs *regs, struct nft_pktinfo *pkt)
{
	struct sk_buff *skb = pkt->skb;
	__u64 key = (__u64)skb;
	struct nft_run *run;
	__s32 code;

	if (!maybe_tracked(low32(skb)))
		return 0;
	run = bpf_map_lookup_elem(&nft_runs, &key);
	if (!run)
		return 0;
	code = BPF_CORE_READ(regs, verdict.code);
	switch (code) {
	case NFT_CONTINUE:
	case NFT_BREAK:
	case NFT_RETURN:
		return 0;
	case NFT_JUMP:
	case NFT_GOTO:
		run->chains[run->jumps++ % NFT_JUMPS] = (__u64)BPF_CORE_READ(regs, verdict.chain);
		return 0;
	}
	bpf_probe_read_kernel(&run->expr, sizeof(run->expr), &ctx[0]);
	return 0;
}

struct rule_search {
	__u64 expr;
	__u64 at; /* the rule to look at */
	__u64 handle;
};

/*
 * struct nft_rule_dp is 64 bits, is_last:1, dlen:12, handle:42, and dlen bytes
 * of expressions; the next rule follows.
 */
static long rule_step(__u32 i, struct rule_search *s)
{
	__u64 head;

	if (bpf_probe_read_kernel(&head, sizeof(head), (void *)s->at) || (head & 1))
		return 1;
	s->at += sizeof(head) + (head >> 1 & 0xfff);
	if (s->expr >= s->at)
		return 0;
	s->handle = head >> 13 & ((1ull << 42) - 1);
	return 1;
}

/* Where the rules of the blob begin, if it has expr; 0: it does not. */
static __always_inline __u64 blob_with(struct nft_rule_blob *blob, __u64 expr)
{
	__u64 start = (__u64)blob + bpf_core_field_offset(struct nft_rule_blob, data);

	if (!blob || expr < start || expr >= start + BPF_CORE_READ(blob, size))
		return 0;
	return start;
}

/* Fill in rule and chain if expr is in the chain; false: it is not. */
static __always_inline bool rule_in(struct netfilter_ext *ext, struct nft_chain *chain, __u64 expr)
{
	struct rule_search s = {.expr = expr};

	if (!chain || !bpf_core_field_exists(chain->blob_gen_0))
		return false;
	s.at = blob_with(BPF_CORE_READ(chain, blob_gen_0), expr);
	if (!s.at)
		s.at = blob_with(BPF_CORE_READ(chain, blob_gen_1), expr);
	if (!s.at)
		return false;
	bpf_loop(NFT_RULES, rule_step, &s, 0);
	ext->rule = s.handle;
	bpf_probe_read_kernel_str(ext->chain, sizeof(ext->chain), BPF_CORE_READ(chain, name));
	return true;
}

static __always_inline void nft_fill(struct netfilter_ext *ext, struct nft_run *run,
				     struct nft_pktinfo *pkt, struct nft_chain *base)
{
	struct nft_base_chain *b =
		(void *)base - bpf_core_field_offset(struct nft_base_chain, chain);
	struct nft_table *table = BPF_CORE_READ(base, table);
	int i;

	ext->mark_before = run->mark;
	ext->nf_hook = BPF_CORE_READ(pkt, state, hook);
	ext->family = BPF_CORE_READ_BITFIELD_PROBED(table, family);
	ext->policy = BPF_CORE_READ(b, policy);
	ext->table_handle = BPF_CORE_READ(table, handle);
	bpf_probe_read_kernel_str(ext->table, sizeof(ext->table), BPF_CORE_READ(table, name));
	bpf_probe_read_kernel_str(ext->base_chain, sizeof(ext->base_chain),
				  BPF_CORE_READ(base, name));
	if (!run->expr)
		return;
	ext->flags = NETFILTER_RULE;
	if (rule_in(ext, base, run->expr))
		return;
	for (i = 0; i < NFT_JUMPS; i++)
		if (rule_in(ext, (void *)run->chains[i], run->expr))
			return;
}

/* A record of a packet that may be freed, by what was noted of it. */
static __always_inline struct record *nft_noted(__u64 key, struct nft_run *run)
{
	__u32 size = sizeof(struct record) + sizeof(struct netfilter_ext);
	struct hook_stats *st = stats_of(HOOK_NFT_CHAIN);
	struct record *rec;

	if (!st)
		return NULL;
	st->seen++;
	rec = bpf_ringbuf_reserve(&ring, size, 0);
	if (!rec) {
		st->lost++;
		return NULL;
	}
	record_begin(rec, HOOK_NFT_CHAIN, key, sizeof(struct netfilter_ext));
	rec->trail = run->trail;
	rec->parent = run->parent;
	rec->netns = run->netns;
	rec->ifindex = run->ifindex;
	rec->mark = run->mark;
	st->records++;
	return rec;
}

SEC("fexit/nft_do_chain")
int BPF_PROG(fexit_nft_do_chain, struct nft_pktinfo *pkt, void *chain, __u32 verdict)
{
	struct sk_buff *skb;
	struct nft_run *run;
	struct record *rec;
	struct trail *t;
	__u64 key, base = 0;

	if (!*(volatile __u32 *)&nft_running)
		return 0;
	skb = pkt->skb;
	key = (__u64)skb;
	run = bpf_map_lookup_elem(&nft_runs, &key);
	if (!run)
		return 0;
	t = trail_of(key);
	if (t && t->id == run->trail)
		rec = waypoint(skb, HOOK_NFT_CHAIN, sizeof(struct netfilter_ext));
	else
		rec = nft_noted(key, run);
	if (rec) {
		bpf_probe_read_kernel(&base, sizeof(base), &ctx[1]);
		/* When the chain began: before the drop that it may have been. */
		rec->time_ns = run->time_ns;
		rec->verdict = verdict;
		nft_fill((void *)(rec + 1), run, pkt, (void *)base);
		bpf_ringbuf_submit(rec, BPF_RB_NO_WAKEUP);
	}
	if (!bpf_map_delete_elem(&nft_runs, &key))
		__sync_fetch_and_add(&nft_running, -1);
	return 0;
}

static __always_inline int ipt_table(struct xt_table *table, struct sk_buff *skb,
				     struct nf_hook_state *state, __u32 verdict)
{
	struct record *rec = waypoint(skb, HOOK_IPT_TABLE, sizeof(struct netfilter_ext));
	struct netfilter_ext *ext;

	if (!rec)
		return 0;
	ext = (void *)(rec + 1);
	ext->mark_before = rec->mark;
	ext->nf_hook = BPF_CORE_READ(state, hook);
	ext->family = BPF_CORE_READ(table, af);
	bpf_probe_read_kernel_str(ext->table, sizeof(ext->table), table->name);
	rec->verdict = verdict;
	bpf_ringbuf_submit(rec, BPF_RB_NO_WAKEUP);
	return 0;
}

/* The arguments from 5.17 on. */
SEC("fexit/ipt_do_table")
int BPF_PROG(fexit_ipt_do_table, void *table, struct sk_buff *skb, struct nf_hook_state *state,
	     __u32 verdict)
{
	__u64 priv = 0;

	bpf_probe_read_kernel(&priv, sizeof(priv), &ctx[0]);
	return ipt_table((void *)priv, skb, state, verdict);
}

SEC("fentry/nf_hook_slow")
int BPF_PROG(fentry_local_out, struct sk_buff *skb, struct nf_hook_state *state)
{
	__u8 pf = state->pf;

	if (state->hook != NF_INET_LOCAL_OUT || (pf != NFPROTO_IPV4 && pf != NFPROTO_IPV6))
		return 0;
	return sent_from_here(skb, BPF_CORE_READ(state, net, ns.inum));
}
