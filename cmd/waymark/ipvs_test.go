// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"slices"
	"strings"
	"testing"

	"waymark/scenarios"
)

// TestTraceTellsWhatIPVSDecides: for each forwarding method, the destination
// that waymark names is the realserver that answered, the SYN's connection is
// new and what follows is not.
func TestTraceTellsWhatIPVSDecides(t *testing.T) {
	w := labUpWith(t, scenarios.Options{Lab: "ipvs"})
	realserver := map[string]string{"10.131.153.101": "1", "10.131.153.102": "2"}
	for _, tt := range []struct{ to, vip, method, port string }{
		{"direct", "10.54.213.148", "direct", "8012"},
		{"tunnel", "10.54.213.148", "tunnel", "8013"},
		{"masq", "10.54.213.149", "masq", "8014"},
	} {
		t.Run(tt.to, func(t *testing.T) {
			args := append([]string{"trace", "-o", "json"}, netnsFlags(w)...)
			tr := start(t, append(args, "tcp", "any", tt.vip+":"+tt.port)...)
			var answered []string
			if _, err := w.Send(ctxBackground, scenarios.Traffic{To: tt.to, Connections: 4}, func(x scenarios.Exchange) {
				answered = append(answered, x.Local.String()+" "+x.Reply.Target[len(x.Reply.Target)-1:])
			}); err != nil {
				t.Fatal(err)
			}
			all := parseJourneys(t, tr.stop(t))
			var named []string
			known, begun := 0, 0
			for _, j := range all {
				// A masqueraded answer has the realserver's address until the director changes it.
				if j.Packet.Flags == "S." && strings.HasPrefix(j.Hops[0].Netns, "wm-ipvs-rs") {
					begun++
				}
				for _, h := range j.Hops {
					if h.Group != "ipvs" || h.Hook != "forward" {
						continue
					}
					if h.Detail["method"] != tt.method || h.Detail["service"] != "tcp "+tt.vip+":"+tt.port {
						t.Errorf("%s is sent on as %v", j.ID, h.Detail)
					}
					if tt.method == "tunnel" && j.Outcome != "forwarded" {
						t.Errorf("%s goes into a tunnel and is told to be %s", j.ID, j.Outcome)
					}
					if isNew := h.Detail["new"] == true; isNew != (j.Packet.Flags == "S") {
						t.Errorf("%s %s: new is %v", j.ID, j.Packet.Flags, isNew)
					} else if !isNew {
						known++
						continue
					}
					host, _, _ := strings.Cut(h.Detail["destination"].(string), ":")
					named = append(named, h.Detail["client"].(string)+" "+realserver[host])
				}
			}
			if !slices.Equal(slices.Sorted(slices.Values(named)), slices.Sorted(slices.Values(answered))) || len(named) != 4 {
				t.Errorf("waymark names %v, these answered: %v", named, answered)
			}
			if tt.method == "masq" && begun != 4 {
				t.Errorf("%d of 4 answers were followed from their beginning", begun)
			}
			if known < 4*2 { // an ACK, data, and the end of each connection
				t.Errorf("%d packets of known connections", known)
			}
		})
	}
}
