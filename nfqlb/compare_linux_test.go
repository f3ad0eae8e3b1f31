// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/florianl/go-nfqueue/v2"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// The engine against two others: a C loop as nfqlb's (testdata/compare/mnl.c)
// and go-nfqueue's own callback. All decide the same, for the same packets, and
// run one after the other in turns, so that what else the machine does meets
// all. What counts is the median of the rounds' ratios.

// contenderEnv makes a test binary a balancer.
const contenderEnv = "WAYMARK_COMPARE"

type contender struct {
	name string
	argv []string
	env  []string
	load load
}

// under is the contenders under a load.
func under(l load, all ...contender) []contender {
	for i := range all {
		all[i].load = l
	}
	return all
}

func contenders(t *testing.T, p *comparePath) (engine, c, stock contender) {
	t.Helper()
	mnl := filepath.Join(t.TempDir(), "mnl")
	if out, err := exec.Command("gcc", "-O2", "-o", mnl, "testdata/compare/mnl.c", "-lmnl").CombinedOutput(); err != nil {
		unavailable(t, "gcc and libmnl-dev are needed: %v\n%s", err, out)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	argv := []string{self, "-test.run", "^TestContender$"}
	env := func(which string) []string {
		return []string{contenderEnv + "=" + which, contenderEnv + "_DIR=" + p.dir}
	}
	return contender{name: "engine", argv: argv, env: env("engine")},
		contender{name: "C loop", argv: []string{mnl, "0", filepath.Join(p.dir, compareTable), "5000", "5003"}},
		contender{name: "go-nfqueue callback", argv: argv, env: env("stock")}
}

// TestContender is the balancer process of a comparison.
func TestContender(t *testing.T) {
	which := os.Getenv(contenderEnv)
	if which == "" {
		t.Skip("a part of TestCompare")
	}
	dir := os.Getenv(contenderEnv + "_DIR")
	b := NewBalancer(Config{}, func(name string) (*Table, error) { return LoadTable(dir, name) })
	for _, spec := range contenderFlows(t) {
		if err := b.SetFlow(spec); err != nil {
			t.Fatal(err)
		}
	}
	ready := func() { fmt.Println("ready") }
	if which == "stock" {
		serveStock(t, b, ready)
		return
	}
	if err := NewEngine(b, QueueConfig{}).Run(context.Background(), ready); err != nil {
		t.Fatal(err)
	}
}

// contenderFlows is one flow for all, or the list of manyFlows that the
// environment names and its length.
func contenderFlows(t *testing.T) (specs []FlowSpec) {
	list, length, many := strings.Cut(os.Getenv(contenderEnv+"_FLOWS"), ":")
	if !many {
		return []FlowSpec{{
			Name: "all", Target: compareTable, Protocols: []string{"tcp", "udp"},
			Dests: []string{"10.0.0.1/32", "1000::1:a00:1/128"}, DPorts: []string{"5000-5003"},
		}}
	}
	n, err := strconv.Atoi(length)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range manyFlows {
		for i := 0; m.name == list && i < n; i++ {
			spec := m.flow(i, n)
			spec.Name, spec.Target, spec.Priority = fmt.Sprint("f", i), compareTable, n-i
			specs = append(specs, spec)
		}
	}
	return specs
}

// serveStock serves queue 0 as go-nfqueue's documentation shows it.
func serveStock(t *testing.T, b *Balancer, ready func()) {
	nf, err := nfqueue.Open(&nfqueue.Config{
		NfQueue: 0, MaxPacketLen: 1500, MaxQueueLen: 1024, Copymode: nfqueue.NfQnlCopyPacket,
		Flags: nfqueue.NfQaCfgFlagGSO, AfFamily: unix.AF_INET,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer nf.Close()
	if err := nf.SetOption(netlink.NoENOBUFS, true); err != nil {
		t.Fatal(err)
	}
	var p Packet
	err = nf.RegisterWithErrorFunc(context.Background(), func(a nfqueue.Attribute) int {
		if d := b.Decide(*a.Payload, &p); d.Accept {
			nf.SetVerdictWithOption(*a.PacketID, nfqueue.NfAccept, nfqueue.WithMark(uint32(d.Mark)))
		} else {
			nf.SetVerdict(*a.PacketID, nfqueue.NfDrop)
		}
		return 0
	}, func(err error) int { return 0 })
	if err != nil {
		t.Fatal(err)
	}
	ready()
	select {}
}

// compareRounds is odd: there is a median.
const compareRounds = 11

// compare measures each contender under its load in every round, in turns.
func (p *comparePath) compare(all ...contender) [][]result {
	results := make([][]result, len(all))
	for round := range compareRounds {
		for k := range all {
			i := (k + round) % len(all)
			pid, stop := p.start(all[i].argv, all[i].env...)
			warm := all[i].load
			warm.time = 50 * time.Millisecond
			p.measure(warm, pid)
			results[i] = append(results[i], p.measure(all[i].load, pid))
			stop()
		}
	}
	return results
}

// ratio is the median of what the rounds of a come to, compared with those of b.
func ratio(a, b []result, of func(result) float64) float64 {
	ratios := make([]float64, len(a))
	for i := range a {
		ratios[i] = of(a[i]) / of(b[i])
	}
	return medianOf(ratios)
}

func median(all []result, of func(result) float64) float64 {
	values := make([]float64, len(all))
	for i, r := range all {
		values[i] = of(r)
	}
	return medianOf(values)
}

func rateOf(r result) float64        { return r.rate }
func balancerCPUOf(r result) float64 { return r.balancerCPU }
func allCPUOf(r result) float64      { return r.allCPU }
func p50Of(r result) float64         { return r.p50 }
func p99Of(r result) float64         { return r.p99 }
func lostOf(r result) float64        { return r.lost }

// TestCompareSaturated: how many packets each can place.
func TestCompareSaturated(t *testing.T) {
	if os.Getenv("WAYMARK_BENCH") == "" {
		t.Skip("a measurement: make bench runs it")
	}
	p := newComparePath(t)
	engine, c, stock := contenders(t, p)
	for _, m := range []struct {
		frame             int
		least, leastStock float64
	}{{128, 1.25, 3.5}, {1400, 1.6, 0}} {
		all := under(load{frames: p.udpFrames(256, m.frame), batch: 32, time: 400 * time.Millisecond}, engine, c, stock)
		results := p.compare(all...)
		for i, r := range results {
			t.Logf("%4d bytes  %-20s %4.0f kpps  %5.0f ns of the balancer's CPU  engine: %.2f times the rate", m.frame, all[i].name,
				median(r, rateOf)/1e3, median(r, balancerCPUOf), ratio(results[0], r, rateOf))
		}
		if got := ratio(results[0], results[1], rateOf); got < m.least {
			t.Errorf("%d bytes: %.2f times the rate of the C loop, want %.2f", m.frame, got, m.least)
		}
		if got := ratio(results[0], results[2], rateOf); got < m.leastStock {
			t.Errorf("%d bytes: %.2f times the rate of go-nfqueue's callback, want %.2f", m.frame, got, m.leastStock)
		}
	}
}

// TestCompareLoaded: what a packet costs the machine, and how long it takes, at
// rates that all can place.
func TestCompareLoaded(t *testing.T) {
	if os.Getenv("WAYMARK_BENCH") == "" {
		t.Skip("a measurement: make bench runs it")
	}
	p := newComparePath(t)
	engine, c, _ := contenders(t, p)
	for _, l := range []load{{rate: 10e3, batch: 1}, {rate: 50e3, batch: 1}, {rate: 100e3, batch: 1}, {rate: 300e3, batch: 32}} {
		l.frames, l.time = p.udpFrames(256, 128), 500*time.Millisecond
		all := under(l, engine, c)
		results := p.compare(all...)
		for i, r := range results {
			t.Logf("%3.0f kpps  %-10s CPU %5.0f ns of the balancer's, %5.0f in all   latency p50 %5.1f p99 %5.1f µs   lost %.4f",
				l.rate/1e3, all[i].name, median(r, balancerCPUOf), median(r, allCPUOf), median(r, p50Of), median(r, p99Of), median(r, lostOf))
		}
		for _, m := range []struct {
			what string
			of   func(result) float64
		}{{"CPU of the whole machine", allCPUOf}, {"median latency", p50Of}, {"99th percentile of the latency", p99Of}} {
			got := ratio(results[0], results[1], m.of)
			t.Logf("%3.0f kpps  %s: %.2f of the C loop's", l.rate/1e3, m.what, got)
			if got > 1 {
				t.Errorf("%.0f kpps: %s is %.2f of the C loop's", l.rate/1e3, m.what, got)
			}
		}
	}
}

// TestCompareFlows: two thousand flows place as many packets as one.
func TestCompareFlows(t *testing.T) {
	if os.Getenv("WAYMARK_BENCH") == "" {
		t.Skip("a measurement: make bench runs it")
	}
	const many, least = 2000, 0.9
	p := newComparePath(t)
	engine, _, _ := contenders(t, p)
	for _, m := range manyFlows {
		with := func(n int) contender {
			c := engine
			c.env = append(c.env[:len(c.env):len(c.env)], fmt.Sprintf("%s_FLOWS=%s:%d", contenderEnv, m.name, n))
			c.load = load{batch: 32, time: 400 * time.Millisecond}
			for i := range 2048 { // each for another flow
				l3 := m.packet(i%n, uint16(i))
				c.load.frames = append(c.load.frames, p.frameOf(append(l3, make([]byte, 128-frameHeader-len(l3))...)))
			}
			return c
		}
		results := p.compare(with(many), with(1))
		got := ratio(results[0], results[1], rateOf)
		t.Logf("%-17s %4.0f kpps with %d flows, %4.0f with one: %.3f; %.3f of the balancer's CPU", m.name, median(results[0], rateOf)/1e3, many,
			median(results[1], rateOf)/1e3, got, ratio(results[0], results[1], balancerCPUOf))
		if got < least {
			t.Errorf("%s: %.3f of the rate, want %.2f", m.name, got, least)
		}
	}
}
