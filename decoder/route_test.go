// SPDX-License-Identifier: Apache-2.0

package decoder_test

import (
	"net/netip"
	"testing"

	. "waymark/decoder"
)

func TestRoutingLookup(t *testing.T) {
	iif := lookup(4, 50, 10, func(r *Rule) { r.IIF = "nsm-1" })
	invert := lookup(4, 60, 11, func(r *Rule) { r.Src, r.Invert = netip.MustParsePrefix("10.0.0.0/8"), true })
	masked := lookup(4, 70, 12, func(r *Rule) { r.Mark, r.MarkMask = 0x4000, 0xf000 })
	to := lookup(4, 80, 13, func(r *Rule) { r.Dst = netip.MustParsePrefix("192.0.2.0/24") })
	prohibit := Rule{Family: 4, Priority: 90, Action: "prohibit", Src: netip.MustParsePrefix("10.9.9.9/32")}
	unknown := lookup(4, 95, 14, func(r *Rule) { r.Unknown = true })
	r := &Routing{
		Rules: standardRules(4, iif, invert, masked, to, prohibit, unknown),
		Routes: []Route{
			route(10, "203.0.113.0/24", "unicast", "", "a"),
			route(12, "0.0.0.0/0", "unicast", "10.1.1.1", "b"),
			route(12, "198.51.100.0/24", "throw", "", ""),
			route(13, "0.0.0.0/0", "unreachable", "", ""),
			route(255, "10.0.0.1/32", "local", "", "lo"),
			{Family: 4, Table: 254, Dst: netip.MustParsePrefix("10.20.0.0/16"), Type: "unicast", Metric: 100, Nexthops: []Nexthop{{Dev: "slow"}}},
			{Family: 4, Table: 254, Dst: netip.MustParsePrefix("10.20.0.0/16"), Type: "unicast", Metric: 10, Nexthops: []Nexthop{{Dev: "fast"}}},
			route(254, "10.20.30.0/24", "unicast", "", "longer"),
			route(254, "::/0", "unicast", "fe80::1", "six"),
		},
	}
	tests := []struct {
		name      string
		q         RouteQuery
		typ       string
		dev       string
		rule      int
		uncertain bool
	}{
		{"local first", RouteQuery{Src: addr("10.0.0.2"), Dst: addr("10.0.0.1")}, "local", "lo", 0, false},
		{"incoming device", RouteQuery{Src: addr("10.0.0.2"), Dst: addr("203.0.113.5"), IIF: "nsm-1"}, "unicast", "a", 50, false},
		{"other device", RouteQuery{Src: addr("10.0.0.2"), Dst: addr("203.0.113.5"), IIF: "x"}, "none", "", 0, true},
		{"mark under mask", RouteQuery{Src: addr("10.0.0.2"), Dst: addr("203.0.113.5"), Mark: 0x4123}, "unicast", "b", 70, false},
		{"throw goes on", RouteQuery{Src: addr("10.0.0.2"), Dst: addr("198.51.100.1"), Mark: 0x4123}, "none", "", 0, true},
		{"destination selector", RouteQuery{Src: addr("10.0.0.2"), Dst: addr("192.0.2.1")}, "unreachable", "", 80, false},
		{"rule's own action", RouteQuery{Src: addr("10.9.9.9"), Dst: addr("10.20.0.1")}, "prohibit", "", 90, false},
		{"metric", RouteQuery{Src: addr("10.0.0.2"), Dst: addr("10.20.0.1")}, "unicast", "fast", 32766, true},
		{"longest prefix", RouteQuery{Src: addr("10.0.0.2"), Dst: addr("10.20.30.1")}, "unicast", "longer", 32766, true},
		{"inverted, table empty", RouteQuery{Src: addr("11.0.0.2"), Dst: addr("10.20.0.1")}, "unicast", "fast", 32766, true},
		{"IPv6 without known rules", RouteQuery{Src: addr("2001:db8::1"), Dst: addr("2001:db8::2")}, "unicast", "six", 32766, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			res := r.Lookup(tt.q)
			dev := ""
			if len(res.Route.Nexthops) > 0 {
				dev = res.Route.Nexthops[0].Dev
			}
			if res.Type != tt.typ || dev != tt.dev || res.Rule.Priority != tt.rule || res.Uncertain != tt.uncertain {
				t.Errorf("%s via %q by rule %d, uncertain %v; want %s via %q by rule %d, %v", res.Type, dev, res.Rule.Priority, res.Uncertain, tt.typ, tt.dev, tt.rule, tt.uncertain)
			}
		})
	}
}

// TestECMP: of several next hops the one taken is known from the device, or
// from the frame's destination address.
func TestECMP(t *testing.T) {
	w := newTrench()
	w.routing[nsPX].Routes[0].Nexthops = []Nexthop{
		{Via: addr("172.16.1.22"), Dev: "bridge0"},
		{Via: addr("172.16.1.2"), Dev: "bridge0"},
	}
	s := newStream(t, w)
	s.tcp(1, 0, vip4, 5000, client4, 40000, synAck).reply()
	for _, h := range s.run(Options{})[0].Hops {
		if d, ok := h.Detail.(*RouteDetail); ok && h.Netns == "wm-meridio-px" {
			if d.Nexthop != addr("172.16.1.2") {
				t.Errorf("next hop %v of %v, want 172.16.1.2, whose MAC the frame has", d.Nexthop, d.Nexthops)
			}
			return
		}
	}
	t.Error("no route hop in the proxy")
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }
