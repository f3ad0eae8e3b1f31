// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"testing"
)

// TestBenchLimits holds the benchmarks of the decision to what is promised of
// them. Each limit is for the median of some rounds.
func TestBenchLimits(t *testing.T) {
	if os.Getenv("WAYMARK_BENCH") == "" {
		t.Skip("a measurement: make bench runs it")
	}
	if err := flag.Set("test.benchtime", "50ms"); err != nil {
		t.Fatal(err)
	}
	tcp4 := ipv4(src4, dst4, protoTCP, 1, 0, ports(40000, 5000), make([]byte, 8))
	tcp6 := ipv6(netip.MustParseAddr("2001::7"), dst6, protoTCP, ports(40000, 5000), make([]byte, 8))
	for _, c := range []struct {
		name string
		most float64 // ns
		run  func(*testing.B)
	}{
		{"table of M=9973, N=100", 250e3, func(b *testing.B) { benchTable(b, 9973) }},
		{"IPv4 TCP, 100 flows", 40, func(b *testing.B) { benchDecide(b, hundredFlows(b), tcp4) }},
		{"IPv6 TCP, 100 flows", 40, func(b *testing.B) { benchDecide(b, hundredFlows(b), tcp6) }},
	} {
		var times []float64
		for range 9 {
			r := testing.Benchmark(c.run)
			times = append(times, float64(r.T.Nanoseconds())/float64(r.N))
		}
		got := medianOf(times)
		t.Logf("%-22s %9.1f ns, at best %.1f", c.name, got, times[0])
		if got > c.most {
			t.Errorf("%s takes %.1f ns, more than %.0f", c.name, got, c.most)
		}
	}
}

// hundredFlows have one destination for each family, and ports of their own;
// the packets are for the last one.
func hundredFlows(tb testing.TB) *State {
	var specs []FlowSpec
	for i := range 100 {
		specs = append(specs, FlowSpec{
			Name: fmt.Sprint("f", i), Target: "t", Protocols: []string{"tcp", "udp"},
			Dests: []string{"10.0.0.1/32", "1000::1:a00:1/128"}, DPorts: []string{fmt.Sprint(5099 - i)},
		})
	}
	s, err := NewState(Config{PromiscuousPing: true}, specs, map[string]*Target{"t": NewTarget("t", table(tb, 9973, 100, 1, 2, 3))})
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// medianOf sorts v.
func medianOf(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

// A packet allocates nothing, whichever way it is decided.
func TestPacketsAllocateNothing(t *testing.T) {
	s := hundredFlows(t)
	b := NewBalancer(s.Config, func(string) (*Table, error) { return s.flows[0].target.Table(), nil })
	for _, f := range s.flows {
		if err := b.SetFlow(f.spec); err != nil {
			t.Fatal(err)
		}
	}
	packets := append(traffic(rand.New(rand.NewPCG(5, 6)), 200), []byte{0x45},
		ipv4(src4, dst4, protoTCP, 1, 0, ports(40000, 4999)), ipv4(src4, dst4, protoTCP, 1, 3, make([]byte, 24)),
		ipv6(src6, dst6, 0, ext6(protoTCP, 0), ports(1, 5000)))
	var p Packet
	if n := testing.AllocsPerRun(20, func() {
		for _, l3 := range packets {
			b.Decide(l3, &p)
		}
	}); n != 0 {
		t.Errorf("%v allocations for %d packets", n, len(packets))
	}
	if len(b.Stats().Reasons) < 4 {
		t.Errorf("the packets show too little: %v", b.Stats().Reasons)
	}
}
