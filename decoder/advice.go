// SPDX-License-Identifier: Apache-2.0

package decoder

import "strings"

// adviceRow is one thing known about drops: when it applies, what it means,
// and what to do. Texts may name facts in braces (factTexts).
type adviceRow struct {
	question  string   // row of the fault table it answers, see docs
	functions []string // any of, "*" at the end: prefix; empty: any
	reasons   []string // any of; empty: any
	when      func(*dropFacts) bool
	because   string
	advice    string
}

// explainDrop fills in because, advice and question. What asks for state that few
// worlds have comes before what holds everywhere.
func explainDrop(f *dropFacts, d *Drop) {
	for _, table := range [][]adviceRow{directorAdvice, nodeAdvice, egressAdvice, sizeAdvice, adviceTable} {
		if explain(table, f, d) {
			return
		}
	}
}

// explain does so from a table, of which the first row wins; false: none applies.
func explain(table []adviceRow, f *dropFacts, d *Drop) bool {
	for i := range table {
		r := &table[i]
		if len(r.functions) > 0 && !f.functionIs(r.functions) || len(r.reasons) > 0 && !f.reasonIs(r.reasons) || r.when != nil && !r.when(f) {
			continue
		}
		d.Because, d.Advice, d.Question = f.fill(r.because), f.fill(r.advice), r.question
		return true
	}
	return false
}

var (
	noRouteFunctions = []string{"ip_error", "ip_rcv_finish*", "ip_route_input*", "ip6_pkt_discard*", "ip6_pkt_drop", "ip6_pkt_prohibit*", "ip6_rcv_finish*", "ip6_forward", "ip_forward", "dst_discard*"}
	filterFunctions  = []string{"nft_do_chain*", "nf_hook_slow*"}
	queueFunctions   = []string{"nf_queue", "__nf_queue"}
	tcpFunctions     = []string{"tcp_*"}
	neighbourReasons = []string{"NEIGH_FAILED", "NEIGH_DEAD", "NEIGH_CREATEFAIL", "NEIGH_HH_FILLFAIL"}

	neighbourFunctions = []string{"neigh_invalidate", "neigh_timer_handler", "arp_error_report", "ndisc_error_report"}
)

// br_forward is left by a jump to the free: its caller seems to free.
var bridgeFunctions = []string{"br_forward", "br_handle_frame_finish", "br_dev_xmit"}

// adviceTable is what waymark knows about drops, the special before the
// general. The functions and reasons are those of 6.1 to 6.18.
var adviceTable = []adviceRow{
	// The queue.
	{
		question: "M30", functions: queueFunctions, when: nobodyListens,
		because: "nobody listens on a netfilter queue in {netns}: the balancer is not running there",
		advice:  "start the balancer in {netns}; until then the queue rule, which has no bypass flag, drops everything it matches",
	},
	{
		question: "M30", functions: queueFunctions, when: somebodyListens,
		because: "the netfilter queue in {netns} took no more packets: it is full, or the rule names a queue that nobody listens on (there are listeners on {queues})",
		advice:  "compare the rule's queue numbers with /proc/net/netfilter/nfnetlink_queue in {netns}; if queue_dropped grows there, the balancer is too slow: see its CPU, raise --qlength or use more queues",
	},
	{
		question: "M30", functions: queueFunctions,
		because: "the netfilter queue in {netns} did not take the packet: nobody listens on it, or it is full",
		advice:  "look at /proc/net/netfilter/nfnetlink_queue in {netns}: no row means that the balancer is not running, a growing queue_dropped that it is too slow",
	},
	{
		question: "M12", functions: verdictFunctions, when: flowWasChanged,
		because: "flow {changedFlow} of the balancer in {netns} no longer takes {to}: it was changed, for it did before",
		advice:  "compare `waymark lb flow-list` in {netns} with the flows that are configured, and set this one anew: its ports, protocols or sources are not those of the service",
	},
	{
		question: "M13", functions: verdictFunctions, when: func(f *dropFacts) bool { return lbNoFlow(f) && f.nearFlow() != nil },
		because: "no flow of the balancer in {netns} matches {to}: {nearFlow} takes {dst} only with {nearPorts}",
		advice:  "compare `waymark lb flow-list` in {netns} with what should be served: if that flow is as configured, correct the client's port, else set it anew (M12)",
	},
	{
		question: "M13", functions: verdictFunctions, when: lbNoFlow,
		because: "no flow of the balancer in {netns} matches {to}",
		advice:  "compare `waymark lb flow-list` in {netns} with what should be served, or correct the client's address or port",
	},
	{
		question: "M15", functions: verdictFunctions, when: lbNoTarget,
		because: "flow {flow} of the balancer in {netns} matched, but has no target for the packet: {why}",
		advice:  "see with `waymark lb show` in {netns} which targets are active; a target registers itself when its application opens the stream",
	},
	{
		question: "M12", functions: verdictFunctions, when: lbAccepts,
		because: "the verdict of the queue in {netns} was to drop, although the balancer's published state (flow {flow}) accepts the packet",
		advice:  "the balancer works on other state than it shows, or was changing it: restart it if this lasts",
	},
	{
		question: "M13", functions: verdictFunctions,
		because: "the program behind the netfilter queue in {netns} said drop",
		advice:  "ask the balancer in {netns}: `waymark lb flow-list` for a flow that matches {to}, `waymark lb show` for active targets",
	},

	// Chains.
	{
		functions: filterFunctions, when: droppedByRule,
		because: "chain {chain} in {netns} drops it, by {filterRule}",
		advice:  "see `nft -a list chain {chain}` in {netns} for the rule, and who made it",
	},
	{
		question: "C9", functions: filterFunctions, when: droppedByPolicy,
		because: "no rule of chain {chain} in {netns} takes it, and the chain's policy is drop",
		advice:  "accept such packets in `nft list chain {chain}` in {netns}, or find out who set the policy",
	},
	{
		functions: filterFunctions, when: droppedByIPTables,
		because: "table {filterTable} of iptables in {netns} drops it at {filterHook}",
		advice:  "see `iptables-legacy -t {filterTable} -vnL` (ip6tables-legacy for IPv6) in {netns} for the rule or policy whose counter grows",
	},

	// Routing.
	{
		question: "M34", reasons: []string{"PKT_TOO_BIG"}, when: tooBigUntold,
		because: "it is bigger than the link from {netns} to the target takes, and {src} is not told: net.{family}.fwmark_reflect is 0 in {netns}, so the message about it has no mark and finds no way",
		advice:  "set net.{family}.fwmark_reflect to 1 in {netns}, or make the MTU equal along the path",
	},
	{
		question: "M32", when: (*dropFacts).reversePathKnown,
		because: "rp_filter is {rp} at {netns}/{dev}, and the way back to {src} {back}",
		advice:  "set net.ipv4.conf.all.rp_filter and net.ipv4.conf.{dev}.rp_filter to 0 in {netns} (the greater one counts)",
	},
	{
		question: "M32", when: (*dropFacts).reversePath,
		because: "the reverse path filter of {netns}/{dev} refuses the source {src}: the way back to it is another one",
		advice:  "set net.ipv4.conf.all.rp_filter and net.ipv4.conf.{dev}.rp_filter to 0 in {netns} (the greater one counts)",
	},
	{
		question: "M32", functions: noRouteFunctions, when: forwarderIsOff,
		because: "{netns} must forward {dst} but forwarding is off",
		advice:  "set net.{family}.conf.all.forwarding to 1 in {netns}",
	},
	{
		question: "M20", functions: noRouteFunctions, when: blackholeAfterEmptyTable,
		because: "{passed} has no route to {dst}, so {rule} threw the packet away: it is a blackhole",
		advice:  "find out why table {passedTable} in {netns} is empty: its default route comes from the routing daemon (BGP, BFD), which has lost its gateway or is not running",
	},
	{
		question: "M19", functions: noRouteFunctions, when: blackhole,
		because: "{rule} leads {dst} into a blackhole, and no rule before it matched",
		advice:  "put back the rule `from {src}` with a better priority that looks up the table with the default route, in {netns}",
	},
	{
		question: "M20", functions: []string{"dst_discard*"},
		because: "a blackhole route in {netns} threw the packet away",
		advice:  "see `ip route show table all type blackhole` in {netns}, and which table should have had the route to {dst} before it",
	},
	{
		question: "M16", functions: noRouteFunctions, when: markWasChanged,
		because: "the balancer in {netns} gave it mark {lbMark}, but it was routed with mark {mark}: a rule after the queue changed it",
		advice:  "look in {netns} for what sets marks behind the queue: `nft list ruleset` for `meta mark set` in prerouting with a priority above the queue's, or MARK in iptables; remove it",
	},
	{
		question: "M8", functions: noRouteFunctions, when: proxyLinkDown,
		because: "the rule for mark {mark} in {netns} leads to table {markTable}, which is empty: no device load-balan-* is up there, so no proxy is connected",
		advice:  "see with `ip link` in {netns} whether a device to the proxy is down or gone; set it up, or restart the proxy, and see that its addresses and the routes by it are back",
	},
	{
		question: "M17", functions: noRouteFunctions, when: markWithoutRule,
		because: "the packet has mark {mark}, but {netns} has no ip rule for that mark, and no other rule leads to {dst}",
		advice:  "put back the rule `fwmark {mark} lookup {markTable}` in {netns}; nobody checks it after it was made, restarting the load balancer makes it again",
	},
	{
		question: "M17", functions: noRouteFunctions, when: markTableEmpty,
		because: "the rule for mark {mark} in {netns} leads to table {markTable}, which has no route to {dst}",
		advice:  "put back the default route via the target into table {markTable} in {netns}",
	},
	{
		question: "M31", functions: noRouteFunctions, when: neverQueued,
		because: "the balancer in {netns} serves {dst}, but the packet has no mark: it never came to the queue",
		advice:  "see whether {dst} is in the sets of the queue rule in {netns} (`nft list table inet meridio-nfqlb`)",
	},
	{
		question: "M25", functions: noRouteFunctions, when: vipMissing,
		because: "{dst} is no address of {netns}, which does not forward",
		advice:  "add the VIP in {netns} (`ip addr add {dst} dev {dev}`), or see why the target's agent did not",
	},
	{
		question: "M17", functions: noRouteFunctions, reasons: []string{"IP_INNOROUTES", "IP_OUTNOROUTES"}, when: marked,
		because: "{netns} has no route for a packet to {dst} with mark {mark}",
		advice:  "see in {netns} whether `ip rule` has a rule for fwmark {mark}, and whether the table it names has a route",
	},
	{
		question: "M23", functions: noRouteFunctions, when: replyWithoutRoute,
		because: "{netns} has no route for replies from {src} to {dst}",
		advice:  "put back the rule `from {src}` in {netns} that looks up the table with the default route to the load balancers",
	},
	{
		question: "M20", functions: []string{"ip_error"}, reasons: unnamed, when: routingUnknown,
		because: "a blackhole route in {netns} threw the packet away",
		advice:  "see `ip route get {dst} from {src} iif {dev}` in {netns}, and which table should have had the route",
	},
	{
		functions: noRouteFunctions, when: noRoute,
		because: "{netns} has no route to {dst}",
		advice:  "see `ip rule` and `ip route get {dst} from {src} iif {dev} mark {mark}` in {netns}",
	},
	{
		functions: noRouteFunctions, when: refusingRoute,
		because: "{rule} in {netns} refuses {dst} by its type",
		advice:  "remove the unreachable or prohibit route, or give the packet a rule before it",
	},
	{
		functions: []string{"ip_forward", "ip6_forward"}, when: func(f *dropFacts) bool { return f.rec.Ttl <= 1 },
		because: "its TTL was used up ({ttl}) in {netns}",
		advice:  "look for a routing loop on the way to {dst}",
	},

	// Neighbours, devices, bridges.
	{
		question: "M7", when: noCarrier,
		because: "{hop} cannot be asked for its MAC address: {netns}/{dev} has no carrier",
		advice:  "see `ip link` at the other end of the link: its device is down; when it is up again, see that its IPv6 addresses and its routes are back",
	},
	{
		question: "M24", when: oneOfSeveralNexthops,
		because: "{rule} divides packets between several next hops ({hops}), and the one of this packet does not answer ARP or neighbour discovery",
		advice:  "see with `ip neigh show dev {dev}` in {netns} which one has failed: bring it back, or take it out of the route",
	},
	{
		question: "M9", when: onlyByDefault,
		because: "{netns} has no route to {dst} but its default, and {hop} of that does not answer: nothing comes to the load balancer",
		advice:  "see why {netns} has not learned a route to {dst} from the load balancer: the BGP session between them, and `ip route get {dst}` in {netns}",
	},
	{
		question: "M6", when: nexthopHasNoAddress,
		because: "{hop}, where {netns} sends it, is nobody's address: {bare} has no {ipVersion} address",
		advice:  "give {bare} back its address (`ip addr` shows what it has), and see that the routes by it are back",
	},
	{
		question: "M24", when: replyNexthop,
		because: "{hop}, where {netns} sends replies from {src} by {rule}, does not answer ARP or neighbour discovery at {dev}",
		advice:  "see whether that load balancer is there: bring it back, or take it out of the route in {netns}",
	},
	{
		question: "M18", when: unresolved,
		because: "{hop} does not answer ARP or neighbour discovery at {netns}/{dev}",
		advice:  "see `ip neigh` in {netns}, and whether the target's device is up and has the next hop's address",
	},
	{
		question: "M18", reasons: []string{"NEIGH_QUEUEFULL"},
		because: "too many packets wait for the next hop's MAC address at {netns}/{dev}",
		advice:  "see `ip neigh` in {netns}: the next hop is slow to answer, or gone",
	},
	{
		question: "M18", reasons: []string{"QUEUE_PURGE"}, when: func(f *dropFacts) bool { return !f.local },
		because: "it waited for a next hop that never answered, or in the queue of a device that was taken down",
		advice:  "see `ip neigh` and `ip -s link` in {netns}",
	},
	{
		question: "M35", reasons: []string{"OTHERHOST"},
		because: "the frame was for another MAC address than that of {netns}/{dev}",
		advice:  "compare `ip neigh` at the sender with `ip link` in {netns}: a stale neighbour entry, or a bridge that floods",
	},
	{
		question: "M7", functions: []string{"__dev_queue_xmit"}, reasons: []string{"QDISC_DROP"},
		because: "the queueing discipline of {netns}/{dev} took no packet: the device is down or full",
		advice:  "see `ip -s link show {dev}` and `tc -s qdisc show dev {dev}` in {netns}",
	},
	{
		reasons: []string{"QDISC_DROP", "QDISC_OVERLIMIT", "QDISC_CONGESTED", "FQ_FLOW_LIMIT", "FQ_BAND_LIMIT", "FQ_HORIZON_LIMIT", "CAKE_FLOOD"},
		because: "the queueing discipline of {netns}/{dev} was full or policed it",
		advice:  "see `tc -s qdisc show dev {dev}` in {netns}",
	},
	{
		question: "G6", functions: bridgeFunctions, when: hairpinOff,
		because: "the bridge sends nothing back through the port it came from: hairpin mode is off at {netns}/{dev}",
		advice:  "set hairpin mode on the port: `bridge link set dev {dev} hairpin on` in {netns}",
	},
	{
		question: "M22", functions: bridgeFunctions, when: bridgeBlocked,
		because: "the bridge knows the port for the frame's address, but {blocked}",
		advice:  "see `bridge -d link` in {netns} for the port's state: spanning tree, or the port's device is down",
	},
	{
		question: "M22", functions: bridgeFunctions, when: bridgeChose,
		because: "the bridge knows the port for the frame's address, but may not send it there: its VLAN is not one of the port's, or both ports are isolated",
		advice:  "see `bridge vlan` and `bridge -d link` in {netns}",
	},
	{
		question: "M29", functions: []string{"br_dev_queue_push_xmit", "br_nf_dev_queue_xmit", "br_forward_finish", "br_ip6_fragment", "ip6_fragment"}, when: tooBigForTarget,
		because: "it is bigger than {netns}/{dev} takes (MTU {mtu}), and a bridge tells nobody",
		advice:  "make the MTU equal along the path: `ip link set {dev} mtu N` in {netns}, with N as at the load balancer's and the target's device",
	},
	{
		question: "G7", functions: []string{"br_dev_queue_push_xmit", "br_nf_dev_queue_xmit", "br_forward_finish"}, when: tooBig,
		because: "it is bigger than {netns}/{dev} takes (MTU {mtu}), and a bridge tells nobody",
		advice:  "give the bridge, its ports and what is behind them the same MTU",
	},
	{
		question: "M22", functions: []string{"br_handle_frame"}, when: bridgeIsDown,
		because: "{bridge}, the bridge that {netns}/{dev} is a port of, is down",
		advice:  "set it up (`ip link set {bridge} up`) in {netns}, and see that its IPv6 addresses and the routes by it are back",
	},
	{
		question: "M22", functions: []string{"br_handle_frame*", "br_dev_xmit", "br_pass_frame_up"},
		because: "the bridge of {netns}/{dev} is down, or the port is not forwarding",
		advice:  "see `ip link` and `bridge link` in {netns}",
	},
	{
		reasons: []string{"DEV_READY"},
		because: "the device behind {netns}/{dev} is down",
		advice:  "see `ip link` in {netns} and at the other end of the link",
	},
	{
		reasons: []string{"CPU_BACKLOG"},
		because: "the CPU's receive backlog was full",
		advice:  "raise net.core.netdev_max_backlog, or spread the load over CPUs (RPS)",
	},
	{
		reasons: []string{"FULL_RING", "NOMEM", "PROTO_MEM"},
		because: "there was no memory for it at {netns}/{dev}",
		advice:  "see `ip -s link` in {netns} and net.ipv4.tcp_mem, net.ipv4.udp_mem",
	},

	// Filters.
	{
		reasons: []string{"NETFILTER_DROP"}, when: func(f *dropFacts) bool { return f.br.refused },
		because: "conntrack in {netns} could not make an entry for it: its table is full, or memory is short",
		advice:  "compare net.netfilter.nf_conntrack_count with nf_conntrack_max in {netns}, and see `conntrack -S` for drop: raise the limit, or find who opens so many connections",
	},
	{
		reasons: []string{"NETFILTER_DROP"},
		because: "a netfilter rule in {netns} drops it, or a chain's policy",
		advice:  "`waymark trace` names the chain and the rule where the kernel has fentry; else see `nft list ruleset` or `iptables-save -c` in {netns} for the rule whose counter grows (a full conntrack table drops here as well)",
	},
	{
		reasons: []string{"TC_INGRESS", "TC_EGRESS"},
		because: "a TC filter at {netns}/{dev} drops it",
		advice:  "see `tc filter show dev {dev} ingress`, `egress` and `bpftool net` in {netns}",
	},
	{
		reasons: []string{"XDP"},
		because: "an XDP program at {netns}/{dev} drops it",
		advice:  "see `bpftool net` in {netns}",
	},
	{
		reasons: []string{"BPF_CGROUP_EGRESS", "SECURITY_HOOK", "SOCKET_FILTER"},
		because: "a program attached to the socket or its cgroup drops it",
		advice:  "see `bpftool cgroup tree`, and the network policies that apply",
	},

	// Sockets.
	{
		functions: tcpFunctions, reasons: append([]string{acceptQueueFull}, unnamed...), when: acceptQueueIsFull,
		because: "the accept queue of {to} in {netns} is full ({accept}): {owner} accepts too slowly",
		advice:  "see why it does not accept its connections; a longer queue (its backlog, at most net.core.somaxconn) only bridges a burst",
	},
	{
		functions: tcpFunctions, when: noSuchConnection,
		because: "the socket that listens on {to} in {netns} has no such connection, and answered with a reset",
		advice:  "see whether earlier packets of the flow went to another target, or the application closed the connection",
	},
	{
		functions: tcpFunctions, reasons: unnamed, when: answered,
		because: "TCP in {netns} answered it with a reset: {refusal}",
		advice:  "see whether earlier packets of the flow went to another target, or the application closed the connection",
	},
	{
		reasons: []string{"SOCKET_RCVBUFF", "SOCKET_BACKLOG", "TCP_ZEROWINDOW"}, when: (*dropFacts).hasBuffer,
		because: "the receive buffer of the socket for {to} in {netns} is full ({buffer}): {owner} reads too slowly",
		advice:  "see why it does not read; a bigger buffer (SO_RCVBUF, at most net.core.rmem_max) only bridges a burst",
	},
	{
		reasons: []string{"NO_SOCKET"},
		because: "no socket in {netns} takes {to}",
		advice:  "see with `ss -lntu` in {netns} whether the application listens there, on that address",
	},
	{
		reasons: []string{"TCP_LISTEN_OVERFLOW"},
		because: "the accept queue of {to} in {netns} is full",
		advice:  "the application accepts too slowly, or its backlog (net.core.somaxconn) is too small",
	},
	{
		reasons: []string{"SOCKET_RCVBUFF", "SOCKET_BACKLOG", "TCP_ZEROWINDOW"},
		because: "the receive buffer of the socket for {to} in {netns} is full",
		advice:  "the application reads too slowly, or the buffer (net.core.rmem_max) is too small",
	},
	{
		reasons: []string{"TCP_FLAGS", "TCP_CLOSE", "TCP_INVALID_SEQUENCE", "TCP_INVALID_END_SEQUENCE", "TCP_INVALID_ACK_SEQUENCE", "TCP_OVERWINDOW", "TCP_ABORT_ON_DATA", "TCP_INVALID_SYN"},
		because: "the TCP connection it belongs to does not exist in {netns} in that state",
		advice:  "see whether earlier packets of the flow went to another target, or the application closed the connection",
	},

	// Broken packets.
	{
		question: "M34", reasons: []string{"PKT_TOO_BIG"},
		because: "it is bigger than {netns}/{dev} takes (MTU {mtu})",
		advice:  "make the MTU equal along the path, or see why the ICMP message about it does not reach {src}",
	},
	{
		question: "M33", reasons: []string{"FRAG_REASM_TIMEOUT", "FRAG_TOO_FAR", "DUP_FRAG"},
		because: "its fragments did not all come together in {netns}",
		advice:  "see whether all fragments of a packet take the same way",
	},
	{
		reasons: []string{"IP_CSUM", "TCP_CSUM", "UDP_CSUM", "ICMP_CSUM", "SKB_CSUM"},
		because: "its checksum is wrong",
		advice:  "look for a device with broken offloads, or a rule that rewrites packets without their checksum",
	},
	{
		reasons: []string{"IPV6DISABLED"},
		because: "IPv6 is off at {netns}/{dev}",
		advice:  "set net.ipv6.conf.{dev}.disable_ipv6 to 0 in {netns}",
	},
	{
		reasons: []string{"IP_INHDR", "HDR_TRUNC", "PKT_TOO_SMALL", "IPV6_BAD_EXTHDR"},
		because: "its headers are broken",
		advice:  "see with `waymark record` what the sender or a tunnel on the way makes of it",
	},
	{
		reasons: []string{"UNHANDLED_PROTO", "IP_NOPROTO"},
		because: "nothing in {netns} handles its protocol",
		advice:  "load the protocol's module, or stop sending it there",
	},
}

// The conditions of the table.

func tooBig(f *dropFacts) bool {
	return f.mtu() > 0 && f.ipLen() > f.mtu()
}

// unresolved tells a packet whose next hop did not answer for its MAC address.
// IPv6 names no reason; and what waited behind the first packet is purged if that
// one's error message asks for the same address.
func unresolved(f *dropFacts) bool {
	return f.reasonIs(neighbourReasons) ||
		f.functionIs(neighbourFunctions) && (f.reasonIs(unnamed) || f.reasonIs([]string{"QUEUE_PURGE"}))
}

// tooBigForTarget is the same on the way to or from a virtual address.
func tooBigForTarget(f *dropFacts) bool { return tooBig(f) && (f.isVIP(f.dst) || f.isVIP(f.src)) }

// tooBigUntold: the load balancer's answer to a marked packet would need the mark
// to be routed.
func tooBigUntold(f *dropFacts) bool {
	reflects, known := f.routing().sysctl("net/" + factTexts["family"](f) + "/fwmark_reflect")
	return marked(f) && f.balancer() != nil && known && reflects == "0"
}

// flowWasChanged: the balancer had a flow that took the packet, and still has it,
// but that takes it no more.
func flowWasChanged(f *dropFacts) bool { return lbNoFlow(f) && f.changedFlow() != "" }

func markWasChanged(f *dropFacts) bool {
	return marked(f) && lbAccepts(f) && uint32(f.lb.Mark) != f.rec.Mark
}

func proxyLinkDown(f *dropFacts) bool {
	if !markTableEmpty(f) || f.balancer() == nil || f.view == nil {
		return false
	}
	for _, d := range f.view.devices {
		if d.Up && strings.HasPrefix(d.Name, "load-balan-") {
			return false
		}
	}
	return true
}

// onlyByDefault: a gateway sends what is for a virtual address where it sends
// everything.
func onlyByDefault(f *dropFacts) bool {
	return unresolved(f) && f.isVIP(f.dst) && f.balancer() == nil && !marked(f) && len(f.nexthops()) == 1 && f.lookup().Route.Dst.Bits() == 0
}

// nexthopHasNoAddress: the next hop is an address that a load balancer's device
// should have.
func nexthopHasNoAddress(f *dropFacts) bool {
	via := f.nexthops()
	return unresolved(f) && len(via) == 1 && !f.b.w.hasAddress(via[0]) && f.bareDevice() != ""
}

func noCarrier(f *dropFacts) bool { return unresolved(f) && f.device != nil && f.device.NoCarrier }

func oneOfSeveralNexthops(f *dropFacts) bool { return unresolved(f) && len(f.nexthops()) > 1 }

// replyNexthop: on the way back from a virtual address to the load balancer.
func replyNexthop(f *dropFacts) bool {
	return unresolved(f) && f.isVIP(f.src) && f.balancer() == nil && len(f.nexthops()) == 1
}

func bridgeIsDown(f *dropFacts) bool {
	m := f.master()
	return m != nil && !m.Up
}

func bridgeChose(f *dropFacts) bool   { return f.br.switched }
func bridgeBlocked(f *dropFacts) bool { return f.br.switched && f.br.blocked != "" }
func hairpinOff(f *dropFacts) bool    { return f.br.switched && f.br.blocked == blockedHairpin }

func nobodyListens(f *dropFacts) bool {
	q, known := f.listeners()
	return known && len(q) == 0
}

func somebodyListens(f *dropFacts) bool {
	q, _ := f.listeners()
	return len(q) > 0
}

func droppedByRule(f *dropFacts) bool {
	d := f.droppedBy()
	return d != nil && !d.legacy && !d.Policy
}

func droppedByPolicy(f *dropFacts) bool   { return f.filter().Policy }
func droppedByIPTables(f *dropFacts) bool { return f.br.filter != nil && f.br.filter.legacy }

func lbNoFlow(f *dropFacts) bool   { return f.lb != nil && !f.lb.Accept && f.lb.Flow == "" }
func lbNoTarget(f *dropFacts) bool { return f.lb != nil && !f.lb.Accept && f.lb.Flow != "" }
func lbAccepts(f *dropFacts) bool  { return f.lb != nil && f.lb.Accept }

func (f *dropFacts) reversePathKnown() bool {
	rp := f.rpFilter()
	back := f.wayBack()
	return f.reversePath() && rp != "" && rp != "0" && back != nil && (back.Type != "unicast" || f.device != nil && back.fits([]string{f.device.Name, ""}) != "")
}

func (f *dropFacts) hasBuffer() bool { return f.br.socket != nil && f.br.socket.ReceiveQueue != nil }

func acceptQueueIsFull(f *dropFacts) bool { return f.br.socket != nil && f.br.socket.full() }

func answered(f *dropFacts) bool { return f.br.answer != nil && f.br.answer.Type == nil }

func noSuchConnection(f *dropFacts) bool { return answered(f) && f.br.answer.sock == stateListen }

func routingUnknown(f *dropFacts) bool { return f.lookup() == nil }

func routeType(f *dropFacts) string {
	if r := f.lookup(); r != nil {
		return r.Type
	}
	return ""
}

func noRoute(f *dropFacts) bool {
	if !f.reasonIs([]string{"IP_INNOROUTES", "IP_OUTNOROUTES"}) {
		return routeType(f) == "none"
	}
	// The kernel has the last word: a local route may just have gone.
	return routingUnknown(f) || routeType(f) == "none" || routeType(f) == "local"
}

func blackhole(f *dropFacts) bool { return routeType(f) == "blackhole" }

func blackholeAfterEmptyTable(f *dropFacts) bool {
	return blackhole(f) && len(f.lookup().Passed) > 0
}

func refusingRoute(f *dropFacts) bool {
	t := routeType(f)
	return t == "unreachable" || t == "prohibit"
}

func marked(f *dropFacts) bool { return f.rec.Mark != 0 }

func markWithoutRule(f *dropFacts) bool {
	return marked(f) && routeType(f) == "none" && len(f.rulesForMark()) == 0
}

func markTableEmpty(f *dropFacts) bool {
	return marked(f) && routeType(f) == "none" && len(f.rulesForMark()) > 0
}

// neverQueued: the balancer would have taken the packet, and did not get it.
func neverQueued(f *dropFacts) bool {
	if marked(f) || f.balancer() == nil || !f.isVIP(f.dst) && !balancerTakes(f) {
		return false
	}
	return noRoute(f) || refusingRoute(f)
}

func balancerTakes(f *dropFacts) bool {
	if f.b.s.opt.LB == nil || !f.sameNetns {
		return false
	}
	d := f.b.decide(f.balancer(), f.prev)
	return d.Accept
}

// forwarderIsOff: a namespace whose job is to forward (it has a balancer, or
// the packet is a reply from a VIP that is not its own) has forwarding off.
// Linux then answers EHOSTUNREACH, counted as an address error (ip_error).
func forwarderIsOff(f *dropFacts) bool {
	if f.dst.Is4() && !f.reasonIs([]string{"IP_INADDRERRORS"}) {
		return false
	}
	return f.forwarding() == "0" && (f.balancer() != nil || f.isVIP(f.src))
}

// vipMissing: a packet that came to the end of its way and finds that its
// destination is not there. IPv4 tells so itself (IP_INADDRERRORS); IPv6 and
// unnamed reasons are read from what is known of the namespace.
func vipMissing(f *dropFacts) bool {
	if f.balancer() != nil || f.isVIP(f.src) || marked(f) {
		return false
	}
	if f.reasonIs([]string{"IP_INADDRERRORS"}) {
		return true
	}
	ends := f.forwarding() == "0" || f.forwarding() == "" && f.isVIP(f.dst)
	return ends && (noRoute(f) || f.functionIs([]string{"ip6_forward"}) || f.dst.Is4() && f.reasonIs(unnamed) && f.forwarding() == "0" && !blackhole(f))
}

func replyWithoutRoute(f *dropFacts) bool { return noRoute(f) && f.isVIP(f.src) }
