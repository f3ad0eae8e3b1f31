// SPDX-License-Identifier: Apache-2.0

//go:build linux

package tracer

import "waymark/bpf"

// Backend is a way to attach a program to the kernel.
type Backend string

// Backends, with the kernel version each first appeared in.
const (
	BackendTCX    Backend = "tcx"          // 6.6
	BackendClsBPF Backend = "cls_bpf"      // 4.5, direct action on clsact
	BackendRawTP  Backend = "raw_tp"       // 4.17
	BackendFentry Backend = "fentry"       // 5.5, needs BTF and ftrace direct calls
	BackendFexit  Backend = "fexit"        // 5.5
	BackendKprobe Backend = "kprobe"       // 4.1
	BackendMulti  Backend = "kprobe.multi" // 5.18, needs CONFIG_FPROBE
)

// Attachment is one way to attach a hook: a program of the object and, for
// backends that need them, the tracepoint or the kernel's functions. Of several
// functions it is attached to those that the kernel has; fentry and fexit load
// the program once for each.
type Attachment struct {
	Backend Backend
	Program string
	Symbols []string
}

// HookRow is one row of the hook table.
type HookRow struct {
	Name  string
	Group string // what --hooks selects
	Hook  bpf.Hook
	// Module has the functions, unless it is built in; empty: the kernel has.
	Module string
	// Listed: /sys/module has Module even where it is built in, for it has
	// parameters. If it is not there, nobody has to look for the functions.
	Listed bool
	// Twins: the program is at its function twice, and what one of them has done
	// the other leaves. While an interrupt is served the kernel does not run the
	// program that it interrupted, but it runs the other.
	Twins bool
	// Attach lists the ways to attach it, best first.
	Attach []Attachment
	Tells  string // what one learns from it
	Lost   string // what one does not learn without it
	Cost   string // what a packet that does not match pays, and when
}

// DefaultGroups are attached unless told otherwise: what is decided for few
// packets, and the packets' ends. The others are at functions that most packets
// pass, and take as long to attach as all of these.
var DefaultGroups = []string{"device", "queue", "ipvs", "drop", "free"}

// Groups in the order help lists them.
var Groups = []string{"device", "queue", "ipvs", "netfilter", "nat", "bridge", "socket", "connect", "drop", "free"}

// ipvsXmit are the transmit functions of IPVS, one for a forwarding method.
var ipvsXmit = []string{
	"ip_vs_nat_xmit", "ip_vs_nat_xmit_v6", "ip_vs_dr_xmit", "ip_vs_dr_xmit_v6", "ip_vs_tunnel_xmit", "ip_vs_tunnel_xmit_v6",
	"ip_vs_bypass_xmit", "ip_vs_bypass_xmit_v6", "ip_vs_null_xmit",
}

const lostChains = "what nftables decides: only the drop itself is seen, without chain and rule"

// nftVerdicts is the row of a module's expressions that can give a verdict.
func nftVerdicts(module string, functions ...string) HookRow {
	return HookRow{
		Name: module, Group: "netfilter", Hook: bpf.HookNFTChain, Module: module,
		Attach: []Attachment{{BackendFexit, "fexit_nft_eval", functions}},
		Tells:  "which rule gave a chain's verdict, where that is by an expression of " + module,
		Lost:   "the rules whose verdict is by an expression of " + module,
		Cost:   "one load, per packet and such expression",
	}
}

// iptTable is the row of one IP version's iptables-legacy.
func iptTable(module, function string) HookRow {
	return HookRow{
		Name: module, Group: "netfilter", Hook: bpf.HookIPTTable, Module: module,
		Attach: []Attachment{{BackendFexit, "fexit_ipt_do_table", []string{function}}},
		Tells:  "what a table of iptables-legacy decided at a hook",
		Lost:   "what iptables-legacy decides: only the drop itself is seen",
		Cost:   "one load, per packet and table",
	}
}

// socketReceive are the functions that give a packet to a socket.
var socketReceive = []string{
	"tcp_v4_do_rcv", "tcp_v6_do_rcv", "tcp_add_backlog", "tcp_check_req", "tcp_timewait_state_process",
	"udp_queue_rcv_skb", "udpv6_queue_rcv_skb",
	"sock_queue_rcv_skb", "sock_queue_rcv_skb_reason",
}

// Hooks is the hook table: every hook once. Attaching, `waymark doctor` and
// the tests walk it. A new hook is a function in bpf/*.c, a row here, a case
// in the decoder and a lab fault that proves it.
var Hooks = []HookRow{
	{
		Name: "ingress", Group: "device", Hook: bpf.HookTCIngress,
		Attach: []Attachment{
			{BackendTCX, "tc_ingress", nil},
			{BackendClsBPF, "tc_ingress", nil},
		},
		Tells: "a packet enters a device, with its mark",
		Lost:  "where packets enter devices",
		Cost:  "the filter, per packet on the chosen devices",
	},
	{
		Name: "egress", Group: "device", Hook: bpf.HookTCEgress,
		Attach: []Attachment{
			{BackendTCX, "tc_egress", nil},
			{BackendClsBPF, "tc_egress", nil},
		},
		Tells: "a packet leaves by a device, with its mark",
		Lost:  "where packets leave devices",
		Cost:  "the filter, per packet on the chosen devices",
	},
	{
		Name: "nfqueue_enter", Group: "queue", Hook: bpf.HookQueueEnter, Module: "nfnetlink_queue",
		Attach: []Attachment{
			{BackendFentry, "fentry_nfqnl_enqueue", []string{"__nfqnl_enqueue_packet"}},
			{BackendKprobe, "kprobe_nfqnl_enqueue", []string{"__nfqnl_enqueue_packet"}},
		},
		Tells: "a packet begins to wait in an NFQUEUE: its number, how many wait before it, how many may",
		Lost:  "which queue a packet waited in, and how full it was",
		Cost:  "one load, per queued packet",
	},
	{
		Name: "nfqueue_verdict", Group: "queue", Hook: bpf.HookQueueVerdict, Module: "nfnetlink_queue",
		Attach: []Attachment{
			{BackendFentry, "fentry_nfqnl_reinject", []string{"nfqnl_reinject"}},
			{BackendKprobe, "kprobe_nfqnl_reinject", []string{"nfqnl_reinject"}},
		},
		Tells: "a packet comes back from an NFQUEUE: verdict, mark, how long it waited",
		Lost:  "how long packets wait in queues, and when they got their mark",
		Cost:  "one load, per queued packet",
	},
	{
		Name: "ipvs_forward", Group: "ipvs", Hook: bpf.HookIPVSForward, Module: "ip_vs", Listed: true,
		Attach: []Attachment{
			{BackendMulti, "multi_ipvs_xmit", ipvsXmit},
			{BackendKprobe, "kprobe_ipvs_xmit", ipvsXmit},
		},
		Tells: "an IPVS director sends a packet on: service, scheduler, destination, method, new or known connection",
		Lost:  "what IPVS decides: only the changed address is seen, of masq",
		Cost:  "one load, per packet that IPVS sends on",
	},
	{
		Name: "ipvs_reply", Group: "ipvs", Hook: bpf.HookIPVSReply, Module: "ip_vs", Listed: true,
		Attach: []Attachment{
			{BackendFentry, "fentry_ipvs_reply", []string{"handle_response"}},
			{BackendKprobe, "kprobe_ipvs_reply", []string{"handle_response"}},
		},
		Tells: "a reply gets the service's address back (masq)",
		Lost:  "that IPVS changed a reply's source",
		Cost:  "one load, per reply through IPVS",
	},
	{
		Name: "local_out", Group: "netfilter", Hook: bpf.HookLocalOut,
		Attach: []Attachment{{BackendFentry, "fentry_local_out", []string{"nf_hook_slow"}}},
		Tells:  "a packet is sent from here, in a namespace with chains of output: what these decide is told too",
		Lost:   "what the chains of output decide",
		Cost:   "two loads, per packet and hook with chains; the filter, per packet sent from here",
	},
	{
		Name: "nft_chain_begin", Group: "netfilter", Hook: bpf.HookNFTChain, Module: "nf_tables",
		Attach: []Attachment{{BackendFentry, "fentry_nft_do_chain", []string{"nft_do_chain"}}},
		Tells:  "a packet comes to an nftables chain, with the mark it has then",
		Lost:   lostChains,
		Cost:   "one load, per packet and chain",
	},
	{
		Name: "nft_chain", Group: "netfilter", Hook: bpf.HookNFTChain, Module: "nf_tables",
		Attach: []Attachment{{BackendFexit, "fexit_nft_do_chain", []string{"nft_do_chain"}}},
		Tells:  "what an nftables chain decided (also of iptables-nft): verdict, by a rule or by the policy",
		Lost:   lostChains,
		Cost:   "one load, per packet and chain",
	},
	nftVerdicts("nf_tables", "nft_immediate_eval", "nft_lookup_eval"),
	nftVerdicts("nft_queue", "nft_queue_eval", "nft_queue_sreg_eval"),
	nftVerdicts("nft_nat", "nft_nat_eval", "nft_nat_inet_eval"),
	nftVerdicts("nft_masq", "nft_masq_eval", "nft_masq_ipv4_eval", "nft_masq_ipv6_eval", "nft_masq_inet_eval"),
	nftVerdicts("nft_redir", "nft_redir_eval", "nft_redir_ipv4_eval", "nft_redir_ipv6_eval", "nft_redir_inet_eval"),
	nftVerdicts("nft_reject_inet", "nft_reject_inet_eval"),
	nftVerdicts("nft_reject_ipv4", "nft_reject_ipv4_eval"),
	nftVerdicts("nft_reject_ipv6", "nft_reject_ipv6_eval"),
	nftVerdicts("nft_compat", "nft_target_eval_xt"),
	iptTable("ip_tables", "ipt_do_table"),
	iptTable("ip6_tables", "ip6t_do_table"),
	{
		Name: "conntrack", Group: "nat", Hook: bpf.HookConntrack, Module: "nf_conntrack", Listed: true,
		Attach: []Attachment{{BackendFexit, "fexit_conntrack_in", []string{"nf_conntrack_in"}}},
		Tells:  "which connection a packet belongs to and in what state that is, or that the table is full",
		Lost:   "the state of connections, and that a packet was dropped because the table is full",
		Cost:   "one load, per packet in namespaces that use conntrack",
	},
	{
		Name: "nat_manip", Group: "nat", Hook: bpf.HookNAT, Module: "nf_nat",
		Attach: []Attachment{
			{BackendFentry, "fentry_nat_manip", []string{"nf_nat_manip_pkt"}},
			{BackendKprobe, "kprobe_nat_manip", []string{"nf_nat_manip_pkt"}},
		},
		Tells: "NAT changes an end of a packet: DNAT, SNAT or masquerade, or one of these undone; which answers to expect",
		Lost:  "which NAT changed an address: only the change is seen; answers are followed only where they match the filter",
		Cost:  "one load, per translated packet",
	},
	{
		Name: "bridge_forward", Group: "bridge", Hook: bpf.HookBridgeForward, Module: "bridge", Listed: true,
		Attach: []Attachment{
			{BackendFentry, "fentry_br_forward", []string{"br_forward"}},
			{BackendKprobe, "kprobe_br_forward", []string{"br_forward"}},
		},
		Tells: "a bridge knows the port of a frame's address, and whether that may send it; whether br_netfilter saw the frame",
		Lost:  "why a bridge does not pass a frame on",
		Cost:  "one load, per frame through a bridge",
	},
	{
		Name: "bridge_flood", Group: "bridge", Hook: bpf.HookBridgeFlood, Module: "bridge", Listed: true,
		Attach: []Attachment{
			{BackendFentry, "fentry_br_flood", []string{"br_flood"}},
			{BackendKprobe, "kprobe_br_flood", []string{"br_flood"}},
		},
		Tells: "a bridge floods a frame: it does not know the address, or everybody is to have it",
		Lost:  "that copies of a frame are there because a bridge floods it",
		Cost:  "one load, per flooded frame",
	},
	{
		Name: "bridge_up", Group: "bridge", Hook: bpf.HookBridgeForward, Module: "bridge", Listed: true,
		Attach: []Attachment{
			{BackendFentry, "fentry_br_up", []string{"br_pass_frame_up"}},
			{BackendKprobe, "kprobe_br_up", []string{"br_pass_frame_up"}},
		},
		Tells: "a frame is for the bridge itself and goes up",
		Lost:  "that a bridge takes a frame for itself",
		Cost:  "one load, per frame for a bridge itself",
	},
	{
		Name: "skb_copy", Group: "bridge", Hook: bpf.HookSkbClone,
		Attach: []Attachment{{BackendFexit, "fexit_skb_copy", []string{"skb_copy"}}},
		Tells:  "a packet is copied, as bridges do that send multicast as unicast: the copy is its child",
		Lost:   "that a copy belongs to its original: it shows as a packet of its own",
		Cost:   "one load, per copy",
	},
	{
		Name: "socket_receive", Group: "socket", Hook: bpf.HookSocketReceive,
		Attach: []Attachment{
			{BackendMulti, "multi_socket_receive", socketReceive},
			{BackendKprobe, "kprobe_socket_receive", socketReceive},
		},
		Tells: "a TCP, UDP, raw or ping socket is given the packet: addresses, state, how full its queues are, whose it is",
		Lost:  "which socket and process took a packet, and connections lost to a full accept queue",
		Cost:  "one load, per packet for this machine",
	},
	{
		Name: "tcp_reset", Group: "socket", Hook: bpf.HookSocketReset,
		Attach: []Attachment{{BackendKprobe, "kprobe_tcp_reset", []string{"tcp_v4_send_reset", "tcp_v6_send_reset"}}},
		Tells:  "TCP answers the packet with a reset, and for want of what",
		Lost:   "that a packet was answered with a reset",
		Cost:   "one load, per reset that is sent",
	},
	{
		Name: "reject_reset", Group: "socket", Hook: bpf.HookSocketReject, Module: "nf_reject_ipv4",
		Attach: []Attachment{{BackendKprobe, "kprobe_nf_reset", []string{"nf_send_reset"}}},
		Tells:  "a netfilter rule (REJECT) answers the packet with a reset",
		Lost:   "that a reset came from a rule",
		Cost:   "one load, per packet that is so rejected",
	},
	{
		Name: "reject_reset6", Group: "socket", Hook: bpf.HookSocketReject, Module: "nf_reject_ipv6",
		Attach: []Attachment{{BackendKprobe, "kprobe_nf_reset", []string{"nf_send_reset6"}}},
		Tells:  "the same of IPv6",
		Lost:   "that a reset came from a rule, IPv6",
		Cost:   "one load, per packet that is so rejected",
	},
	{
		Name: "icmp_error", Group: "socket", Hook: bpf.HookSocketICMP,
		Attach: []Attachment{{BackendKprobe, "kprobe_icmp_error", []string{"__icmp_send", "icmp6_send"}}},
		Tells:  "the packet is answered with an ICMP error: type, code, MTU",
		Lost:   "that the sender was told",
		Cost:   "one load, per error",
	},
	{
		Name: "kfree_skb", Group: "drop", Hook: bpf.HookKfreeSkb,
		Attach: []Attachment{{BackendRawTP, "kfree_skb", []string{"kfree_skb"}}},
		Tells:  "a packet is dropped: kernel function, reason, namespace, device",
		Lost:   "drops",
		Cost:   "the filter, per dropped packet",
	},
	{
		Name: "connect", Group: "connect", Hook: bpf.HookConnect,
		Attach: []Attachment{{BackendFexit, "fexit_hash_connect", []string{"inet_hash_connect", "inet6_hash_connect"}}},
		Tells:  "a TCP connection cannot begin: no local port is left for it",
		Lost:   "that no port is left: there is no packet then",
		Cost:   "one comparison, per connection that begins here",
	},
	{
		Name: "consume_skb", Group: "free", Hook: bpf.HookConsumeSkb,
		Attach: []Attachment{{BackendRawTP, "consume_skb", []string{"consume_skb"}}},
		Tells:  "a packet is freed after use, and by which function from 6.8 on",
		Lost:   "some ends of packets: their journeys close after a quiet time instead",
		Cost:   "one load, per freed packet",
	},
	{
		Name: "kfree_skbmem", Group: "free", Hook: bpf.HookKfreeSkbmem,
		Attach: []Attachment{
			{BackendFentry, "fentry_kfree_skbmem", []string{"kfree_skbmem"}},
			{BackendKprobe, "kprobe_kfree_skbmem", []string{"kfree_skbmem"}},
		},
		Tells: "the memory of a packet is given back: its sure end",
		Lost:  "the exact end of packets; reused memory is told by content alone",
		Cost:  "one load, per freed packet",
	},
	{
		Name: "napi_skb_cache_put", Group: "free", Hook: bpf.HookKfreeSkbmem,
		Attach: []Attachment{
			{BackendFentry, "fentry_napi_skb_cache_put", []string{"napi_skb_cache_put"}},
			{BackendKprobe, "kprobe_napi_skb_cache_put", []string{"napi_skb_cache_put"}},
		},
		Tells: "the memory of a packet goes to the NAPI cache: its sure end",
		Lost:  "the exact end of packets freed in NAPI context",
		Cost:  "one load, per packet freed in NAPI context",
	},
	{
		Name: "skb_clone", Group: "free", Hook: bpf.HookSkbClone,
		Attach: []Attachment{{BackendFexit, "fexit_skb_clone", []string{"skb_clone", "skb_clone"}}},
		Twins:  true,
		Tells:  "a packet is cloned (flooding, taps, raw sockets): the clone is its child",
		Lost:   "that a clone belongs to its original: it shows as a packet of its own",
		Cost:   "two loads, per clone",
	},
	{
		Name: "skb_segment", Group: "free", Hook: bpf.HookSkbSegment,
		Attach: []Attachment{{BackendFexit, "fexit_gso_segment", []string{"__skb_gso_segment"}}},
		Tells:  "a packet bigger than the MTU is cut into segments: they are its children, and its end is no loss",
		Lost:   "that segments belong to the packet they were cut from: they show as packets of their own",
		Cost:   "one load, per packet that is cut",
	},
}
