// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"waymark/scenarios"
)

// TestFaultsDropWhereTheTableSays sets every fault of a lab, sends what its row
// says shows it, and looks in `waymark drops` for each connection that failed.
// (TestFaultsAreFound does more, for the lab whose faults waymark can explain.)
func TestFaultsDropWhereTheTableSays(t *testing.T) {
	cbr0 := map[int]string{4: "10.4.0.11", 6: "fd00:10:4::11"} // p1
	for name, c := range map[string]struct {
		options scenarios.Options
		clients map[int]string // who sends the traffic, by IP version
		without []string       // faults that are none with these options
	}{
		"cbr0, br_netfilter on":  {scenarios.Options{Lab: "cbr0"}, cbr0, nil},
		"cbr0, br_netfilter off": {scenarios.Options{Lab: "cbr0", NoBridgeNetfilter: true}, cbr0, []string{"hairpin-off", "no-bridge-nf"}},
		"ipvs":                   {scenarios.Options{Lab: "ipvs"}, map[int]string{4: "198.51.100.2", 6: "2001:db8:51::2"}, nil},
	} {
		t.Run(name, func(t *testing.T) { checkFaults(t, labUpWith(t, c.options), c.clients, c.without) })
	}
}

// faultCase is a fault, an IP version, and the connections that showed it.
type faultCase struct {
	fault  scenarios.Fault
	ip     int
	site   scenarios.Site
	first  uint16 // source port of the first connection; the others count up
	failed int
	// dropped journeys of its connections' openings, as trace shows them
	dropped int
}

func checkFaults(t *testing.T, w *scenarios.World, clients map[int]string, without []string) {
	// One for all faults: the connections of each have ports of their own.
	drops := start(t, append([]string{"drops", "-o", "json"}, netnsFlags(w)...)...)
	i := slices.IndexFunc(scenarios.List(), func(l scenarios.Lab) bool { return l.Name == w.Name() })
	var cases []faultCase
	port := uint16(20000)
	for _, f := range scenarios.List()[i].Faults {
		if slices.Contains(without, f.Name) {
			continue
		}
		shown := faultCases(t, f, &port)
		showFault(t, w, f, clients, shown)
		cases = append(cases, shown...)
	}
	lines := parseDrops(t, drops.stop(t))
	for _, c := range cases {
		t.Run(fmt.Sprintf("%s/IPv%d", c.fault.Name, c.ip), func(t *testing.T) { c.check(t, lines) })
	}
}

// showFault sets a fault, sends its traffic for all cases at once, notes how
// many connections of each failed, and clears the fault.
func showFault(t *testing.T, w *scenarios.World, f scenarios.Fault, clients map[int]string, cases []faultCase) {
	t.Helper()
	if err := w.Fault(ctxBackground, f.Name); err != nil {
		t.Fatal(err)
	}
	traffic := make([]*exec.Cmd, len(cases))
	out := make([]bytes.Buffer, len(cases))
	for i, c := range cases {
		src := netip.AddrPortFrom(netip.MustParseAddr(clients[c.ip]), c.first)
		args := append([]string{"lab", "traffic", w.Name(), "-o", "json", "--timeout", "2s", "--src", src.String()}, f.Traffic...)
		if c.ip == 6 {
			args = append(args, "-6")
		}
		traffic[i] = exec.Command(waymarkBin, args...)
		traffic[i].Stdout = &out[i]
		if err := traffic[i].Start(); err != nil {
			t.Fatal(err)
		}
	}
	for _, cmd := range traffic {
		_ = cmd.Wait() // it exits 1, because connections fail
	}
	if err := w.Clear(ctxBackground, f.Name); err != nil {
		t.Fatal(err)
	}
	for i := range cases {
		var sum scenarios.Summary
		if err := json.Unmarshal(out[i].Bytes(), &sum); err != nil {
			t.Fatalf("%v: %v: %s", traffic[i].Args, err, out[i].Bytes())
		}
		cases[i].failed = sum.Failed
	}
}

// functionOf is the function's name of a drop's place, without what the
// compiler added to it.
func functionOf(at string) string {
	at, _, _ = strings.Cut(at, "+")
	at, _, _ = strings.Cut(at, ".")
	return at
}

// ours tells whether a source port is of the case's connections.
func (c faultCase) ours(port uint16) bool { return port >= c.first && port < c.first+100 }

// here tells whether d is where the case's table says.
func (c faultCase) here(d dropLine) bool {
	return d.Netns == c.fault.Expect.Netns && d.Dev == c.fault.Expect.Dev && c.site.Is(d.Reason, functionOf(d.At))
}

func (c faultCase) check(t *testing.T, lines []dropLine) {
	if c.failed == 0 {
		t.Fatal("the fault breaks no connection")
	}
	found := map[uint16]bool{}
	places, elsewhere := map[string]int{}, map[string]int{}
	for _, d := range lines {
		// By the port: a service's packet may have the client's address on both sides.
		port, way := d.Packet.SPort, "request"
		if !c.ours(port) {
			port, way = d.Packet.DPort, "reply"
		}
		if !c.ours(port) {
			continue
		}
		if c.here(d) && way == c.fault.Expect.Packet {
			found[port] = true
			places[functionOf(d.At)]++
		} else {
			elsewhere[fmt.Sprintf("%s %s/%s %s %s", way, d.Netns, d.Dev, d.Reason, functionOf(d.At))]++
		}
	}
	// The rest is the fault's aftermath: what is sent again when it is cleared, and
	// floods the bridge.
	t.Logf("%d of %d failed connections lost by %s/%s at %v: %s; elsewhere: %v", len(found), c.failed,
		c.fault.Expect.Netns, c.fault.Expect.Dev, places, c.site.Reason, elsewhere)
	if len(found) != c.failed {
		t.Errorf("%d connections were lost where the table says, want the %d that failed", len(found), c.failed)
	}
}
