// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"waymark/scenarios"
)

// TestTraceTellsWhereABridgeFloods: p1's question for p2's hardware address goes
// to all ports, which are in hairpin mode, and up.
func TestTraceTellsWhereABridgeFloods(t *testing.T) {
	needFunctions(t)
	w := labUpWith(t, scenarios.Options{Lab: "cbr0", NoBridgeNetfilter: true})
	tr := start(t, append(append([]string{"trace", "--hooks", "device,bridge,drop,free", "-o", "json"}, netnsFlags(w)...), "arp")...)
	if _, err := w.Send(ctxBackground, scenarios.Traffic{UDP: true}, nil); err != nil {
		t.Fatal(err)
	}
	all := parseJourneys(t, tr.stop(t))
	found := false
	for _, j := range all {
		for _, h := range j.Hops {
			if h.Group != "bridge" || h.Hook != "flood" || h.Dev != "veth0001" || j.Packet.Dst != "10.4.0.12" {
				continue
			}
			found = true
			var ports []string
			for _, p := range h.Detail["ports"].([]any) {
				ports = append(ports, p.(string))
			}
			slices.Sort(ports)
			if !slices.Equal(ports, []string{"veth0001", "veth0002", "veth0003"}) {
				t.Errorf("%s floods to %v", j.ID, ports)
			}
			if find([]journey{j}, func(j *journey) bool { return hasHop(j, "bridge", "up") }) == nil {
				t.Errorf("%s does not go up: %s", j.ID, j.nodeWay())
			}
		}
	}
	if !found {
		for _, j := range all {
			t.Logf("%s → %s: %s", j.Packet.Src, j.Packet.Dst, j.nodeWay())
		}
		t.Error("no question of p1 was flooded")
	}
}

func hasHop(j *journey, group, hook string) bool {
	for _, h := range j.Hops {
		if h.Group == group && h.Hook == hook {
			return true
		}
	}
	return false
}

// TestTraceTellsWhyABridgeDrops: for the faults of the lab whose packets a bridge
// refuses, the journey names the question that the fault stands for.
func TestTraceTellsWhyABridgeDrops(t *testing.T) {
	needFunctions(t)
	w := labUpWith(t, scenarios.Options{Lab: "cbr0"})
	for _, tt := range []struct {
		fault, question, filter, blocked string
		traffic                          scenarios.Traffic
	}{
		{
			"hairpin-off", "G6", "tcp any 10.8.0.11:80", "hairpin mode is off",
			scenarios.Traffic{To: "hairpin"},
		},
		{
			"small-mtu", "G7", "udp any 10.4.0.12:8080", "<nil>",
			scenarios.Traffic{UDP: true, Size: 1420},
		},
	} {
		t.Run(tt.fault, func(t *testing.T) {
			if err := w.Fault(ctxBackground, tt.fault); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := w.Clear(ctxBackground, tt.fault); err != nil {
					t.Error(err)
				}
			})
			tr := start(t, append(append([]string{"trace", "--hooks", "device,bridge,drop,free", "-o", "json"}, netnsFlags(w)...), strings.Fields(tt.filter)...)...)
			tt.traffic.Timeout = 300 * time.Millisecond
			if _, err := w.Send(ctxBackground, tt.traffic, nil); err != nil {
				t.Fatal(err)
			}
			all := parseJourneys(t, tr.stop(t))
			j := find(all, func(j *journey) bool { return j.Outcome == "dropped" })
			if j == nil {
				t.Fatalf("no dropped packet among %d", len(all))
			}
			if j.Drop.Question != tt.question {
				t.Errorf("dropped at %s, question %q, want %s: %s", j.Drop.At, j.Drop.Question, tt.question, j.Drop.Because)
			}
			for _, h := range j.Hops {
				if h.Group == "bridge" && fmt.Sprint(h.Detail["blocked"]) != tt.blocked {
					t.Errorf("the bridge's hop says %v, want blocked %s", h.Detail, tt.blocked)
				}
			}
		})
	}
}
