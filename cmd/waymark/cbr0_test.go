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

// cbr0Client is who sends the traffic that shows the lab's faults: p1.
var cbr0Client = map[int]string{4: "10.4.0.11", 6: "fd00:10:4::11"}

// TestCBR0FaultsDropWhereTheTableSays sets every fault of the lab, sends what its row
// says shows it, and looks in `waymark drops` for each connection that failed.
func TestCBR0FaultsDropWhereTheTableSays(t *testing.T) {
	for name, o := range map[string]scenarios.Options{
		"br_netfilter on":  {Lab: "cbr0"},
		"br_netfilter off": {Lab: "cbr0", NoBridgeNetfilter: true},
	} {
		t.Run(name, func(t *testing.T) { checkCBR0Faults(t, o) })
	}
}

// cbr0Case is a fault, an IP version, and the connections that showed it.
type cbr0Case struct {
	fault  scenarios.Fault
	ip     int
	site   scenarios.Site
	first  uint16 // source port of the first connection; the others count up
	failed int
}

func checkCBR0Faults(t *testing.T, o scenarios.Options) {
	w := labUpWith(t, o)
	// One for all faults: the connections of each have ports of their own.
	drops := start(t, append([]string{"drops", "-o", "json"}, netnsFlags(w)...)...)
	i := slices.IndexFunc(scenarios.List(), func(l scenarios.Lab) bool { return l.Name == w.Name() })
	var cases []cbr0Case
	port := uint16(20000)
	for _, f := range scenarios.List()[i].Faults {
		if o.NoBridgeNetfilter && slices.Contains([]string{"hairpin-off", "no-bridge-nf"}, f.Name) {
			continue // no faults without br_netfilter
		}
		var shown []cbr0Case
		for _, ip := range []int{4, 6} {
			site := siteFor(f, ip)
			if site == nil && !slices.ContainsFunc(f.Expect.Drops, func(s scenarios.Site) bool { return s.IP == ip }) {
				continue // the fault is of the other family alone
			}
			if site == nil {
				t.Errorf("%s: the table says nothing about IPv%d on kernel %s", f.Name, ip, kernelLine())
				continue
			}
			port += 100
			shown = append(shown, cbr0Case{f, ip, *site, port, 0})
		}
		showFault(t, w, f, shown)
		cases = append(cases, shown...)
	}
	var lines []cbr0Drop
	for dec := json.NewDecoder(bytes.NewReader(drops.stop(t))); dec.More(); {
		var d cbr0Drop
		if err := dec.Decode(&d); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, d)
	}
	for _, c := range cases {
		t.Run(fmt.Sprintf("%s/IPv%d", c.fault.Name, c.ip), func(t *testing.T) { c.check(t, lines) })
	}
}

// showFault sets a fault, sends its traffic from p1, for all cases at once, notes how
// many connections of each failed, and clears the fault.
func showFault(t *testing.T, w *scenarios.World, f scenarios.Fault, cases []cbr0Case) {
	t.Helper()
	if err := w.Fault(ctxBackground, f.Name); err != nil {
		t.Fatal(err)
	}
	traffic := make([]*exec.Cmd, len(cases))
	out := make([]bytes.Buffer, len(cases))
	for i, c := range cases {
		src := netip.AddrPortFrom(netip.MustParseAddr(cbr0Client[c.ip]), c.first)
		args := append([]string{"lab", "traffic", w.Name(), "-o", "json", "--timeout", "1s", "--src", src.String()}, f.Traffic...)
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

// cbr0Drop is what this test reads of a line of `waymark drops -o json`.
type cbr0Drop struct {
	dropLine
	Packet struct {
		SPort, DPort uint16
	}
}

func (c cbr0Case) check(t *testing.T, lines []cbr0Drop) {
	if c.failed == 0 {
		t.Fatal("the fault breaks no connection")
	}
	ours := func(port uint16) bool { return port >= c.first && port < c.first+100 }
	found := map[uint16]bool{}
	places, elsewhere := map[string]int{}, map[string]int{}
	for _, d := range lines {
		// By the port: a service's packet may have p1's address on both sides.
		port, way := d.Packet.SPort, "request"
		if !ours(port) {
			port, way = d.Packet.DPort, "reply"
		}
		if !ours(port) {
			continue
		}
		at, _, _ := strings.Cut(d.At, "+")
		at, _, _ = strings.Cut(at, ".")
		if d.Netns == c.fault.Expect.Netns && d.Dev == c.fault.Expect.Dev && d.Reason == c.site.Reason &&
			slices.Contains(c.site.At, at) && way == c.fault.Expect.Packet {
			found[port] = true
			places[at]++
		} else {
			elsewhere[fmt.Sprintf("%s %s/%s %s %s", way, d.Netns, d.Dev, d.Reason, at)]++
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
