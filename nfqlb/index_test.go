// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

// flowMaker makes flows and packets from few values, so that many flows accept
// parts of many packets.
type flowMaker struct{ intn func(n int) int }

func (g flowMaker) addr(v4 bool) netip.Addr {
	if v4 {
		return netip.AddrFrom4([4]byte{10, byte(g.intn(2)), byte(g.intn(3) * 127), byte(g.intn(4))})
	}
	var a [16]byte
	binary.BigEndian.PutUint64(a[:], 0x2001_0db8_0000_0000+uint64(g.intn(3)))
	a[14], a[15] = byte(g.intn(2)), byte(g.intn(4))
	return netip.AddrFrom16(a)
}

func (g flowMaker) prefixes() []string {
	var out []string
	for range []int{0, 1, 1, 2, 3, 0}[g.intn(6)] {
		a := g.addr(g.intn(2) == 0)
		length := a.BitLen() - []int{0, 0, 1, 2, 8, 9, 16, 23, 31, 32, 64, 127, 128}[g.intn(13)]
		out = append(out, fmt.Sprintf("%s/%d", a, max(length, 0)))
	}
	return out
}

func (g flowMaker) port() int { return []int{1, 80, 5000, 5001, 5003, 5255, 9899, 65535}[g.intn(8)] }

func (g flowMaker) ports() []string {
	var out []string
	for range []int{0, 0, 1, 2}[g.intn(4)] {
		a, b := g.port(), g.port()
		out = append(out, fmt.Sprintf("%d-%d", min(a, b), max(a, b)))
	}
	return out
}

func (g flowMaker) matches() []string {
	var out []string
	for range max(g.intn(5)-2, 0) {
		proto := []string{"tcp", "udp", "sctp"}[g.intn(3)]
		mask := []string{"", "&0x1", "&0xff", "&0x3"}[g.intn(4)]
		out = append(out, fmt.Sprintf("%s[%d:%d]%s=%d", proto, g.intn(4), 1<<g.intn(3), mask, g.intn(4)))
	}
	return out
}

func (g flowMaker) flow(i int) FlowSpec {
	s := FlowSpec{
		Name: fmt.Sprintf("f%d", i), Priority: g.intn(3),
		Dests: g.prefixes(), Srcs: g.prefixes(), DPorts: g.ports(), SPorts: g.ports(), Match: g.matches(),
	}
	switch g.intn(6) {
	case 0:
		s.Protocols = []string{"tcp"}
	case 1:
		s.Protocols = []string{"udp", "tcp"}
	case 2:
		s.Protocols = []string{"sctp"}
	case 3:
		s.Protocols, s.UDPEncap = []string{"sctp"}, g.port()
	}
	return s
}

// packet is of any kind, and now and then cut.
func (g flowMaker) packet() []byte {
	v4 := g.intn(2) == 0
	src, dst := g.addr(v4), g.addr(v4)
	l4 := ports(uint16(g.port()), uint16(g.port()))
	proto := []byte{protoTCP, protoTCP, protoUDP, protoUDP, protoSCTP, protoICMP, protoICMPv6, 47}[g.intn(8)]
	switch proto {
	case protoTCP:
		l4 = join(l4, make([]byte, 16))
	case protoUDP, protoSCTP:
		l4 = join(l4, ports(uint16(g.port()), uint16(g.port())), make([]byte, 8))
	case protoICMP, protoICMPv6:
		l4 = echo(byte([]int{8, 128, 0}[g.intn(3)]), 7)
		if g.intn(3) == 0 { // an error, if the version is the protocol's
			back := join(ports(uint16(g.port()), uint16(g.port())), make([]byte, 8))
			if v4 {
				l4 = join([]byte{3, 4, 0, 0, 0, 0, 0, 0}, ipv4(dst, src, protoTCP, 1, 0, back))
			} else {
				l4 = join([]byte{2, 0, 0, 0, 0, 0, 0, 0}, ipv6(dst, src, protoUDP, back))
			}
		}
	}
	if proto != protoICMP && proto != protoICMPv6 {
		l4[0], l4[1] = l4[0]&3, l4[1]|byte(g.intn(4)) // what byte matches look at
	}
	var p []byte
	if v4 {
		p = ipv4(src, dst, proto, 1, 0, l4)
	} else {
		p = ipv6(src, dst, proto, l4)
	}
	if g.intn(8) == 0 {
		p = p[:len(p)-g.intn(12)]
	}
	return p
}

// agree compares what the index and the linear scan say of a packet, also
// after it was taken as encapsulated SCTP. It tells whether a flow matched.
func agree(t *testing.T, x *index, linear *rules, ping bool, raw []byte) bool {
	t.Helper()
	var p Packet
	if Parse(raw, 0, &p) != nil || p.Kind&LaterFragment != 0 {
		return false
	}
	want, wantWhy := linear.match(ping, raw, &p)
	got, why := x.match(ping, raw, &p)
	if got == want && why == wantWhy && want != nil && want.encap != 0 && Parse(raw, want.encap, &p) == nil {
		want, wantWhy = linear.match(ping, raw, &p)
		got, why = x.match(ping, raw, &p)
	}
	if got != want || why != wantWhy {
		t.Fatalf("ping %v packet %x\n got %+v %v\nwant %+v %v", ping, raw, got, why, want, wantWhy)
	}
	return got != nil
}

func TestIndexAgreesWithLinearScan(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	g := flowMaker{r.IntN}
	pairs, matched, beyond := 0, 0, 0
	rounds := 1500
	if testing.Short() { // in a virtual machine without KVM; no kernel has part in this
		rounds = 300
	}
	for round := range rounds {
		n := r.IntN(20)
		switch round % 50 {
		case 0:
			n = 60 + r.IntN(10) // about a word
		case 1:
			n = 500 + r.IntN(500) // several blocks
		case 2:
			if round%500 == 2 {
				n = 4090 + r.IntN(200) // about a second word of sums
			}
		}
		var flows []*flow
		for i := range n {
			f, err := compileFlow(g.flow(i))
			if err != nil {
				t.Fatal(err)
			}
			if n > 100 && r.IntN(40) != 0 { // most accept little
				f.dsts = append(f.dsts, makeCIDR([16]byte{15: 1}, 128))
				f.sports = portSet{{7, 7}}
			}
			flows = append(flows, f)
		}
		s := newState(Config{}, flows)
		linear := makeRules(s.flows)
		for range 120 {
			pairs++
			raw := g.packet()
			if agree(t, s.index, &linear, r.IntN(2) == 0, raw) {
				matched++
				if n > 64 {
					beyond++
				}
			}
		}
	}
	t.Logf("%d pairs, %d matched, %d of these among more than 64 flows", pairs, matched, beyond)
	if matched < pairs/4 || matched > pairs*9/10 || beyond < 1000 {
		t.Error("the test asks too little")
	}
}

// Every length of prefix, each inside the one before.
func TestIndexOfNestedPrefixes(t *testing.T) {
	a := [16]byte{0x20, 1, 0xd, 0xb8, 4: 0xa5, 9: 0x5a, 15: 0xff}
	var flows []*flow
	for n := 128; n >= 0; n-- {
		f, err := compileFlow(FlowSpec{Name: fmt.Sprintf("l%d", n), Dests: []string{fmt.Sprintf("%s/%d", netip.AddrFrom16(a), n)}})
		if err != nil {
			t.Fatal(err)
		}
		flows = append(flows, f)
	}
	x := makeIndex(flows)
	for bit := range 128 {
		other := a
		other[bit/8] ^= 0x80 >> (bit % 8)
		var p Packet
		p.Key = MakeKey(src6, netip.AddrFrom16(other), protoTCP, 0, 1, 2)
		if f, _ := x.match(false, nil, &p); f.spec.Name != fmt.Sprintf("l%d", bit) {
			t.Fatalf("bit %d: flow %s", bit, f.spec.Name)
		}
	}
}

func FuzzIndex(f *testing.F) {
	f.Add([]byte("0"), uint8(3))
	f.Add([]byte("a flow list and its packets, drawn from these bytes"), uint8(20))
	f.Fuzz(func(t *testing.T, in []byte, n uint8) {
		g := flowMaker{func(n int) int {
			if len(in) == 0 {
				return 0
			}
			v := in[0]
			in = in[1:]
			return int(v) % n
		}}
		var flows []*flow
		for i := range int(n) {
			fl, err := compileFlow(g.flow(i))
			if err != nil {
				t.Fatal(err)
			}
			flows = append(flows, fl)
		}
		s := newState(Config{}, flows)
		linear := makeRules(s.flows)
		for i := range 8 {
			agree(t, s.index, &linear, i%2 == 0, g.packet())
		}
	})
}

// manyFlows are lists of n flows and a packet that flow i takes, and none in
// front of it.
var manyFlows = []struct {
	name   string
	flow   func(i, n int) FlowSpec
	packet func(i int, sport uint16) []byte
}{
	{
		"same-destination",
		func(i, _ int) FlowSpec {
			return FlowSpec{Protocols: []string{"tcp", "udp"}, Dests: []string{"10.0.0.1/32", "1000::1:a00:1/128"}, DPorts: []string{fmt.Sprint(1000 + 3*i)}}
		},
		func(i int, sport uint16) []byte { return tcpTo(dst4, sport, uint16(1000+3*i), 0) },
	},
	{
		"same-port",
		func(i, _ int) FlowSpec {
			return FlowSpec{Protocols: []string{"tcp", "udp"}, Dests: []string{number(10, i).String() + "/32", "1000::1:a00:1/128"}, DPorts: []string{"5000-5003"}}
		},
		func(i int, sport uint16) []byte { return tcpTo(number(10, i), sport, 5000, 0) },
	},
	{
		"nested-prefixes", // up to ten around one destination, longer ones first
		func(i, _ int) FlowSpec {
			a := number(10, i-i%10)
			return FlowSpec{Dests: []string{netip.PrefixFrom(a, 32-i%10).Masked().String()}, DPorts: []string{fmt.Sprint(5000 + i)}}
		},
		func(i int, sport uint16) []byte { return tcpTo(number(10, i-i%10), sport, uint16(5000+i), 0) },
	},
	{
		"sources",
		func(i, _ int) FlowSpec {
			return FlowSpec{Dests: []string{"10.0.0.1/32"}, Srcs: []string{number(20, i).String() + "/32"}, DPorts: []string{"5000"}}
		},
		func(i int, sport uint16) []byte {
			return ipv4(number(20, i), dst4, protoTCP, 1, 0, ports(sport, 5000), make([]byte, 12))
		},
	},
	{
		"byte-matches",
		func(i, _ int) FlowSpec {
			return FlowSpec{Dests: []string{"10.0.0.1/32"}, Match: []string{fmt.Sprintf("tcp[4:4]=%d", i)}}
		},
		func(i int, sport uint16) []byte { return tcpTo(dst4, sport, 5000, uint32(i)) },
	},
	{
		// Every 64 flows have some that accept each field, but only the last
		// one accepts all.
		"adversarial",
		func(i, n int) FlowSpec {
			s := FlowSpec{Dests: []string{"10.0.0.1/32"}, Protocols: []string{"tcp"}, DPorts: []string{"5000"}}
			switch {
			case i == n-1:
			case i%2 == 0:
				s.Dests[0] = "10.0.0.2/32"
			default:
				s.DPorts[0] = "80"
			}
			return s
		},
		func(_ int, sport uint16) []byte { return tcpTo(dst4, sport, 5000, 0) },
	},
}

func number(first byte, i int) netip.Addr {
	return netip.AddrFrom4([4]byte{first, byte(i >> 16), byte(i >> 8), byte(i)})
}

func tcpTo(dst netip.Addr, sport, dport uint16, seq uint32) []byte {
	return ipv4(src4, dst, protoTCP, 1, 0, ports(sport, dport)[:4], binary.BigEndian.AppendUint32(nil, seq), make([]byte, 12))
}

func manyFlowsOf(tb testing.TB, of func(i, n int) FlowSpec, n int) []*flow {
	tb.Helper()
	target := NewTarget("t", table(tb, 9973, 100, 1, 2, 3))
	var flows []*flow
	for i := range n {
		spec := of(i, n)
		spec.Name, spec.Target = fmt.Sprintf("f%d", i), "t"
		f, err := compileFlow(spec)
		if err != nil {
			tb.Fatal(err)
		}
		f.target = target
		flows = append(flows, f)
	}
	return flows
}

// Only gross errors show here, on any machine; the benchmarks have the numbers.
func TestIndexOfManyFlows(t *testing.T) {
	const n = 2000
	for _, c := range manyFlows {
		t.Run(c.name, func(t *testing.T) {
			flows := manyFlowsOf(t, c.flow, n)
			start := time.Now()
			s := newState(Config{}, flows)
			if d := time.Since(start); d > 500*time.Millisecond {
				t.Errorf("%d flows took %v to index", n, d)
			}
			r := s.index.rows
			t.Logf("%d kB of sets", len(r.blocks)*64/1024+len(r.ref)*4/1024+len(r.sum)*8/1024)
			var p Packet
			for i := range n {
				want := i
				if c.name == "adversarial" {
					want = n - 1
				}
				raw := c.packet(i, 40000)
				if d := Decide(s, raw, &p); d.flow != flows[want] {
					t.Fatalf("packet %d: flow %q, %v", i, d.Flow(), d.Why)
				}
				if i%500 != 0 {
					continue
				}
				if n := testing.AllocsPerRun(10, func() { Decide(s, raw, &p) }); n != 0 {
					t.Errorf("%v allocations", n)
				}
			}
		})
	}
}

// Each packet is for another flow, so that nothing but the index itself keeps
// the next decision's data near.
func BenchmarkManyFlows(b *testing.B) {
	for _, c := range manyFlows {
		for _, n := range []int{1, 10, 100, 2000, 20000} {
			b.Run(fmt.Sprintf("%s/%d", c.name, n), func(b *testing.B) {
				s := newState(Config{PromiscuousPing: true}, manyFlowsOf(b, c.flow, n))
				r := rand.New(rand.NewPCG(uint64(n), 0))
				packets := make([][]byte, 4096)
				for i := range packets {
					packets[i] = c.packet(r.IntN(n), uint16(r.IntN(1<<16)))
				}
				var p Packet
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					if d := Decide(s, packets[i%len(packets)], &p); !d.Accept {
						b.Fatal(d.Why)
					}
				}
			})
		}
	}
}

func BenchmarkMakeIndex(b *testing.B) {
	for _, c := range manyFlows {
		for _, n := range []int{1, 2000, 20000} {
			flows := manyFlowsOf(b, c.flow, n)
			b.Run(fmt.Sprintf("%s/%d", c.name, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					newState(Config{}, flows)
				}
			})
		}
	}
}
