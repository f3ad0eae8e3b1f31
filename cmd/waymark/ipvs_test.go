// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"waymark/scenarios"
)

// TestTraceTellsWhatIPVSDecides: for each forwarding method, of all connections
// at a time the destination that waymark names is the realserver that answered,
// the SYN's connection is new and what follows is not.
func TestTraceTellsWhatIPVSDecides(t *testing.T) {
	connections := 1000
	if testing.Short() {
		connections = 20
	}
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
			sum, err := w.Send(ctxBackground, scenarios.Traffic{To: tt.to, Connections: connections, Concurrency: connections, Timeout: time.Minute}, func(x scenarios.Exchange) {
				answered = append(answered, x.Local.String()+" "+x.Reply.Target[max(len(x.Reply.Target)-1, 0):])
			})
			if err != nil || sum.Answered != connections {
				t.Fatalf("%+v: %v", sum, err)
			}
			awaitClosed(t, w)
			all := parseJourneys(t, tr.stop(t))
			var named []string
			known, begun, torn, unexplained := 0, 0, 0, 0
			k, routes := askKernel(t), 0
			for _, j := range all {
				routes += k.check(&j)
				if !j.Complete {
					torn++
					if len(j.Notes) == 0 {
						unexplained++
					}
				}
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
					switch isNew := h.Detail["new"] == true; {
					case j.Packet.Flags == "S" && !isNew: // sent again: its answer was late
						continue
					case j.Packet.Flags != "S" && isNew:
						t.Errorf("%s %s: its connection is called new", j.ID, j.Packet.Flags)
					case !isNew:
						known++
						continue
					}
					host, _, _ := strings.Cut(h.Detail["destination"].(string), ":")
					named = append(named, h.Detail["client"].(string)+" "+realserver[host])
				}
			}
			t.Logf("%d of %d connections named, %d packets of known ones; %d routes; %d journeys, %d torn", len(named), connections, known, routes, len(all), torn)
			if tt.method != "tunnel" && routes < 2*connections { // of the SYN and its answer
				t.Errorf("%d routes were named", routes)
			}
			if !slices.Equal(slices.Sorted(slices.Values(named)), slices.Sorted(slices.Values(answered))) {
				t.Errorf("waymark names %v, these answered: %v", named, answered)
			}
			if tt.method == "masq" && begun < connections {
				t.Errorf("%d of %d answers were followed from their beginning", begun, connections)
			}
			if known < connections*2 { // an ACK, data, and the end of each connection
				t.Errorf("%d packets of known connections", known)
			}
			if torn*1000 > len(all) && testing.Short() || torn*100 > len(all) || unexplained > 0 {
				t.Errorf("%d of %d journeys are torn, %d do not say why", torn, len(all), unexplained)
			}
		})
	}
	t.Run(takenUpElsewhere, func(t *testing.T) { traceTakenUp(t, w) })
}

const takenUpElsewhere = "taken-up-elsewhere"

// traceTakenUp: a director takes up connections in the middle, and chooses a
// realserver that has not got them.
func traceTakenUp(t *testing.T, w *scenarios.World) {
	lab := slices.IndexFunc(scenarios.List(), func(l scenarios.Lab) bool { return l.Name == w.Name() })
	faults := scenarios.List()[lab].Faults
	fault := slices.IndexFunc(faults, func(f scenarios.Fault) bool { return f.Name == takenUpElsewhere })
	port := uint16(20000)
	cases := faultCases(t, faults[fault], &port)
	if err := w.Fault(ctxBackground, takenUpElsewhere); err != nil {
		t.Fatal(err)
	}
	tr := start(t, append(append([]string{"trace", "-o", "json"}, netnsFlags(w)...), "tcp", "portrange", "20000-20100")...)
	sendFor(t, w, cases)
	all := parseJourneys(t, tr.stop(t))
	if err := w.Clear(ctxBackground, takenUpElsewhere); err != nil {
		t.Fatal(err)
	}
	mended(t, w, cases)
	for _, c := range cases {
		lost := map[uint16]bool{}
		told := map[string]bool{}
		for _, j := range all {
			d := j.Drop
			if d == nil || !c.ours(j.Packet.SPort) || d.Netns != c.fault.Expect.Netns {
				continue
			}
			if j.Outcome != c.fault.Expect.Outcome || d.Dev != c.fault.Expect.Dev || !c.site.Is(d.Reason, functionOf(d.At)) {
				t.Errorf("%s at %s/%s by %s: %s", j.Outcome, d.Netns, d.Dev, d.At, d.Reason)
			}
			// What follows before the reset is there is of a connection that the
			// director knows by then.
			if c.explains(d.Question, d.Because, d.Advice) {
				lost[j.Packet.SPort] = true
			}
			told[d.Question+" "+d.Because] = true
		}
		if c.failed == 0 || len(lost) != c.failed {
			t.Errorf("IPv%d: %d connections failed, and of %d it is told why; drops are explained as %v", c.ip, c.failed, len(lost), told)
		}
	}
}
