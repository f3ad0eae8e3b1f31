// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"cmp"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"waymark/scenarios"
)

// TestFaultsOfNodesAndDirectors sets every fault of a lab, sends what its row says
// shows it, and looks in `waymark drops` for each connection that failed: where it
// was lost, why, and what mends it. When the fault is mended all are answered.
// (TestFaultsAreFound does the same for Meridio's, and traces them.)
func TestFaultsOfNodesAndDirectors(t *testing.T) {
	for name, c := range map[string]struct {
		options scenarios.Options
		without []string // faults that are none with these options, or that drops cannot explain
	}{
		"cbr0, br_netfilter on": {scenarios.Options{Lab: "cbr0"}, nil},
		// Only those that the bridge has part in.
		"cbr0, br_netfilter off": {scenarios.Options{Lab: "cbr0", NoBridgeNetfilter: true}, []string{
			"hairpin-off", "no-bridge-nf", "pod-not-listening", "pod-gone", "icmp-filtered", "agent-filtered",
			"endpoint-icmp-filtered", "endpoint-filtered", "conntrack-full", "routing-loop", "ptb-filtered",
		}},
		// TestNoPortLeft has the one, TestTraceTellsWhatIPVSDecides the other.
		"ipvs": {scenarios.Options{Lab: "ipvs"}, []string{"no-port-left", takenUpElsewhere}},
	} {
		t.Run(name, func(t *testing.T) {
			w := labUpWith(t, c.options)
			checkFaults(t, w, c.without)
			if c.options.Lab == "cbr0" && c.without == nil {
				t.Run("ICMP alone", func(t *testing.T) { checkICMPFiltered(t, w) })
			}
		})
	}
}

// checkICMPFiltered wants it told that a host which drops echo requests takes TCP,
// if that was seen.
func checkICMPFiltered(t *testing.T, w *scenarios.World) {
	if err := w.Fault(ctxBackground, "icmp-filtered"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := w.Clear(ctxBackground, "icmp-filtered"); err != nil {
			t.Error(err)
		}
	}()
	file := filepath.Join(t.TempDir(), "icmp.pcapng")
	tr := start(t, append(append([]string{"trace", "-o", "json", "-w", file}, netnsFlags(w)...), "icmp or icmp6 or tcp port 4240")...)
	for _, v6 := range []bool{false, true} {
		sum, err := w.Send(ctxBackground, scenarios.Traffic{To: "agent", IPv6: v6, Timeout: 10 * time.Second}, nil)
		if err != nil || sum.Failed > 0 {
			t.Errorf("TCP to the agent: %+v, %v", sum, err)
		}
		sum, err = w.Send(ctxBackground, scenarios.Traffic{To: "agent", IPv6: v6, Ping: true, Timeout: 200 * time.Millisecond}, nil)
		if err != nil || sum.Answered > 0 {
			t.Errorf("echo requests to the agent: %+v, %v", sum, err)
		}
	}
	live := tr.stop(t)
	lost := 0
	for _, j := range parseJourneys(t, live) {
		if j.Drop == nil || j.Packet.Proto == "tcp" {
			continue
		}
		lost++
		if j.Drop.Question != "C6" || !strings.Contains(j.Drop.Because, "TCP to the same address passes") {
			t.Errorf("explained as %s: %q", j.Drop.Question, j.Drop.Because)
		}
	}
	if lost != 2 {
		t.Errorf("%d echo requests are lost, want 2:\n%s", lost, live)
	}
	if replayed, stderr, code := run0(t, "replay", "-o", "json", file); code != 0 || replayed != string(live) {
		t.Errorf("replay (exit %d, %s) prints\n%s\nlive printed\n%s", code, stderr, replayed, live)
	}
}

// faultCase is a fault, an IP version, and the connections that showed it.
type faultCase struct {
	fault  scenarios.Fault
	ip     int
	site   scenarios.Site
	first  uint16 // source port, or identifier of echo requests, of the first connection; the others count up
	failed int
	errors map[string]int // of these, by text
	// patient: as long as a slow machine may take, and without the fault
	patient bool
	// dropped journeys of its connections' openings, as trace shows them
	dropped int
}

func checkFaults(t *testing.T, w *scenarios.World, without []string) {
	file := filepath.Join(t.TempDir(), "drops.pcapng")
	// One for all faults: the connections of each have ports of their own.
	drops := start(t, append([]string{"drops", "-o", "json", "--stack", "-w", file}, netnsFlags(w)...)...)
	i := slices.IndexFunc(scenarios.List(), func(l scenarios.Lab) bool { return l.Name == w.Name() })
	var cases []faultCase
	port := uint16(20000)
	for _, f := range scenarios.List()[i].Faults {
		if slices.Contains(without, f.Name) {
			continue
		}
		if len(cases) == 0 { // a machine that has done nothing yet is slow
			mended(t, w, faultCases(t, f, &port))
		}
		shown := faultCases(t, f, &port)
		if err := w.Fault(ctxBackground, f.Name); err != nil {
			t.Fatal(err)
		}
		showFault(t, w, drops, shown, &port)
		cases = append(cases, shown...)
		if err := w.Clear(ctxBackground, f.Name); err != nil {
			t.Fatal(err)
		}
		mended(t, w, shown)
	}
	live := drops.stop(t)
	lines := parseDrops(t, live)
	for _, c := range cases {
		t.Run(fmt.Sprintf("%s/IPv%d", c.fault.Name, c.ip), func(t *testing.T) { c.check(t, lines) })
	}
	if replayed, stderr, code := run0(t, "replay", "--drops", "-o", "json", file); code != 0 || replayed != string(live) {
		a, b := strings.Split(string(live), "\n"), strings.Split(replayed, "\n")
		i := 0
		for i < min(len(a), len(b)) && a[i] == b[i] {
			i++
		}
		t.Errorf("replay (exit %d, %s) prints\n%s\nlive printed\n%s", code, stderr, b[min(i, len(b)-1)], a[min(i, len(a)-1)])
	}
}

// showFault sends the traffic that shows a fault until waymark has told what was
// lost, and again, from other ports, as long as that is explained by what was
// before: it may have looked when the fault was just being set.
func showFault(t *testing.T, w *scenarios.World, drops *running, cases []faultCase, port *uint16) {
	t.Helper()
	for again := range 10 {
		for i := range cases {
			if again > 0 {
				cases[i].first, *port = *port, *port+casePorts
			}
		}
		before := len(drops.stdout.lines())
		sendFor(t, w, cases)
		if awaitDrops(t, drops, before, cases) {
			return
		}
	}
}

const (
	// casePorts are for a case, and showPorts of them for what shows the fault: no
	// fault needs more. The next as many are for when it is mended.
	casePorts = 2 * showPorts
	showPorts = 50
)

// awaitDrops waits until the drops of all cases are told, after the first bytes of
// the output, and says whether they are explained as wanted. What never is told, or elsewhere, is for check to say.
func awaitDrops(t *testing.T, drops *running, before int, cases []faultCase) (explained bool) {
	t.Helper()
	for range 500 {
		lines := parseDrops(t, drops.stdout.lines()[before:])
		told := true
		explained = true
		for _, c := range cases {
			lost, right := c.found(lines)
			told = told && len(lost) >= c.failed
			explained = explained && 2*right >= len(lost)
		}
		if told {
			return explained
		}
		tick(t)
	}
	return explained
}

// sendFor sends the traffic of all cases at once, all connections side by side,
// and notes how many of each failed.
func sendFor(t *testing.T, w *scenarios.World, cases []faultCase) {
	t.Helper()
	var wg sync.WaitGroup
	for i := range cases {
		c := &cases[i]
		traffic := c.traffic(t)
		if traffic.Amid != "" {
			wg.Wait() // it sets the fault itself, and is not to be disturbed at that
		}
		wg.Go(func() {
			sum, err := w.Send(ctxBackground, traffic, nil)
			if err != nil {
				t.Errorf("%s/IPv%d: %v", c.fault.Name, c.ip, err)
			}
			c.failed, c.errors = sum.Failed, sum.Errors
		})
	}
	wg.Wait()
}

// mended sends the traffic of faults that were cleared, or not set yet: all of it
// must be answered.
func mended(t *testing.T, w *scenarios.World, cases []faultCase) {
	t.Helper()
	again := slices.Clone(cases)
	for i := range again {
		again[i].first += showPorts
		again[i].patient = true
	}
	sendFor(t, w, again)
	for _, c := range again {
		if c.failed > 0 {
			t.Errorf("%s/IPv%d: %d connections fail, though the fault is not set: %v", c.fault.Name, c.ip, c.failed, c.errors)
		}
	}
}

// traffic is what the fault's row says, from the case's ports on.
func (c *faultCase) traffic(t *testing.T) scenarios.Traffic {
	t.Helper()
	var traffic scenarios.Traffic
	flags := pflag.NewFlagSet("traffic", pflag.ContinueOnError)
	trafficFlags(flags, &traffic)
	if err := flags.Parse(c.fault.Traffic); err != nil {
		t.Fatalf("%s: %v", c.fault.Name, err)
	}
	if !flags.Changed("timeout") && c.fault.Expect.Netns[:7] != "wm-ipvs" { // where some are to be answered
		// Time to send the first packet again: what it meets may have been changed
		// too short a time ago for waymark to know.
		traffic.Timeout = 1200 * time.Millisecond
	}
	if c.patient {
		traffic.Timeout, traffic.Amid = 10*time.Second, ""
	}
	traffic.IPv6, traffic.Concurrency = c.ip == 6, traffic.Connections
	traffic.Source = netip.AddrPortFrom(netip.Addr{}, c.first)
	return traffic
}

// functionOf is the function's name of a drop's place, without what the
// compiler added to it.
func functionOf(at string) string {
	at, _, _ = strings.Cut(at, "+")
	at, _, _ = strings.Cut(at, ".")
	return at
}

// ours tells whether a source port is of the case's connections.
func (c faultCase) ours(port uint16) bool { return port >= c.first && port < c.first+showPorts }

// here tells whether d, a packet that goes that way, is lost where the case's table
// says.
func (c faultCase) here(d dropLine, way string) bool {
	return way == c.fault.Expect.Packet && d.Netns == c.fault.Expect.Netns && d.Dev == cmp.Or(c.site.Dev, c.fault.Expect.Dev) && c.site.Is(d.Reason, functionOf(d.At))
}

func (c faultCase) check(t *testing.T, lines []dropLine) {
	if c.failed == 0 {
		t.Fatal("the fault breaks no connection")
	}
	found, explained := c.found(lines)
	elsewhere := map[string]int{}
	var other dropLine
	for _, d := range lines {
		way, ok := c.wayOf(d)
		switch {
		case !ok:
		case !c.here(d, way):
			elsewhere[fmt.Sprintf("%s %s/%s %s %s %s", way, d.Netns, d.Dev, d.Reason, functionOf(d.At), d.Because)]++
		case !c.explains(d.Question, d.Because, d.Advice):
			other = d
		}
		if ok && (len(d.Stack) == 0 || d.Stack[0] != d.At) {
			t.Errorf("the stack of a drop at %s is %v", d.At, d.Stack)
		}
	}
	// The rest is the fault's aftermath: what is sent again when it is cleared, and
	// floods the bridge.
	t.Logf("%d of %d failed connections lost by %s/%s at %v: %s; elsewhere: %v", len(found), c.failed,
		c.fault.Expect.Netns, c.fault.Expect.Dev, c.site.At, c.site.Reason, elsewhere)
	if len(found) != c.failed {
		t.Errorf("%d connections were lost where the table says, want the %d that failed", len(found), c.failed)
	}
	// On a slow machine the first may be told before what was changed.
	if 2*explained < len(found) {
		t.Errorf("%d of %d drops are explained as %s, with %q and %q; one as %s: %q, advice %q", explained, len(found),
			c.fault.Question, c.fault.Expect.Because, c.fault.Expect.Fix, other.Question, other.Because, other.Advice)
	}
}

// found are the ports of connections that were lost where the table says, and how
// many of their drops are explained as it says.
func (c faultCase) found(lines []dropLine) (ports map[uint16]bool, explained int) {
	ports = map[uint16]bool{}
	for _, d := range lines {
		way, ok := c.wayOf(d)
		if !ok || !c.here(d, way) {
			continue
		}
		ports[d.port(way)] = true
		if c.explains(d.Question, d.Because, d.Advice) {
			explained++
		}
	}
	return ports, explained
}

// explains tells whether that is the answer the fault's row wants.
func (c faultCase) explains(question, because, advice string) bool {
	return question == c.fault.Question && because != "" && advice != "" &&
		strings.Contains(because, c.fault.Expect.Because) && strings.Contains(advice, c.fault.Expect.Fix)
}

// wayOf tells which way the packet of a drop goes, by its port: a service's packet
// may have the client's address on both sides. ok: it is one of the case's.
func (c faultCase) wayOf(d dropLine) (way string, ok bool) {
	for _, way := range []string{"request", "reply"} {
		if c.ours(d.port(way)) {
			return way, true
		}
	}
	return "", false
}

// port is the client's, if the packet goes that way. Of an echo it is the
// identifier, which is never the server's.
func (d dropLine) port(way string) uint16 {
	switch {
	case d.Packet.ID != 0:
		return d.Packet.ID
	case way == "reply":
		return d.Packet.DPort
	}
	return d.Packet.SPort
}

// TestNoPortLeft: a connection that cannot begin has no packet. `drops` and `trace`
// tell of it all the same, where the kernel shows its functions.
func TestNoPortLeft(t *testing.T) {
	w := labUpWith(t, scenarios.Options{Lab: "ipvs"})
	l := slices.IndexFunc(scenarios.List(), func(l scenarios.Lab) bool { return l.Name == w.Name() })
	faults := scenarios.List()[l].Faults
	fault := faults[slices.IndexFunc(faults, func(f scenarios.Fault) bool { return f.KernelPorts })]
	send := func() scenarios.Summary {
		t.Helper()
		var sum scenarios.Summary
		for _, six := range []bool{false, true} {
			s, err := w.Send(ctxBackground, scenarios.Traffic{Connections: 2, IPv6: six}, nil)
			if err != nil {
				t.Fatal(err)
			}
			sum.Answered, sum.Failed = sum.Answered+s.Answered, sum.Failed+s.Failed
		}
		return sum
	}
	filter := append(netnsFlags(w), "tcp dst port 8012")
	drops := start(t, append([]string{"drops", "-o", "json"}, filter...)...)
	trace := start(t, append([]string{"trace", "--hooks", "connect,drop,device", "-o", "json"}, filter...)...)
	if err := w.Fault(ctxBackground, fault.Name); err != nil {
		t.Fatal(err)
	}
	if sum := send(); sum.Failed != 4 {
		t.Errorf("%+v: want every connection to fail", sum)
	}
	for range 500 { // before the ports are given back, that waymark can look
		if len(parseDrops(t, drops.stdout.lines())) >= 4 {
			break
		}
		tick(t)
	}
	if err := w.Clear(ctxBackground, fault.Name); err != nil {
		t.Fatal(err)
	}
	if sum := send(); sum.Answered != 4 {
		t.Errorf("%+v after the ports were given back", sum)
	}
	found := map[string]int{}
	for _, d := range parseDrops(t, drops.stop(t)) {
		found[functionOf(d.At)]++
		if d.Reason != "EADDRNOTAVAIL" || d.Netns != fault.Expect.Netns || d.Question != fault.Question ||
			!strings.Contains(d.Because, fault.Expect.Because) || !strings.Contains(d.Because, "30000-30003") || !strings.Contains(d.Advice, fault.Expect.Fix) {
			t.Errorf("%+v", d)
		}
	}
	// Go tries each more than once.
	if found["inet_hash_connect"] < 2 || found["inet6_hash_connect"] < 2 || len(found) != 2 {
		t.Errorf("drops tells of %v, want at least two of each", found)
	}
	unsent := 0
	for _, j := range parseJourneys(t, trace.stop(t)) {
		if j.Outcome == "dropped" && j.Packet.Flags == "S" && len(j.Hops) == 1 && j.Hops[0].Hook == "connect" {
			unsent++
		}
	}
	if want := found["inet_hash_connect"] + found["inet6_hash_connect"]; unsent != want {
		t.Errorf("trace shows %d SYNs that were not sent, want %d", unsent, want)
	}
}
