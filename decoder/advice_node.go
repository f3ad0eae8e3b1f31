// SPDX-License-Identifier: Apache-2.0

package decoder

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// localPorts are those that the kernel gives to connections; it tells no more of
// them than the limits.
func (f *dropFacts) localPorts() string {
	if limits, ok := f.sysctl("net.ipv4.ip_local_port_range"); ok {
		return strings.Join(strings.Fields(limits), "-")
	}
	return "net.ipv4.ip_local_port_range"
}

// healthPort is where the agents of cilium-health answer.
const healthPort = 4240

// nodeAdvice is what waymark knows about losses on a node: its pods' bridge, its
// filters, its connections, and what health checks find.
var nodeAdvice = []adviceRow{
	// The bridge and the pods behind it.
	{
		question: "G4", functions: []string{"br_handle_frame"}, when: func(f *dropFacts) bool { return bridgeIsDown(f) && f.master().Name == kubenetBridge },
		because: "{bridge}, the bridge that {netns}/{dev} is a port of, is down",
		advice:  "set it up (`ip link set {bridge} up`) in {netns}, and see that its IPv6 addresses and the routes by it are back",
	},
	{
		question: "G6", functions: []string{"br_forward", "br_handle_frame_finish", "br_nf_pre_routing_finish*"}, when: hairpinRefused,
		because: "the bridge sends nothing back through the port it came from: hairpin mode is off at {netns}/{dev}",
		advice:  "set hairpin mode on the port: `bridge link set dev {dev} hairpin on` in {netns}",
	},
	{
		question: "G5", functions: []string{"br_flood", "br_handle_frame_finish", "br_dev_xmit"}, reasons: append([]string{"NO_TX_TARGET"}, unnamed...), when: unlearned,
		because: "the bridge of {netns}/{dev} does not know behind which port {dst} is, and may not look: {unlearned}",
		advice:  "set learning and flooding on the ports again (`bridge link set dev PORT learning on flood on` in {netns}); `bridge fdb show` says which addresses are known",
	},
	{
		question: "G7", functions: []string{"__dev_forward_skb*", "veth_xmit"}, reasons: unnamed, when: func(f *dropFacts) bool { return f.device != nil && f.device.Kind == "veth" },
		because: "the other end of {netns}/{dev}, a veth pair, takes no packet of {length} bytes: its MTU is smaller, or it is down",
		advice:  "give both ends the same MTU (`ip link show dev {dev}` in {netns} says which namespace the other end is in), and see that the other end is up",
	},
	{
		question: "G6", reasons: noSocket, when: notTranslatedBack,
		because: "it answers a connection that {netns} opened to a service's address: the rules of {node} have not translated the answer back, because bridged packets do not pass them (bridge-nf-call-{tables} is 0)",
		advice:  "set net.bridge.bridge-nf-call-iptables and -ip6tables to 1 in {node}",
	},
	{
		question: "K14", reasons: noSocket, when: podWithoutServer,
		because: "no socket in {netns}, a pod behind {gateway}, takes {to}",
		advice:  "see with `ss -lntu` in {netns} whether the application runs and listens on that address; until it does, take {dst} out of the endpoints of its services: every request that one of them gives it is refused",
	},
	{
		question: "K15", when: podGone,
		because: "{dst} does not answer ARP or neighbour discovery at {netns}/{dev}: the pod is gone, or its link is down",
		advice:  "see whether the pod runs and its port of {dev} has a carrier (`bridge link` in {netns}); until then take {dst} out of the endpoints of its services: every request that one of them gives it hangs",
	},

	{
		question: "R11", reasons: []string{noPortLeft},
		because: "no port is left in {netns} for a connection to {to}: all of {ports} are taken, or wait for a minute after one that has ended",
		advice:  "widen net.ipv4.ip_local_port_range in {netns}, or set net.ipv4.tcp_tw_reuse to 1 there, or have the client keep its connections (`ss -tan dst {dst}` shows them)",
	},

	// Filters: what health checks miss, and where.
	{
		question: "C6", functions: filterFunctions, when: func(f *dropFacts) bool { return droppedByRule(f) && f.echoRequest() && f.servesTCP() },
		because: "chain {chain} in {netns} drops ICMP to {dst}, by {filterRule}, while TCP to the same address passes: it is ICMP-filtered, not unreachable",
		advice:  "check {dst} by TCP, or accept echo requests before that rule in `nft -a list chain {chain}` in {netns}",
	},
	{
		question: "C2", functions: filterFunctions, when: func(f *dropFacts) bool { return droppedByRule(f) && f.echo() && f.local },
		because: "chain {chain} in {netns} drops ICMP to the node itself, by {filterRule}",
		advice:  "accept echo requests before that rule in `nft -a list chain {chain}` in {netns}; as long as TCP passes, only ICMP is filtered and the node is reachable",
	},
	{
		question: "C3", functions: filterFunctions, when: func(f *dropFacts) bool { return droppedByRule(f) && f.healthCheck() && f.local },
		because: "chain {chain} in {netns} drops {to}, the port of the node's agent, by {filterRule}",
		advice:  "accept TCP port 4240 from the other nodes before that rule in `nft -a list chain {chain}` in {netns}",
	},
	{
		question: "C4", functions: filterFunctions, when: func(f *dropFacts) bool { return droppedByRule(f) && f.echo() },
		because: "chain {chain} in {netns} drops ICMP on its way to {dst}, by {filterRule}: it is lost inside the host, not between the hosts",
		advice:  "accept echo requests before that rule in `nft -a list chain {chain}` in {netns}",
	},
	{
		question: "C5", functions: filterFunctions, when: func(f *dropFacts) bool { return droppedByRule(f) && f.healthCheck() },
		because: "chain {chain} in {netns} drops {to}, the port of a health endpoint, by {filterRule}: it is lost inside the host, not between the hosts",
		advice:  "accept TCP port 4240 before that rule in `nft -a list chain {chain}` in {netns}",
	},
	{
		question: "G9", functions: []string{"nf_hook_slow*"}, when: conntrackFull,
		because: "the conntrack table of {netns} is full (at most {connections} connections), so no entry could be made for it",
		advice:  "raise net.netfilter.nf_conntrack_max (it is one for the machine, set it outside of containers), or find with `conntrack -L` in {netns} who has so many connections",
	},

	// Routing.
	{
		question: "K16", functions: []string{"ip_forward", "ip6_forward"}, when: goesBack,
		because: "its TTL was used up: {netns} sends packets for {dst} back out of {dev}, by which they come, so they go to and fro between it and its neighbour",
		advice:  "see `ip route get {dst} from {src} iif {dev}` in {netns} and at the neighbour: one of the two needs a route that leads on",
	},
}

// kubenetBridge is the bridge that kubenet makes.
const kubenetBridge = "cbr0"

// portMode is the mode of the drop's device as a port of a bridge; nil: it is
// none, or that is not known.
func (f *dropFacts) portMode() *BridgePort {
	if f.device == nil || f.device.Master == 0 {
		return nil
	}
	return f.device.Port
}

// hairpinRefused: a frame was to leave by the port it came from, as it does when a
// service has chosen the pod that asks.
func hairpinRefused(f *dropFacts) bool {
	p := f.portMode()
	return p != nil && !p.Hairpin && f.src.IsValid() && f.src == f.dst
}

// unlearnedPorts are the ports of the bridge that the drop's device is, or is a
// port of, which neither learn nor take what is flooded.
func (f *dropFacts) unlearnedPorts() (names []string) {
	if f.device == nil || f.view == nil {
		return nil
	}
	bridge := f.device.Master
	if bridge == 0 {
		bridge = f.device.Index
	}
	for _, d := range f.view.devices {
		if d.Master == bridge && d.Port != nil && !d.Port.Learning && !d.Port.Flood {
			names = append(names, d.Name)
		}
	}
	slices.Sort(names)
	return names
}

func unlearned(f *dropFacts) bool { return len(f.unlearnedPorts()) > 0 }

// gateway is the bridge, in another namespace, that is the gateway of the drop's;
// nil: none is known.
func (f *dropFacts) gateway() (*view, *Device) {
	const pods = 1024 // routes: a pod has less, and a router's are not looked through for each drop
	r := f.routing()
	if r == nil || len(r.Routes) > pods {
		return nil, nil
	}
	for i := range r.Routes {
		route := &r.Routes[i]
		if route.Dst.Bits() != 0 || len(route.Nexthops) != 1 {
			continue
		}
		via := route.Nexthops[0].Via
		if !via.IsValid() || via.Is4() != f.dst.Is4() {
			continue
		}
		if v, d := f.b.w.bridgeWith(via); d != nil && v.inode != f.netns {
			return v, d
		}
	}
	return nil, nil
}

// notTranslatedBack: the first answer of a connection comes from an address that
// the connection was not opened to, by a bridge whose rules do not see it.
func notTranslatedBack(f *dropFacts) bool {
	if !f.local || f.rec.Proto == protoTCP && !f.synAck() || f.isVIP(f.src) {
		return false
	}
	v, bridge := f.gateway()
	if bridge == nil || v.sysctls == nil || !f.neighbourOf(bridge) {
		return false
	}
	return v.sysctls.Values["net.bridge.bridge-nf-call-"+f.tables()] == "0"
}

// neighbourOf tells whether the packet came from an address on the bridge, and not
// from behind it.
func (f *dropFacts) neighbourOf(bridge *Device) bool {
	own := func(p netip.Prefix) bool { return p.Addr() == f.src }
	return slices.ContainsFunc(bridge.Addrs, func(p netip.Prefix) bool { return p.Contains(f.src) }) && !slices.ContainsFunc(bridge.Addrs, own)
}

// tables is the part of a sysctl's name that stands for the packet's family.
func (f *dropFacts) tables() string {
	if f.dst.Is6() {
		return "ip6tables"
	}
	return "iptables"
}

// podWithoutServer: a request to a pod finds nobody.
func podWithoutServer(f *dropFacts) bool {
	_, bridge := f.gateway()
	opens := f.rec.Proto != protoTCP || f.rec.TcpFlags&(flagSYN|flagACK) == flagSYN
	return f.local && opens && bridge != nil && !f.isVIP(f.dst)
}

// podGone: a bridge's own neighbour does not answer.
func podGone(f *dropFacts) bool {
	if !unresolved(f) || f.device == nil || f.device.Kind != "bridge" || f.isVIP(f.src) || f.isVIP(f.dst) {
		return false
	}
	return slices.ContainsFunc(f.device.Addrs, func(p netip.Prefix) bool { return p.Contains(f.dst) })
}

// echo tells a question of ping or its answer.
func (f *dropFacts) echo() bool {
	t := f.rec.IcmpType
	return f.rec.Proto == protoICMP && (t == 8 || t == 0) || f.rec.Proto == protoICMPv6 && (t == 128 || t == 129)
}

func (f *dropFacts) echoRequest() bool {
	return f.rec.Proto == protoICMP && f.rec.IcmpType == 8 || f.rec.Proto == protoICMPv6 && f.rec.IcmpType == 128
}

func (f *dropFacts) healthCheck() bool {
	return f.rec.Proto == protoTCP && (f.rec.DstPort() == healthPort || f.rec.SrcPort() == healthPort)
}

// goesBack: the packet's route leads out of the device by which it came. lookup
// takes it for unroutable if it ever was, because it was lost.
func goesBack(f *dropFacts) bool {
	if f.rec.Ttl > 1 || f.local || f.lookup() == nil || f.drop.Dev == "" {
		return false
	}
	back := func(n Nexthop) bool { return n.Dev == f.drop.Dev }
	return slices.ContainsFunc(f.b.w.routings(f.view, f.netns), func(r *Routing) bool {
		res := r.Lookup(f.query)
		return !res.Uncertain && res.Type == "unicast" && slices.ContainsFunc(res.Route.Nexthops, back)
	})
}

// droppedBy is what drops in the drop's namespace where the packet was: told by
// the chain itself, or the one thing there that can have done it. nil: neither.
func (f *dropFacts) droppedBy() *NetfilterDetail {
	if f.br.filter != nil {
		return f.br.filter
	}
	if !f.functionIs([]string{"nft_do_chain*"}) {
		return nil
	}
	var found []*NetfilterDetail
	for _, v := range []*view{f.b.w.views[f.netns], f.view} {
		if v == nil || v.chains == nil || v.chains.More {
			continue
		}
		for i := range v.chains.Chains {
			found = append(found, f.mayDrop(&v.chains.Chains[i])...)
		}
		break
	}
	if len(found) != 1 {
		return nil
	}
	return found[0]
}

// mayDrop is what of chain c may have dropped the packet.
func (f *dropFacts) mayDrop(c *Chain) (found []*NetfilterDetail) {
	if c.Family == "ip" && f.dst.Is6() || c.Family == "ip6" && f.dst.Is4() || c.Hook != "" && !slices.Contains(f.nfHooks(), c.Hook) {
		return nil
	}
	detail := NetfilterDetail{Hook: c.Hook, Family: c.Family, Table: c.Table, Chain: c.Name}
	for i := range c.Drops {
		if !f.mayMatch(c.Drops[i].Text) {
			continue
		}
		d := detail
		d.Rule, d.Text, d.byRule = c.Drops[i].Handle, c.Drops[i].Text, true
		found = append(found, &d)
	}
	if c.Policy == "drop" {
		d := detail
		d.Policy = true
		found = append(found, &d)
	}
	return found
}

// nfHooks are the hooks of netfilter that the packet can have been at, which is
// told by where it goes.
func (f *dropFacts) nfHooks() []string {
	switch {
	case f.local:
		return []string{"prerouting", "input"}
	case f.isHere(f.src):
		return []string{"output", "postrouting"}
	}
	return []string{"prerouting", "forward", "postrouting"}
}

// mayMatch tells whether a rule with that text may match the packet: its protocol
// and its ports do not contradict. Of what is not understood it may.
func (f *dropFacts) mayMatch(text string) bool {
	words := strings.Fields(text)
	for i := 0; i+1 < len(words); i++ {
		next := words[i+1]
		switch words[i] {
		case "tcp", "udp", "sctp", "icmp", "icmpv6":
			if !sameProto(words[i], f.rec.Proto) {
				return false
			}
		case "l4proto", "protocol":
			if !sameProto(next, f.rec.Proto) {
				return false
			}
		case "dport":
			if n := number(next); n != 0 && n != int(f.rec.DstPort()) {
				return false
			}
		case "sport":
			if n := number(next); n != 0 && n != int(f.rec.SrcPort()) {
				return false
			}
		}
	}
	return true
}

// sameProto tells whether name, as nft(8) and iptables(8) write it, is proto.
func sameProto(name string, proto uint8) bool {
	n, ok := filterProtos[name]
	return !ok || n == proto
}

var filterProtos = map[string]uint8{"tcp": protoTCP, "udp": protoUDP, "sctp": protoSCTP, "icmp": protoICMP, "icmpv6": protoICMPv6, "ipv6-icmp": protoICMPv6}

// nodeTexts are the facts that nodeAdvice names.
var nodeTexts = map[string]func(*dropFacts) string{
	"unlearned": func(f *dropFacts) string {
		names := strings.Join(f.unlearnedPorts(), ", ")
		return cmp.Or(names, "no port") + " neither learns nor takes what is flooded"
	},
	"tables": (*dropFacts).tables,
	"length": func(f *dropFacts) string { return fmt.Sprint(f.ipLen()) },
	"node": func(f *dropFacts) string {
		v, _ := f.gateway()
		if v == nil {
			return "the node"
		}
		name, _ := f.b.w.netns(v.inode)
		return name
	},
	"gateway": func(f *dropFacts) string {
		v, d := f.gateway()
		if d == nil {
			return "a bridge"
		}
		name, _ := f.b.w.netns(v.inode)
		return name + "/" + d.Name
	},
}

func init() {
	maps.Copy(factTexts, directorTexts)
	maps.Copy(factTexts, entryTexts)
	maps.Copy(factTexts, nodeTexts)
}
