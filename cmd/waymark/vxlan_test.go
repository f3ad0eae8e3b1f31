// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"fmt"
	"regexp"
	"testing"

	"waymark/scenarios"
)

// TestExternalSides: over a VLAN and in VXLAN a packet has one journey, with the
// devices below among its hops, and each in its namespace.
func TestExternalSides(t *testing.T) {
	for _, tt := range []struct {
		external, dev string
		around        string // what is put around a request, as in text
	}{
		{external: "vxlan", dev: "vxlan100", around: "100 192.168.100.150 192.168.100.2"},
		{external: "vlan", dev: "ext-vlan.100"},
	} {
		t.Run(tt.external, func(t *testing.T) {
			w := labUpWith(t, scenarios.Options{Lab: "meridio", External: tt.external})
			args := append([]string{"trace", "-o", "json", "--hooks", "device,drop,free"}, netnsFlags(w)...)
			tr := start(t, append(args, "tcp", "any", "10.0.0.1:5000")...)
			sum, err := w.Send(ctxBackground, scenarios.Traffic{Connections: 2}, nil)
			if err != nil || sum.Answered != 2 {
				t.Fatalf("%+v: %v", sum, err)
			}
			awaitClosed(t, w)
			all := parseJourneys(t, tr.stop(t))
			dev := regexp.QuoteMeta(tt.dev)
			request := regexp.MustCompile(`^gw/ext0 out, gw/eth1 out, lb/eth1 in, lb/` + dev + ` in, .*lb/load-balan-274a out, px/load-balan-b0ef in, px/proxy.load-000. out, t./nsc in, delivered$`)
			reply := regexp.MustCompile(`^t./nsc out, px/proxy.load-000. in, px/bridge0 in, .*lb/load-balan-274a in, .*lb/` + dev + ` out, lb/eth1 out, gw/eth1 in, gw/ext0 in, delivered$`)
			requests := 0
			for _, j := range all {
				way := request
				if j.Reply {
					way = reply
				} else {
					requests++
				}
				if j.refusedByTCP() {
					continue
				}
				if !way.MatchString(j.way()) || !j.Complete || j.Drop != nil {
					t.Errorf("%s %s: %s, complete %v %v, drop %v", j.ID, j.Packet.Flags, j.way(), j.Complete, j.Notes, j.Drop)
				}
				if around := j.around(); !j.Reply && around != tt.around {
					t.Errorf("%s goes in VXLAN %q, want %q", j.ID, around, tt.around)
				}
			}
			if requests < 2*4 || len(all)-requests < 2*3 { // SYN, ACK, data, FIN; SYN-ACK, data, FIN
				dump(t, all)
				t.Errorf("%d journeys, %d of them requests", len(all), requests)
			}
		})
	}
}

// around is what VXLAN puts around the packet where it first does.
func (j *journey) around() string {
	for _, h := range j.Hops {
		if p := h.Packet; p != nil && p.VXLAN != nil {
			return fmt.Sprintf("%d %s %s", *p.VXLAN, p.Src, p.Dst)
		}
	}
	return ""
}
