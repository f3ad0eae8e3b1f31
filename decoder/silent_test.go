// SPDX-License-Identifier: Apache-2.0

package decoder_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	. "waymark/decoder"
)

// broken is the first target's rules and routes without what row leaves out.
func broken(row string) *Routing {
	r := newTrench().routing[nsT1]
	switch row {
	case "rules":
		r.Rules = append(standardRules(4), standardRules(6)...)
	case "routes":
		r.Routes = r.Routes[2:]
	case "refused":
		r.Routes[0] = route(1, "0.0.0.0/0", "unreachable", "", "")
		r.Routes[1] = route(2, "::/0", "unreachable", "", "lo")
	}
	return r
}

// TestSilentLosses: what nothing came of is explained by the state of the place
// where it was last.
func TestSilentLosses(t *testing.T) {
	for _, tt := range []struct {
		name     string
		world    func(*trench)
		packets  func(*stream)
		question string
		because  string // in the first journey's
	}{
		{
			name: "no-source-rule", question: "M26", because: "no rule `from 10.0.0.1`",
			world:   func(w *trench) { w.routing[nsT1] = broken("rules") },
			packets: func(s *stream) { s.tcp(1, 0, client4, 40000, vip4, 5000, syn).request() },
		},
		{
			name: "no-source-rule-6", question: "M26", because: "no rule `from 1000::1:a00:1`",
			world:   func(w *trench) { w.routing[nsT1] = broken("rules") },
			packets: func(s *stream) { s.tcp(1, 0, client6, 40000, vip6, 5000, syn).request() },
		},
		{
			name: "no-target-route", question: "M27", because: "rule 32765 from 10.0.0.1 → table 1 has no route to 200.100.0.1",
			world:   func(w *trench) { w.routing[nsT1] = broken("routes") },
			packets: func(s *stream) { s.packet(1, 0, client4, vip4, 1).echo(8, 0x1234, 1).request() },
		},
		{
			name: "answer-refused", because: "refuses 200.100.0.1",
			world:   func(w *trench) { w.routing[nsT1] = broken("refused") },
			packets: func(s *stream) { s.tcp(1, 0, client4, 40000, vip4, 5000, syn).request() },
		},
		{
			name: "balancer-stuck", question: "M30", because: "the balancer's queue in wm-meridio-lb has given no verdict",
			world:   func(w *trench) { w.queues.Queues[2].Waiting = 1 },
			packets: func(s *stream) { s.tcp(1, 0, client4, 40000, vip4, 5000, syn).requestToLB() },
		},
		{
			// For its next hop, perhaps: no queue has packets.
			name:    "waits behind the queue",
			packets: func(s *stream) { s.tcp(1, 0, client4, 40000, vip4, 5000, syn).requestToLB() },
		},
		{
			// Reset, so it was answered, whatever the state says a moment later.
			name: "reset", packets: func(s *stream) {
				s.tcp(1, 0, client4, 40000, vip4, 5000, syn).request()
				s.tcp(2, 200_000, vip4, 5000, client4, 40000, 0x14).reply()
				s.contexts(&Context{Time: base + 300_000, Routing: broken("rules")})
			},
		},
		{
			name:  "datagram to no service",
			world: func(w *trench) { w.routing[nsT1], w.balancer = broken("rules"), nil },
			packets: func(s *stream) {
				s.packet(1, 0, client4, vip4, 17).request()
			},
		},
		{
			name:  "acknowledgement",
			world: func(w *trench) { w.routing[nsT1] = broken("rules") },
			packets: func(s *stream) {
				s.tcp(1, 0, client4, 40000, vip4, 5000, ack).request()
			},
		},
		{
			name:    "all is well",
			packets: func(s *stream) { s.tcp(1, 0, client4, 40000, vip4, 5000, syn).request() },
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newTrench()
			w.session.FollowReply = true
			if tt.world != nil {
				tt.world(w)
			}
			s := &stream{t: t}
			s.contexts(w.contexts()...)
			tt.packets(s)
			s.contexts(&Context{Time: base + 5e9, Clock: &Clock{}})
			js := s.run(Options{})
			j := js[0]
			if j.Question != tt.question || !strings.Contains(j.Because, tt.because) || (j.Because == "") != (tt.because == "") || (j.Advice == "") != (tt.because == "") || j.Drop != nil {
				t.Errorf("%s, question %q: because %q, advice %q, %+v", j.Outcome, j.Question, j.Because, j.Advice, j.Drop)
			}
			if tt.because != "" {
				golden(t, "silent-"+tt.name, js)
			}
			// Who asked for one direction cannot know.
			w.session.FollowReply = false
			for _, j := range s.run(Options{}) {
				if j.Because != "" {
					t.Errorf("without the replies: %q", j.Because)
				}
			}
		})
	}
}

// TestSilentLossesAreDated: from when to when, by the packets and by the state.
func TestSilentLossesAreDated(t *testing.T) {
	w := newTrench()
	w.session.FollowReply = true
	w.routing[nsT1] = newTrench().routing[nsT1]
	s := &stream{t: t}
	s.contexts(w.contexts()...)
	at := func(d time.Duration) uint64 { return base + uint64(d) }
	trail := uint64(0)
	connect := func(d time.Duration, port uint16, answered bool) {
		trail += 2
		s.tcp(trail, uint64(d), client4, port, vip4, 5000, syn).request()
		if answered {
			s.tcp(trail+1, uint64(d)+200_000, vip4, 5000, client4, port, synAck).reply()
		}
	}
	change := func(d time.Duration, r *Routing) { s.contexts(&Context{Time: at(d), Routing: r}) }

	connect(1*time.Second, 40001, true)
	change(2*time.Second, broken("routes")) // the rules go one after the other
	change(2100*time.Millisecond, broken("rules"))
	connect(3*time.Second, 40002, false)
	connect(4*time.Second, 40003, false)
	change(5*time.Second, newTrench().routing[nsT1])
	connect(6*time.Second, 40004, true)
	change(7*time.Second, broken("rules"))
	connect(8*time.Second, 40005, false)
	s.contexts(&Context{Time: at(10 * time.Second), Clock: &Clock{}})

	var dates Silences
	var text bytes.Buffer
	tw := NewTextWriter(&text, TextOptions{})
	wall := func(d time.Duration) WallTime { return WallTime(at(d) + 1795188131_000000000) }
	for _, j := range s.run(Options{}) {
		dates.Add(j)
		if j.Packet.SPort == 40003 && j.Since != wall(2*time.Second) {
			t.Errorf("since %s, want %s", j.Since, wall(2*time.Second))
		}
	}
	for _, u := range dates.All() {
		if err := tw.Unanswered(u); err != nil {
			t.Fatal(err)
		}
	}
	goldenBytes(t, "silent-dates.txt", text.Bytes())
	all := dates.All()
	if len(all) != 2 {
		t.Fatalf("%d times without an answer, want 2", len(all))
	}
	if u := all[0]; u.Count != 2 || u.Since != wall(3*time.Second) || u.Last != wall(4*time.Second) || u.Until != wall(6*time.Second) || u.Broken != wall(2*time.Second) {
		t.Errorf("the first: %+v", u)
	}
	if u := all[1]; u.Count != 1 || u.Since != wall(8*time.Second) || u.Until != 0 || u.Broken != wall(7*time.Second) {
		t.Errorf("the second: %+v", u)
	}
}
