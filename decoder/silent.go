// SPDX-License-Identifier: Apache-2.0

// Silent losses: no kernel frees a packet, and yet a connection does not work.
// The answer was never built, or a queue has swallowed the packet. What was not
// seen is then explained from the state of the namespace where the packet was last.

package decoder

import (
	"fmt"
	"net/netip"
	"slices"

	"waymark/bpf"
)

// silentTable is what waymark knows about packets that nothing came of, the
// special before the general. Rows are as in adviceTable; functions and reasons
// do not apply.
var silentTable = []adviceRow{
	{
		question: "M30", when: (*dropFacts).heldInQueue,
		because: "the program behind {queue} in {netns} has given no verdict: it is stopped or stuck",
		advice:  "see the state of the balancer's process in {netns} (T in `ps` is stopped), and whether the third column of /proc/net/netfilter/nfnetlink_queue, which is how many packets wait, grows: continue the process or restart it",
	},
	{
		question: "M26", when: noRuleForAnswer,
		because: "no answer left {netns}: it has no rule `from {dst}`, and nothing else there leads to {src}",
		advice:  "put back the rule in {netns}: `{ip} rule add from {dst} lookup {answerTable}`",
	},
	{
		question: "M27", when: noRouteForAnswer,
		because: "no answer left {netns}: {answerPassed} has no route to {src}",
		advice:  "put back the default route via the proxy's bridge, onlink and by {dev}, into table {answerTable} in {netns}",
	},
	{
		when:    answerRefused,
		because: "no answer left {netns}: {answerRule} refuses {src} by its type",
		advice:  "see `ip rule` and `ip route get {src} from {dst}` in {netns}, and who made that rule or route",
	},
	{
		when:    answerUnroutable,
		because: "no answer left {netns}: it has no route to {src}",
		advice:  "see `ip rule` and `ip route get {src} from {dst}` in {netns}: give it a route back",
	},
}

// sentPacket names what a namespace has sent.
type sentPacket struct {
	netns uint32
	tuple tuple
}

// maxSent bounds the packets that are remembered as sent: those of as many
// connections at a time can be missed.
const maxSent = 8192

// sentPackets remembers when a namespace last began to send what may be an answer.
type sentPackets struct {
	at   map[sentPacket]uint64 // boot clock ns
	ring []sentPacket
	next int
}

// note takes a record of o, the first of which it may be.
func (p *sentPackets) note(o *openJourney, r *bpf.Record) {
	if r.Hook != uint16(bpf.HookTCEgress) || r.Proto == protoTCP && r.TcpFlags&(flagSYN|flagRST) == 0 ||
		o.events[0].rec.Hook == uint16(bpf.HookTCIngress) || o.events[0].rec.Netns != r.Netns {
		return
	}
	k := sentPacket{r.Netns, recordTuple(r)}
	if _, known := p.at[k]; !known {
		if p.at == nil {
			p.at = make(map[sentPacket]uint64, maxSent)
		}
		if len(p.ring) < maxSent {
			p.ring = append(p.ring, k)
		} else {
			delete(p.at, p.ring[p.next])
			p.ring[p.next] = k
			p.next = (p.next + 1) % maxSent
		}
	}
	p.at[k] = r.TimeNs
}

// asks tells whether the packet is one that is answered as long as all is well.
func asks(r *bpf.Record) bool {
	switch r.Proto {
	case protoTCP:
		return r.TcpFlags&(flagSYN|flagACK|flagRST) == flagSYN
	case protoICMP:
		return r.IcmpType == 8
	case protoICMPv6:
		return r.IcmpType == 128
	}
	return r.Proto == protoUDP
}

// silent explains a journey that ended without a loss, and of which nothing came.
func (b *builder) silent() {
	j := b.j
	// Who was asked for one direction has not looked for answers.
	if b.s.opt.Emit == nil || !b.w.session.FollowReply || !b.settled {
		return
	}
	i := slices.IndexFunc(b.branches, func(br branch) bool { return br.root })
	if i < 0 || b.branches[i].dev == nil || !b.branches[i].own || b.branches[i].drop != nil {
		return
	}
	br := &b.branches[i]
	r := &br.dev.rec
	switch {
	case j.Outcome == Delivered && b.arrived(br) && asks(r) && !br.last.dst.IsMulticast() && !br.last.src.IsUnspecified():
		j.asked = sentPacket{r.Netns, br.last.reverse()}
	case j.Outcome == Open && bpf.Hook(r.Hook) == bpf.HookTCIngress:
	default:
		return
	}
	d := Drop{Dev: b.w.deviceName(br.dev.view, r.Netns, r.Ifindex)}
	d.Netns, d.Pod = b.w.netns(r.Netns)
	f := b.facts(br, br.dev, &d)
	f.src, f.dst = br.last.src, br.last.dst
	if !explain(silentTable, f, &d) {
		return
	}
	j.Because, j.Advice, j.Question = d.Because, d.Advice, d.Question
	if f.answerSince != 0 { // at the latest when the packet was there: reading takes a moment
		j.Since = b.s.wall(min(f.answerSince, br.dev.rec.TimeNs))
	}
	j.silentAt = d.place()
}

// answered notes that a journey's answer was seen, and takes back what was said of it.
func (s *Stitcher) answered(j *Journey) {
	if j.asked.netns == 0 {
		return
	}
	if at, ok := s.sent.at[j.asked]; ok && at >= j.seq.start {
		j.answered = true
		j.Because, j.Advice, j.Question, j.Since, j.silentAt = "", "", "", 0, ""
	}
}

// answer is how the namespace would route an answer to the packet, if it cannot: by
// the rules of the packet's time, or by those read a moment later. nil: it can, or
// that is not known.
func (f *dropFacts) answer() *RouteResult {
	if f.answerSet || !f.delivered() {
		return f.answerRoute
	}
	f.answerSet = true
	q := RouteQuery{Src: f.dst, Dst: f.src, IIF: "lo"}
	for _, v := range f.b.w.viewsOf(f.e.view, f.netns) {
		if v.routing == nil {
			continue
		}
		if res := v.routing.Lookup(q); unroutable(&res) {
			f.answerRoute, f.answerRouting = &res, v.routing
			f.answerSince = v.since(func(r *Routing) bool {
				res := r.Lookup(q)
				return unroutable(&res)
			})
			break
		}
	}
	return f.answerRoute
}

func unroutable(r *RouteResult) bool {
	return !r.Uncertain && (r.Type == "none" || r.Type == "blackhole" || r.Type == "unreachable" || r.Type == "prohibit")
}

// delivered tells a packet that came to the namespace that has its destination.
func (f *dropFacts) delivered() bool {
	return f.local && bpf.Hook(f.e.rec.Hook) == bpf.HookTCIngress && !f.waits()
}

func (f *dropFacts) waits() bool { return f.br.wait != nil }

// heldInQueue: it was seen to go into a queue, or to come to a balancer that would
// have let it pass, and not to come out.
func (f *dropFacts) heldInQueue() bool {
	if f.waits() {
		return true
	}
	queues, _ := f.listeners()
	waits := slices.ContainsFunc(queues, func(q Queue) bool { return q.Waiting > 0 })
	return !f.local && waits && f.balancer() != nil && f.rec.IpVersion != 0 && f.isVIP(f.dst) && balancerTakes(f)
}

func noRuleForAnswer(f *dropFacts) bool {
	return answerUnroutable(f) && f.isVIP(f.dst) && !slices.ContainsFunc(f.answerRouting.Rules, func(r Rule) bool {
		return r.Src.IsValid() && r.Src.Bits() > 0 && r.Src.Contains(f.dst)
	})
}

func noRouteForAnswer(f *dropFacts) bool {
	return answerUnroutable(f) && f.isVIP(f.dst) && len(f.answerRoute.Passed) > 0
}

func answerRefused(f *dropFacts) bool { return f.answer() != nil && f.answerRoute.Type != "none" }

// answerUnroutable leaves out datagrams to what is no service: often nobody means
// to answer them.
func answerUnroutable(f *dropFacts) bool {
	return f.answer() != nil && f.answerRoute.Type == "none" && (f.rec.Proto != protoUDP || f.isVIP(f.dst))
}

// answerTable is the table that an answer should be routed by: that of the rule
// which matched, or the only other one with a default route.
func (f *dropFacts) answerTable() string {
	r := f.answer()
	if r == nil {
		return "TABLE"
	}
	if n := len(r.Passed); n > 0 {
		return tableText(r.Passed[n-1].Table)
	}
	found := 0
	for _, route := range f.answerRouting.Routes {
		if route.Dst.Bits() != 0 || route.Dst.Addr().Is4() != f.dst.Is4() || route.Type != "unicast" || route.Table >= tableDefault && route.Table <= tableLocal {
			continue
		}
		if found != 0 && found != route.Table {
			return "TABLE"
		}
		found = route.Table
	}
	if found == 0 {
		return "TABLE"
	}
	return fmt.Sprint(found)
}

// Unanswered is packets that nothing came of, for one reason and for one time
// without an answer between them.
type Unanswered struct {
	Type     string     `json:"type"` // "unanswered"
	Node     string     `json:"node,omitempty"`
	Place    string     `json:"place"` // NETNS/DEV, or POD/DEV, where the packets were last
	Proto    string     `json:"proto"`
	Dst      netip.Addr `json:"dst"`
	DPort    uint16     `json:"dport,omitempty"`
	Count    uint64     `json:"count"`
	Since    WallTime   `json:"since"`           // the first one
	Last     WallTime   `json:"last"`            // the latest one
	Until    WallTime   `json:"until,omitzero"`  // the first one afterwards that was answered
	Broken   WallTime   `json:"broken,omitzero"` // when the reason came to be, if that was seen
	Because  string     `json:"because"`
	Question string     `json:"question,omitempty"`
}

// maxUnanswered bounds the lines of silent losses; those of more are left out.
const maxUnanswered = 256

// Silences dates silent losses: when packets that nothing came of began, and when
// that was over.
type Silences struct{ all []*Unanswered }

// Add takes every journey, in order.
func (s *Silences) Add(j *Journey) {
	if j.Because == "" {
		s.mended(j)
		return
	}
	p := &j.Packet
	for _, u := range s.all {
		same := u.Question == j.Question && (u.Question != "" || u.Because == j.Because)
		if same && u.Place == j.silentAt && u.goesOn(j) {
			u.Count++
			u.Since, u.Last = min(u.Since, j.Start), max(u.Last, j.Start)
			if u.Broken == 0 || j.Since != 0 && j.Since < u.Broken {
				u.Broken = j.Since
			}
			return
		}
	}
	if len(s.all) >= maxUnanswered {
		return
	}
	s.all = append(s.all, &Unanswered{
		Type: "unanswered", Node: j.Node, Place: j.silentAt, Proto: p.Proto, Dst: p.Dst, DPort: p.DPort,
		Count: 1, Since: j.Start, Last: j.Start, Broken: j.Since, Because: j.Because, Question: j.Question,
	})
}

// mended notes a packet that is answered where others were not.
func (s *Silences) mended(j *Journey) {
	if len(s.all) == 0 || !j.answered {
		return
	}
	for _, u := range s.all {
		if u.goesOn(j) && u.Place == j.lastPlace() && j.Start > u.Last {
			u.Until = j.Start
		}
	}
}

// goesOn tells whether j goes where u's packets went, and u is not over.
func (u *Unanswered) goesOn(j *Journey) bool {
	p := &j.Packet
	return u.Until == 0 && u.Node == j.Node && u.Proto == p.Proto && u.Dst == p.Dst && u.DPort == p.DPort
}

// All are the silent losses so far, in the order they began.
func (s *Silences) All() []*Unanswered { return s.all }

// lastPlace is the device that the packet itself passed last.
func (j *Journey) lastPlace() string {
	for i := len(j.Hops) - 1; i >= 0; i-- {
		if h := &j.Hops[i]; h.Trail == 0 && h.Group == GroupDevice {
			return h.place()
		}
	}
	return ""
}
