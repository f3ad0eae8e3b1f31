// SPDX-License-Identifier: Apache-2.0

package decoder

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// directorAdvice is what waymark knows about losses around IPVS: at directors,
// and at the realservers they send to.
var directorAdvice = []adviceRow{
	{
		question: "R12", functions: []string{"nf_hook_slow*"}, when: func(f *dropFacts) bool { return conntrackFull(f) && f.sentByDirector() },
		because: "the conntrack table of {netns} is full (at most {connections} connections), so no entry could be made for it",
		advice:  "raise net.netfilter.nf_conntrack_max (it is one for the machine, set it outside of containers), or find with `conntrack -L` in {netns} who has so many connections",
	},
	{
		question: "R9", functions: []string{"nf_hook_slow*"}, when: destinationGone,
		because: "the IPVS of {netns} sends this connection to {entry}, which is no destination of the service any more, and drops its packets without a word, because net.ipv4.vs.expire_nodest_conn is 0",
		advice:  "set net.ipv4.vs.expire_nodest_conn to 1 in {netns}: the connection's next packet then ends its entry, and the client hears of it; or put the destination back, with weight 0, until its connections have ended (`ipvsadm -lnc`)",
	},
	{
		question: "R28", functions: []string{"nf_hook_slow*"}, when: noWeight,
		because: "no destination of the IPVS service {to} in {netns} has a weight: {destinations}",
		advice:  "see with `ipvsadm -ln` in {netns}; the weight is the number of the service's pods on a node: see that some run, and that the director has heard of them",
	},
	{
		question: "R29", when: func(f *dropFacts) bool { return f.reversePath() && f.tunnelled() },
		because: "rp_filter is {rp} at {netns}/{dev}, and answers never go back into the tunnel by which a director sends",
		advice:  "set net.ipv4.conf.all.rp_filter and net.ipv4.conf.{dev}.rp_filter to 0 in {netns} (the greater one counts)",
	},
	{
		question: "R30", functions: []string{"ip_forward*", "ip6_forward*"}, when: directorWithoutAddress,
		because: "{netns} has the IPVS service {to}, but not the address {dst}, so it sends the packet on as a router",
		advice:  "add the address in {netns}, with prefix length {bits} (`ip addr add {dst}/{bits} dev DEVICE`), or see why the director's agent did not",
	},
	{
		question: "R20", reasons: noSocket, when: answersARP,
		because: "{netns} answers ARP for {dst}, because net.ipv4.conf.{dev}.arp_ignore is 0 there, so the packet came past {director}, the director that has the service",
		advice:  "set net.ipv4.conf.all.arp_ignore to 1 and arp_announce to 2 in {netns}, and delete what the router has learnt (`ip neigh del {dst} dev DEVICE` there); the director announces itself again",
	},
	{
		question: "R7", reasons: noSocket, when: portReused,
		because: "{reuser} sends it here by its entry of an older connection from the same port, to {oldEntry}, which has weight 0 and gets no others, because net.ipv4.vs.conn_reuse_mode is {reuseMode} there",
		advice:  "set net.ipv4.vs.conn_reuse_mode to 3 in {reuser}, so that a new connection takes the place of one in fin_wait, and keep those for a shorter time (`ipvsadm --set 900 10 300`; `ipvsadm -lnc` lists them)",
	},
	{
		question: "R24", functions: tcpFunctions, reasons: append([]string{"TCP_FLAGS"}, unnamed...), when: takenUp,
		because: "{taker} took it up in the middle of its connection, which it did not know (net.ipv4.vs.sloppy_tcp is 1 there), and chose {netns} for it: another realserver has the connection, or it has ended",
		advice:  "see why the router sends packets of one connection to several directors: it must choose by addresses and ports, and keep its choice; or have all directors choose alike (scheduler mh)",
	},
	{
		question: "R28", reasons: noSocket, when: (*dropFacts).sentByDirector,
		because: "{director} sends {to} here by IPVS, but no rule of {netns} leads it to a pod, and no socket takes it",
		advice:  "put back the rule for {to} (`iptables -t nat -S RAVEL` in {netns} shows them; restarting the realserver's agent writes them), or give the realserver weight 0",
	},
	{
		question: "R8", reasons: noSocket, when: forgotten,
		because: "the IPVS of {netns} has no entry for this connection any more: its TCP timeout is {tcpTimeout} s, and it takes up none in the middle (sloppy_tcp is 0)",
		advice:  "set the timeouts of IPVS with `ipvsadm --set 900 10 300` in {netns}: that of TCP must be longer than clients are idle",
	},
	{
		question: "R23", reasons: noSocket, when: unknownToDirector,
		because: "the IPVS of {netns} has no connection for it and takes none up in the middle (sloppy_tcp is 0): it was opened by way of another director",
		advice:  "set net.ipv4.vs.sloppy_tcp to 1 in {netns}, and see why the router sends packets of one connection to several directors: it must choose by addresses and ports, and keep its choice",
	},
	{
		question: "R5", reasons: noSocket, when: func(f *dropFacts) bool { return serviceElsewhere(f) && len(f.ipvs().Services) == 0 },
		because: "the IPVS table of {netns} is empty, while {director} has the service {to}",
		advice:  "see why the director's agent has written nothing there (`ipvsadm -Sn` in both), or stop announcing {dst} from {netns}",
	},
	{
		question: "R6", reasons: noSocket, when: serviceElsewhere,
		because: "the IPVS of {netns} lacks the service {to}, which {director} has",
		advice:  "compare `ipvsadm -Sn` of both directors and add what is missing in {netns}, or stop announcing {dst} there",
	},
}

// noSocket are the reasons of packets that no socket takes.
var noSocket = []string{"NO_SOCKET"}

// ipvs is the table of the drop's namespace; of one that was never told an empty
// one.
func (f *dropFacts) ipvs() *IPVS {
	for _, v := range []*view{f.b.w.views[f.netns], f.view} {
		if v != nil && v.ipvs != nil {
			return v.ipvs
		}
	}
	return &IPVS{}
}

// service is the one of t that the packet is for; nil: t has none.
func (f *dropFacts) service(t *IPVS) *IPVSService {
	proto := protoName(f.rec.Proto)
	at := netip.AddrPortFrom(f.dst, f.rec.DstPort())
	for i := range t.Services {
		if s := &t.Services[i]; s.Proto == proto && s.Addr == at {
			return s
		}
	}
	return nil
}

// directors are the other namespaces that have the packet's service, by name.
func (f *dropFacts) directors() []*view {
	if f.directed {
		return f.directedBy
	}
	f.directed = true
	for _, inode := range f.b.w.directors {
		if v := f.b.w.views[inode]; inode != f.netns && v.ipvs != nil && f.service(v.ipvs) != nil {
			f.directedBy = append(f.directedBy, v)
		}
	}
	slices.SortFunc(f.directedBy, func(a, b *view) int {
		return cmp.Or(strings.Compare(a.name.Name, b.name.Name), cmp.Compare(a.inode, b.inode))
	})
	return f.directedBy
}

// sender is a director that sends the packet's service to an address of the drop's
// namespace; nil: none does.
func (f *dropFacts) sender() *view {
	for _, d := range f.directors() {
		for _, to := range f.service(d.ipvs).Destinations {
			if f.isHere(to.Addr.Addr()) {
				return d
			}
		}
	}
	return nil
}

func (f *dropFacts) sentByDirector() bool { return f.sender() != nil }

// serviceElsewhere: a director lacks what another one has.
func serviceElsewhere(f *dropFacts) bool {
	return f.local && f.service(f.ipvs()) == nil && len(f.directors()) > 0
}

func noWeight(f *dropFacts) bool {
	s := f.service(f.ipvs())
	return s != nil && !slices.ContainsFunc(s.Destinations, func(d IPVSDestination) bool { return d.Weight > 0 })
}

func directorWithoutAddress(f *dropFacts) bool { return !f.local && f.service(f.ipvs()) != nil }

// unknownToDirector: of a connection that this director did not see the start of.
func unknownToDirector(f *dropFacts) bool {
	sloppy, _ := f.sysctl("net.ipv4.vs.sloppy_tcp")
	return f.service(f.ipvs()) != nil && f.rec.Proto == protoTCP && f.rec.TcpFlags&flagSYN == 0 && sloppy == "0"
}

// answersARP: a host that has the address on another device than the one it is
// asked at answers for it, unless arp_ignore is 1 or more there
// (Documentation/networking/ip-sysctl.rst).
func answersARP(f *dropFacts) bool {
	if !f.dst.Is4() || f.device == nil || !serviceElsewhere(f) || f.sentByDirector() {
		return false
	}
	all, known := f.sysctl("net.ipv4.conf.all.arp_ignore")
	dev, _ := f.sysctl("net.ipv4.conf." + f.device.Name + ".arp_ignore")
	if !known || max(all, dev) != "0" {
		return false
	}
	return !slices.ContainsFunc(f.device.Addrs, func(p netip.Prefix) bool { return p.Addr() == f.dst })
}

// tunnelled tells a packet that came out of IPIP, by which a director sends to this
// namespace. Which service it was for is not asked: it may have been translated.
func (f *dropFacts) tunnelled() bool {
	if f.device == nil || f.device.Kind != "ipip" {
		return false
	}
	for _, inode := range f.b.w.directors {
		for _, s := range f.b.w.views[inode].ipvs.Services {
			for _, d := range s.Destinations {
				if d.Method == "tunnel" && f.isHere(d.Addr.Addr()) {
					return true
				}
			}
		}
	}
	return false
}

// isHere tells whether a is an address of the drop's namespace.
func (f *dropFacts) isHere(a netip.Addr) bool {
	return slices.ContainsFunc(f.b.w.viewsOf(f.view, f.netns), func(v *view) bool { return v.local(a) })
}

// sysctl is a value that was read when packets were lost.
func (f *dropFacts) sysctl(name string) (string, bool) {
	for _, v := range []*view{f.b.w.views[f.netns], f.view} {
		if v != nil && v.sysctls != nil {
			s, ok := v.sysctls.Values[name]
			return s, ok
		}
	}
	return "", false
}

// conntrackFull tells that the namespace has as many connections as it may.
func conntrackFull(f *dropFacts) bool {
	count, limit := f.connections()
	return limit > 0 && count >= limit
}

// connections are those that conntrack has, and how many it may have; 0: any
// number, or that is not known.
func (f *dropFacts) connections() (count, limit int) {
	c, _ := f.sysctl("net.netfilter.nf_conntrack_count")
	l, _ := f.sysctl("net.netfilter.nf_conntrack_max")
	return number(c), number(l)
}

// number is a decimal number of a sysctl; 0 if it is none.
func number(s string) int {
	n := 0
	for _, c := range []byte(s) {
		if c < '0' || c > '9' || n > 1<<40 {
			return 0
		}
		n = n*10 + int(c-'0')
	}
	return n
}

// directorTexts are the facts that directorAdvice names.
var directorTexts = map[string]func(*dropFacts) string{
	"director": func(f *dropFacts) string {
		v := f.sender()
		if v == nil {
			v = f.directors()[0]
		}
		name, _ := f.b.w.netns(v.inode)
		return name
	},
	"destinations": func(f *dropFacts) string {
		s := f.service(f.ipvs())
		if s == nil || len(s.Destinations) == 0 {
			return "it has none"
		}
		const few = 8
		var all []string
		for i, d := range s.Destinations {
			if i == few {
				all = append(all, "…")
				break
			}
			all = append(all, fmt.Sprintf("%s weight %d", d.Addr, d.Weight))
		}
		return strings.Join(all, ", ")
	},
	"bits": func(f *dropFacts) string { return fmt.Sprint(f.dst.BitLen()) },
	"connections": func(f *dropFacts) string {
		_, limit := f.connections() // and not how many it has: equal drops have equal texts
		return fmt.Sprint(limit)
	},
}
