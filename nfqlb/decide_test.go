// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// stateOf compiles flows whose target is always a table with mark 1+flow's
// place in the list at each index.
func stateOf(t testing.TB, c Config, specs ...FlowSpec) *State {
	t.Helper()
	targets := make(map[string]*Target)
	for i := range specs {
		specs[i].Target = specs[i].Name
		tab, err := NewTable(7, 1, []int{i + 1})
		if err != nil {
			t.Fatal(err)
		}
		targets[specs[i].Name] = NewTarget(specs[i].Name, tab)
	}
	s, err := NewState(c, specs, targets)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestFlowMatching(t *testing.T) {
	client := netip.MustParseAddr("200.100.0.1")
	tcp := func(sport, dport uint16) []byte {
		return ipv4(client, vip4, protoTCP, 1, 0, ports(sport, dport), make([]byte, 8))
	}
	ping := ipv4(client, vip4, protoICMP, 1, 0, echo(8, 7))
	udpTo := func(dport uint16) []byte { return ipv4(client, vip4, protoUDP, 1, 0, ports(40000, dport)) }
	sctpInUDP := ipv4(client, vip4, protoUDP, 1, 0, join(ports(40000, 9899)[:8], ports(5000, 6000)))
	vip := []string{"10.0.0.1/32"}
	web := FlowSpec{Name: "web", Protocols: []string{"tcp"}, Dests: vip, DPorts: []string{"80", "5000-5003"}}
	promiscuous := Config{PromiscuousPing: true}

	for _, c := range []struct {
		name   string
		config Config
		flows  []FlowSpec
		packet []byte
		want   string // the flow, or ! and why none
	}{
		{"all fields match", Config{}, []FlowSpec{web}, tcp(1, 5003), "web"},
		{"port outside the range", Config{}, []FlowSpec{web}, tcp(1, 5004), "!no flow matches"},
		{"other protocol", Config{}, []FlowSpec{web}, udpTo(80), "!no flow matches"},
		{"other destination", Config{}, []FlowSpec{web}, ipv4(client, client, protoTCP, 1, 0, ports(1, 80)), "!address is not a VIP"},
		{"no flows", Config{}, nil, tcp(1, 80), "!address is not a VIP"},
		{"a flow of nothing takes all", Config{}, []FlowSpec{{Name: "any"}}, ping, "any"},
		{"higher priority first", Config{}, []FlowSpec{{Name: "low", Priority: 1}, {Name: "high", Priority: 2}}, tcp(1, 1), "high"},
		{"of equals the first set", Config{}, []FlowSpec{{Name: "a"}, {Name: "b"}}, tcp(1, 1), "a"},
		{"source prefix", Config{}, []FlowSpec{{Name: "a", Srcs: []string{"200.100.0.0/16"}}}, tcp(1, 1), "a"},
		{"source prefix of others", Config{}, []FlowSpec{{Name: "a", Srcs: []string{"200.101.0.0/16"}}}, tcp(1, 1), "!no flow matches"},
		{"source port", Config{}, []FlowSpec{{Name: "a", SPorts: []string{"1000-2000"}}}, tcp(1500, 1), "a"},
		{"v4 is not in a v6 prefix", Config{}, []FlowSpec{{Name: "a", Dests: []string{"2000::/3"}}}, tcp(1, 1), "!address is not a VIP"},
		{"::/0 has all", Config{}, []FlowSpec{{Name: "a", Dests: []string{"::/0"}}}, ipv6(src6, dst6, 6, ports(1, 2)), "a"},
		{"0.0.0.0/0 has all v4", Config{}, []FlowSpec{{Name: "a", Dests: []string{"0.0.0.0/0"}}}, tcp(1, 1), "a"},
		{"ping is no TCP", Config{}, []FlowSpec{web}, ping, "!no flow matches"},
		{"promiscuous ping", promiscuous, []FlowSpec{web}, ping, "web"},
		{"promiscuous ping to another address", promiscuous, []FlowSpec{web}, ipv4(vip4, client, protoICMP, 1, 0, echo(8, 7)), "!address is not a VIP"},
		{"byte match", Config{}, []FlowSpec{{Name: "a", Match: []string{"tcp[2:2] = 5001"}}}, tcp(1, 5001), "a"},
		{"byte match fails", Config{}, []FlowSpec{{Name: "a", Match: []string{"tcp[2:2] = 5001"}}}, tcp(1, 5002), "!no flow matches"},
		{"byte match with mask", Config{}, []FlowSpec{{Name: "a", Match: []string{"tcp[0:4] & 0x0000ffff = 5001"}}}, tcp(9, 5001), "a"},
		{"byte matches are all needed", Config{}, []FlowSpec{{Name: "a", Match: []string{"tcp[2:1]=0x13", " tcp[3:1]=0x89"}}}, tcp(9, 5000), "!no flow matches"},
		{"byte match of another protocol", Config{}, []FlowSpec{{Name: "a", Match: []string{"udp[0:1]=1"}}}, tcp(9, 5000), "a"},
		{"byte match in a cut header", Config{}, []FlowSpec{{Name: "a", Match: []string{"tcp[13:1]=2"}}}, tcp(9, 5000)[:30], "!no flow matches"},
		{"encapsulated SCTP", Config{}, []FlowSpec{{Name: "s", Protocols: []string{"sctp"}, DPorts: []string{"6000"}, UDPEncap: 9899}}, sctpInUDP, "s"},
		{"encapsulated SCTP to another port", Config{}, []FlowSpec{{Name: "s", Protocols: []string{"sctp"}, DPorts: []string{"6001"}, UDPEncap: 9899}}, sctpInUDP, "!no flow matches"},
		{"the encapsulation port is not asked for ping", promiscuous, []FlowSpec{{Name: "s", Protocols: []string{"sctp"}, UDPEncap: 9899}}, ping, "s"},
		{"later fragment", Config{}, []FlowSpec{{Name: "any"}}, ipv4(client, vip4, protoUDP, 1, 100, ports(1, 2)), "!" + LaterOfFirst.String()},
		{"unreadable", Config{}, []FlowSpec{{Name: "any"}}, []byte{0x45}, "!packet cannot be read"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var p Packet
			d := Decide(stateOf(t, c.config, c.flows...), c.packet, &p)
			got := d.Flow()
			if d.Why != Decided {
				got = "!" + d.Why.String()
			}
			if got != c.want {
				t.Fatalf("got %s, want %s", got, c.want)
			}
			i := slices.IndexFunc(c.flows, func(f FlowSpec) bool { return f.Name == got })
			if d.Accept != (i >= 0) || i >= 0 && d.Mark != i+1 {
				t.Fatalf("accept %v mark %d", d.Accept, d.Mark)
			}
		})
	}
}

func TestMarksForPacketsWithoutTarget(t *testing.T) {
	empty, err := NewTable(7, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	flows := []FlowSpec{{Name: "a", Target: "t", Dests: []string{"10.0.0.1/32"}}}
	targets := map[string]*Target{"t": NewTarget("t", empty)}
	for _, c := range []struct {
		config Config
		dst    netip.Addr
		mark   int
		why    Reason
	}{
		{Config{NoFlowMark: -1, NoTargetMark: -1}, vip4, -1, NoTarget},
		{Config{}, dst4.Next(), -1, NotVIP},
		{Config{NoTargetMark: 7}, vip4, 7, NoTarget},
		{Config{NoFlowMark: 8}, dst4.Next(), 8, NotVIP},
	} {
		s, err := NewState(c.config, flows, targets)
		if err != nil {
			t.Fatal(err)
		}
		var p Packet
		d := Decide(s, ipv4(src4, c.dst, protoTCP, 1, 0, ports(1, 2)), &p)
		if d.Mark != c.mark || d.Accept != (c.mark > 0) || d.Why != c.why {
			t.Errorf("%+v to %v: %+v", c.config, c.dst, d)
		}
	}
}

func TestFlowSpecsRefused(t *testing.T) {
	for _, c := range []struct {
		spec FlowSpec
		want string
	}{
		{FlowSpec{}, "no name"},
		{FlowSpec{Name: "#a"}, "letters"},
		{FlowSpec{Name: "a\"b"}, "letters"},
		{FlowSpec{Name: strings.Repeat("a", 1024)}, "longer"},
		{FlowSpec{Name: "a", Protocols: []string{"icmp"}}, "protocols"},
		{FlowSpec{Name: "a", Dests: []string{"10.0.0.1"}}, "prefix length"},
		{FlowSpec{Name: "a", Dests: []string{"10.0.0.1/33"}}, "0-32"},
		{FlowSpec{Name: "a", Srcs: []string{"fe80::1%eth0/64"}}, "srcs"},
		{FlowSpec{Name: "a", Srcs: make([]string, 33)}, "at most 32"},
		{FlowSpec{Name: "a", DPorts: []string{"0-5"}}, "1-65535"},
		{FlowSpec{Name: "a", DPorts: []string{"65536"}}, "1-65535"},
		{FlowSpec{Name: "a", SPorts: []string{"5-4"}}, "sports"},
		{FlowSpec{Name: "a", Match: []string{"icmp[0:1]=8"}}, "byte match"},
		{FlowSpec{Name: "a", Match: []string{"udp[6:4]=8"}}, "header of 8 bytes"},
		{FlowSpec{Name: "a", Match: []string{"tcp[0:3]=8"}}, "byte match"},
		{FlowSpec{Name: "a", Match: []string{"tcp[99999999999999999999:1]=8"}}, "offset"},
		{FlowSpec{Name: "a", UDPEncap: 9899}, "sctp alone"},
		{FlowSpec{Name: "a", UDPEncap: 9899, Protocols: []string{"sctp", "udp"}}, "sctp alone"},
		{FlowSpec{Name: "a", UDPEncap: 70000, Protocols: []string{"sctp"}}, "no port"},
	} {
		if _, err := compileFlow(c.spec); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: error %v, want one with %q", c.spec, err, c.want)
		}
	}
}

// What is listed can be set again and lists the same.
func TestFlowSpecNormalForm(t *testing.T) {
	spec := FlowSpec{
		Name: "a", Priority: -3, Protocols: []string{"UDP", "tcp", "udp"},
		Dests: []string{"10.0.0.7/24", "1000::1:a00:1/128", "::/0"}, Srcs: []string{"0.0.0.0/0"},
		DPorts: []string{"5003", "5000-5002", "80", "100-65535"}, Match: []string{"tcp[2:2] & 0xff00=010"},
	}
	want := FlowSpec{
		Name: "a", Priority: -3, Protocols: []string{"tcp", "udp"},
		Dests: []string{"::ffff:10.0.0.0/120", "1000::1:a00:1/128", "::/0"}, Srcs: []string{"::ffff:0.0.0.0/96"},
		DPorts: []string{"80", "100-65535"}, Match: []string{"tcp[2:2]&0xff00=0x8"},
	}
	for range 2 {
		f, err := compileFlow(spec)
		if err != nil {
			t.Fatal(err)
		}
		if got := f.spec; !sameSpec(got, want) {
			t.Fatalf("got %+v\nwant %+v", got, want)
		}
		spec = f.spec
	}
}

func sameSpec(a, b FlowSpec) bool {
	return a.Name == b.Name && a.Priority == b.Priority && a.UDPEncap == b.UDPEncap && a.Target == b.Target &&
		slices.Equal(a.Protocols, b.Protocols) && slices.Equal(a.Dests, b.Dests) && slices.Equal(a.Srcs, b.Srcs) &&
		slices.Equal(a.DPorts, b.DPorts) && slices.Equal(a.SPorts, b.SPorts) && slices.Equal(a.Match, b.Match)
}

// plainMatch is flow matching as nfqlb's documentation has it, field by field.
func plainMatch(flows []*flow, ping bool, l3 []byte, p *Packet) *flow {
	in := func(list []string, a netip.Addr) bool {
		for _, s := range list {
			a16 := netip.AddrFrom16(a.As16())
			if pre := netip.MustParsePrefix(s); pre.Contains(a) || pre.Contains(a16) || pre.Addr().Is4In6() && pre.Masked().Addr() == netip.PrefixFrom(a16, pre.Bits()).Masked().Addr() {
				return true
			}
		}
		return len(list) == 0
	}
	k := &p.Key
	for _, f := range flows {
		icmp := k.Proto() == protoICMP || k.Proto() == protoICMPv6
		if !in(f.spec.Dests, k.Dst()) || !in(f.spec.Srcs, k.Src()) {
			continue
		}
		if ping && icmp {
			return f
		}
		if len(f.spec.Protocols) > 0 && !slices.Contains(f.spec.Protocols, protoName(uint8(k.Proto()))) {
			continue
		}
		if f.dports != nil && !f.dports.contains(k.DstPort()) || f.sports != nil && !f.sports.contains(k.SrcPort()) {
			continue
		}
		if f.match != nil && !matchBytes(f.match, l3, p) {
			continue
		}
		return f
	}
	return nil
}

func TestRulesMatchAsFlowsRead(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	some := func(choices ...string) []string {
		var out []string
		for _, c := range choices {
			if r.IntN(3) == 0 {
				out = append(out, c)
			}
		}
		return out
	}
	for round := range 50 {
		var flows []*flow
		for i := range r.IntN(100) { // more than 64 lists of prefixes at times
			own := netip.AddrFrom4([4]byte{10, 0, 1, byte(i)}).String() + "/32"
			f, err := compileFlow(FlowSpec{
				Name: "f", Priority: r.IntN(3), Protocols: some("tcp", "udp", "sctp"), Match: some("tcp[3:1]&0x1=1", "udp[0:1]=4"),
				Dests: some("10.0.0.1/32", "1000::/16", own, own, "10.0.0.0/30"), Srcs: some("200.100.128.0/17", "200:100::/64"),
				DPorts: some("5000", "5002-5003", "7000-8000"), SPorts: some("1-30000"),
			})
			if err != nil {
				t.Fatal(err)
			}
			flows = append(flows, f)
		}
		s := newState(Config{PromiscuousPing: round%2 == 0}, flows)
		for _, raw := range traffic(r, 100) {
			var p Packet
			if err := Parse(raw, 0, &p); err != nil {
				t.Fatal(err)
			}
			want := plainMatch(s.flows, s.PromiscuousPing, raw, &p)
			if got, _ := s.index.match(s.PromiscuousPing, raw, &p); got != want {
				t.Fatalf("packet %x\n got %+v\nwant %+v", raw, got, want)
			}
		}
	}
}

func TestDecideAllocatesNothing(t *testing.T) {
	b := NewBalancer(Config{}, func(string) (*Table, error) { return NewTable(997, 2, []int{1, 2}) })
	err := b.SetFlow(FlowSpec{Name: "a", Target: "t", Protocols: []string{"tcp"}, Dests: []string{"10.0.0.1/32"}, DPorts: []string{"80"}, Match: []string{"tcp[13:1]&0x2=2"}})
	if err != nil {
		t.Fatal(err)
	}
	var p Packet
	for _, packet := range [][]byte{
		ipv4(src4, dst4, protoTCP, 1, 0, ports(1, 80), []byte{0x50, 2, 0, 0, 0, 0, 0, 0}),
		ipv4(src4, dst4, protoTCP, 1, 0, ports(1, 81)),
		ipv6(src6, dst6, 0, ext6(6, 0), ports(1, 2)),
		{1, 2, 3},
	} {
		if n := testing.AllocsPerRun(100, func() { b.Decide(packet, &p) }); n != 0 {
			t.Errorf("%v allocations for %x", n, packet)
		}
	}
}

func FuzzByteMatch(f *testing.F) {
	for _, s := range []string{"tcp[2:2]=5000", "udp[0:4] & 0xffff = 0x1", "sctp[8:4]=010", "tcp[19:1]=1"} {
		f.Add(s)
	}
	header := make([]byte, 20)
	f.Fuzz(func(t *testing.T, s string) {
		m, err := parseByteMatch(s)
		if err != nil {
			return
		}
		m.matches(header[:headerLen(m.proto)])
		if again, err := parseByteMatch(m.String()); err != nil || again != m {
			t.Fatalf("%q → %q → %+v, %v", s, m, again, err)
		}
	})
}

func BenchmarkDecide(b *testing.B) {
	client6 := netip.MustParseAddr("2001::7")
	for _, c := range []struct {
		name   string
		flows  int
		packet []byte
	}{
		{"v4", 1, ipv4(src4, dst4, protoTCP, 1, 0, ports(40000, 5000), make([]byte, 8))},
		{"v6", 1, ipv6(client6, dst6, protoTCP, ports(40000, 5000), make([]byte, 8))},
		{"v4-10-flows", 10, ipv4(src4, dst4, protoTCP, 1, 0, ports(40000, 5000), make([]byte, 8))},
		{"v4-100-flows", 100, ipv4(src4, dst4, protoTCP, 1, 0, ports(40000, 5000), make([]byte, 8))},
		{"v6-100-flows", 100, ipv6(client6, dst6, protoTCP, ports(40000, 5000), make([]byte, 8))},
	} {
		b.Run(c.name, func(b *testing.B) {
			var specs []FlowSpec
			for i := range c.flows {
				port := []string{"5000-5003"}
				if i < c.flows-1 {
					port = []string{"80"}
				}
				specs = append(specs, FlowSpec{
					Name: "f" + string(rune('a'+i%26)) + strings.Repeat("x", i/26), Target: "t", Protocols: []string{"tcp", "udp"},
					Dests: []string{"10.0.0.1/32", "1000::1:a00:1/128"}, DPorts: port,
				})
			}
			s, err := NewState(Config{PromiscuousPing: true}, specs, map[string]*Target{"t": NewTarget("t", table(b, 9973, 100, 1, 2, 3))})
			if err != nil {
				b.Fatal(err)
			}
			benchDecide(b, s, c.packet)
		})
	}
}

func benchDecide(b *testing.B, s *State, l3 []byte) {
	var p Packet
	b.ReportAllocs()
	for b.Loop() {
		if d := Decide(s, l3, &p); !d.Accept {
			b.Fatal(d.Why)
		}
	}
}
