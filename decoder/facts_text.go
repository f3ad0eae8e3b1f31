// SPDX-License-Identifier: Apache-2.0

// Facts in words: what advice texts can name in braces.

package decoder

import (
	"fmt"
	"strings"
)

// fill replaces {name} in an advice text by the fact of that name.
func (f *dropFacts) fill(text string) string {
	if !strings.Contains(text, "{") {
		return text
	}
	b := f.b.w.scratch[:0]
	for {
		before, rest, ok := strings.Cut(text, "{")
		b = append(b, before...)
		if !ok {
			f.b.w.scratch = b
			return f.b.w.text(b)
		}
		name, after, _ := strings.Cut(rest, "}")
		if fact := factTexts[name]; fact != nil {
			b = append(b, fact(f)...)
		}
		text = after
	}
}

// factTexts are the facts advice texts can name.
var factTexts = map[string]func(*dropFacts) string{
	"netns":   func(f *dropFacts) string { return f.drop.Netns },
	"dev":     func(f *dropFacts) string { return f.drop.Dev },
	"src":     func(f *dropFacts) string { return f.src.String() },
	"dst":     func(f *dropFacts) string { return f.dst.String() },
	"to":      func(f *dropFacts) string { return protoName(f.rec.Proto) + " " + endpoint(f.dst, f.rec.DstPort()) },
	"proto":   func(f *dropFacts) string { return protoName(f.rec.Proto) },
	"mark":    func(f *dropFacts) string { return fmt.Sprintf("%#x", f.rec.Mark) },
	"reason":  func(f *dropFacts) string { return f.drop.Reason },
	"at":      func(f *dropFacts) string { return f.drop.At },
	"blocked": func(f *dropFacts) string { return f.br.blocked },
	"ttl":     func(f *dropFacts) string { return fmt.Sprint(f.rec.Ttl) },
	"mtu": func(f *dropFacts) string {
		if f.mtu() == 0 {
			return "its limit"
		}
		return fmt.Sprint(f.mtu())
	},
	"family": func(f *dropFacts) string {
		if f.dst.Is6() {
			return "ipv6"
		}
		return "ipv4"
	},
	"chain":       func(f *dropFacts) string { return f.filter().place() },
	"filterRule":  func(f *dropFacts) string { return f.filter().rule() },
	"filterTable": func(f *dropFacts) string { return f.filter().Table },
	"filterHook":  func(f *dropFacts) string { return f.filter().Hook },
	"ports":       func(f *dropFacts) string { return f.localPorts() },
	"rp":          func(f *dropFacts) string { return f.rpFilter() },
	"back": func(f *dropFacts) string {
		res := f.wayBack()
		switch {
		case res == nil:
			return "is not the way it came"
		case res.Type == "none":
			return "does not exist"
		case res.Type != "unicast":
			return "is " + res.Type
		}
		var hops []string
		for _, n := range res.Route.Nexthops {
			hops = append(hops, n.text())
		}
		return "goes " + strings.Join(hops, " or ")
	},
	"flow": func(f *dropFacts) string {
		if f.lb == nil || f.lb.Flow == "" {
			return "the flow"
		}
		return f.lb.Flow
	},
	"why": func(f *dropFacts) string {
		if f.lb == nil {
			return ""
		}
		return f.lb.Why
	},
	"owner": func(f *dropFacts) string {
		if d := f.br.socket; d.Process != "" {
			return fmt.Sprintf("%s[%d]", d.Process, d.PID)
		}
		return "the application"
	},
	"accept": func(f *dropFacts) string {
		return fmt.Sprintf("%d wait, the limit is %d", *f.br.socket.AcceptQueue, f.br.socket.AcceptLimit)
	},
	"buffer": func(f *dropFacts) string {
		return fmt.Sprintf("%d of %d bytes", *f.br.socket.ReceiveQueue, f.br.socket.ReceiveLimit)
	},
	"refusal": func(f *dropFacts) string { return f.br.answer.Why },
	"rule": func(f *dropFacts) string {
		if r := f.lookup(); r != nil && r.Found {
			return r.Rule.text()
		}
		return "a rule"
	},
	"hop": func(f *dropFacts) string {
		if via := f.nexthops(); len(via) == 1 {
			return "the next hop " + via[0].String()
		}
		return "the next hop"
	},
	"hops": func(f *dropFacts) string {
		var via []string
		for _, a := range f.nexthops() {
			via = append(via, a.String())
		}
		return strings.Join(via, ", ")
	},
	"bridge": func(f *dropFacts) string { return f.master().Name },
	"passed": func(f *dropFacts) string {
		r := f.lookup()
		if r == nil || len(r.Passed) == 0 {
			return "no rule"
		}
		return r.Passed[len(r.Passed)-1].text()
	},
	"passedTable": func(f *dropFacts) string {
		r := f.lookup()
		if r == nil || len(r.Passed) == 0 {
			return "the table"
		}
		return tableText(r.Passed[len(r.Passed)-1].Table)
	},
	"markTable": func(f *dropFacts) string {
		if rules := f.rulesForMark(); len(rules) > 0 {
			return tableText(rules[0].Table)
		}
		return fmt.Sprint(f.rec.Mark)
	},
	"ip": func(f *dropFacts) string {
		if f.dst.Is6() {
			return "ip -6"
		}
		return "ip"
	},
	"changedFlow": (*dropFacts).changedFlow,
	"nearFlow":    func(f *dropFacts) string { return "flow " + f.nearFlow().Name },
	"nearPorts": func(f *dropFacts) string {
		ports := f.nearFlow().DPorts
		const few = 4
		switch {
		case len(ports) > few:
			return fmt.Sprintf("ports %s and %d more ranges", strings.Join(ports[:few], ", "), len(ports)-few)
		case len(ports) > 1 || strings.Contains(ports[0], "-"):
			return "ports " + strings.Join(ports, ", ")
		}
		return "port " + ports[0]
	},
	"lbMark": func(f *dropFacts) string { return fmt.Sprintf("%#x", uint32(f.lb.Mark)) },
	"bare":   (*dropFacts).bareDevice,
	"ipVersion": func(f *dropFacts) string {
		if f.dst.Is6() {
			return "IPv6"
		}
		return "IPv4"
	},
	"answerTable": (*dropFacts).answerTable,
	"answerPassed": func(f *dropFacts) string {
		r := f.answer()
		return r.Passed[len(r.Passed)-1].text()
	},
	"answerRule": func(f *dropFacts) string { return f.answer().Rule.text() },
	"queue": func(f *dropFacts) string {
		if w := f.br.wait; w != nil {
			return fmt.Sprintf("queue %d", w.number)
		}
		return "the balancer's queue"
	},
	"queues": func(f *dropFacts) string {
		qs, _ := f.listeners()
		var n []string
		for _, q := range qs {
			n = append(n, fmt.Sprint(q.Number))
		}
		return strings.Join(n, ", ")
	},
}
