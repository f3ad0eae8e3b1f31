// SPDX-License-Identifier: Apache-2.0

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
// functions it is attached to those that the kernel has.
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
	// Attach lists the ways to attach it, best first.
	Attach []Attachment
	Tells  string // what one learns from it
	Lost   string // what one does not learn without it
	Cost   string // what a packet that does not match pays, and when
}

// Groups in the order help lists them.
var Groups = []string{"device", "queue", "ipvs", "socket", "drop", "free"}

// ipvsXmit are the transmit functions of IPVS, one for a forwarding method.
var ipvsXmit = []string{
	"ip_vs_nat_xmit", "ip_vs_nat_xmit_v6", "ip_vs_dr_xmit", "ip_vs_dr_xmit_v6", "ip_vs_tunnel_xmit", "ip_vs_tunnel_xmit_v6",
	"ip_vs_bypass_xmit", "ip_vs_bypass_xmit_v6", "ip_vs_null_xmit",
}

// socketReceive are the functions that give a packet to a socket.
var socketReceive = []string{
	"tcp_v4_do_rcv", "tcp_v6_do_rcv", "tcp_add_backlog", "tcp_check_req", "tcp_timewait_state_process",
	"udp_queue_rcv_skb", "udpv6_queue_rcv_skb",
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
		Name: "socket_receive", Group: "socket", Hook: bpf.HookSocketReceive,
		Attach: []Attachment{
			{BackendMulti, "multi_socket_receive", socketReceive},
			{BackendKprobe, "kprobe_socket_receive", socketReceive},
		},
		Tells: "a TCP or UDP socket is given the packet: addresses, state, how full its queues are, whose it is",
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
		Attach: []Attachment{{BackendFexit, "fexit_skb_clone", []string{"skb_clone"}}},
		Tells:  "a packet is cloned (flooding, taps, raw sockets): the clone is its child",
		Lost:   "that a clone belongs to its original: it shows as a packet of its own",
		Cost:   "one load, per clone",
	},
	{
		Name: "skb_copy", Group: "free", Hook: bpf.HookSkbClone,
		Attach: []Attachment{{BackendFexit, "fexit_skb_copy", []string{"skb_copy"}}},
		Tells:  "a packet is copied: the copy is its child",
		Lost:   "that a copy belongs to its original: it shows as a packet of its own",
		Cost:   "one load, per copy",
	},
	{
		Name: "skb_segment", Group: "free", Hook: bpf.HookSkbSegment,
		Attach: []Attachment{{BackendFexit, "fexit_gso_segment", []string{"__skb_gso_segment"}}},
		Tells:  "a packet bigger than the MTU is cut into segments: they are its children, and its end is no loss",
		Lost:   "that segments belong to the packet they were cut from: they show as packets of their own",
		Cost:   "one load, per packet that is cut",
	},
}
