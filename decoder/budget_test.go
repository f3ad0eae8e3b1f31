// SPDX-License-Identifier: Apache-2.0

package decoder_test

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"time"

	. "waymark/decoder"
)

// leftOut is what the tracer tells at a time after base.
func leftOut(at time.Duration, b Budget) *Context {
	b.At, b.Limit, b.Cost = base+uint64(at), 2, 5.25
	return &Context{Time: b.At, Budget: &b}
}

// TestBudget: a journey is complete only if no group of hooks was detached
// while it lasted, and if it did not begin just when more flows were followed.
// Groups that were never attached are nobody's loss.
func TestBudget(t *testing.T) {
	const (
		detached = "the queue hooks were detached meanwhile to keep to the budget: hops may be missing"
		both     = "the queue, free hooks were detached meanwhile to keep to the budget: hops may be missing"
		began    = "more flows began to be followed just before it: its first hops may be missing"
	)
	for name, tt := range map[string]struct {
		told []*Context
		want []string // note of the packets that begin 0, 2, 4, 6, 8 s after base
	}{
		"nothing left out": {nil, []string{"", "", "", "", ""}},
		"detached once": {
			[]*Context{leftOut(1500*time.Millisecond, Budget{Shed: []string{"queue"}}), leftOut(3*time.Second, Budget{})},
			[]string{"", detached, "", "", ""},
		},
		"to the end": {
			[]*Context{leftOut(1500*time.Millisecond, Budget{Shed: []string{"queue"}}), leftOut(3500*time.Millisecond, Budget{Shed: []string{"queue", "free"}})},
			[]string{"", detached, both, both, both},
		},
		"again": {
			[]*Context{
				leftOut(1500*time.Millisecond, Budget{Shed: []string{"queue"}}), leftOut(3*time.Second, Budget{}),
				leftOut(5*time.Second, Budget{Shed: []string{"queue"}}), leftOut(7*time.Second, Budget{}),
			},
			[]string{"", detached, "", detached, ""},
		},
		"while it lasted": { // its end is not seen, so it may have gone on
			[]*Context{leftOut(2*time.Second+time.Millisecond, Budget{Shed: []string{"queue"}}), leftOut(3*time.Second, Budget{})},
			[]string{"", detached, "", "", ""},
		},
		"fewer flows tear nothing, more do": {
			[]*Context{
				leftOut(1900*time.Millisecond, Budget{OneIn: 8}), leftOut(3900*time.Millisecond, Budget{OneIn: 4}),
				leftOut(6100*time.Millisecond, Budget{OneIn: 2}), leftOut(7900*time.Millisecond, Budget{}),
			},
			[]string{"", "", began, "", began},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStream(t, newTrench())
			told := tt.told
			for i := range uint64(5) {
				at := i * uint64(2*time.Second)
				for len(told) > 0 && told[0].Time < base+at {
					s.add(told[0])
					told = told[1:]
				}
				s.tcp(i+1, at, client4, 40000, vip4, 5000, syn).request()
			}
			s.contexts(told...)
			var got []string
			for _, j := range s.run(Options{}) {
				note := strings.Join(j.Notes, "; ")
				if j.Complete != (note == "") {
					t.Errorf("%s: complete %v, notes %v", j.ID, j.Complete, j.Notes)
				}
				got = append(got, note)
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got\n%q\nwant\n%q", got, tt.want)
			}
		})
	}
}

// TestBudgetStatus: every change is a line of output.
func TestBudgetStatus(t *testing.T) {
	s := newStream(t, newTrench())
	s.tcp(1, 0, client4, 40000, vip4, 5000, syn).request()
	s.add(leftOut(time.Second, Budget{Shed: []string{"free", "queue"}}), leftOut(2*time.Second, Budget{Shed: []string{"free", "queue"}, OneIn: 8}),
		leftOut(3*time.Second, Budget{SampledOut: 4711}))
	var b bytes.Buffer
	text, lines := NewTextWriter(&b, TextOptions{}), NewJSONWriter(&b)
	s.run(Options{EmitStatus: func(st *Status) {
		must(t, text.Status(st))
		must(t, lines.Status(st))
	}})
	var got []string
	for line := range strings.Lines(b.String()) {
		got = append(got, line[strings.Index(line, "records")+len("records"):])
	}
	want := []string{
		", 0 lost, 0 untracked, 0 open, 0 evicted, 1 journeys, 5.25% CPU, budget 2%, without free,queue\n",
		`":6,"lost":0,"untracked":0,"tracked":0,"evicted":0,"journeys":1,"cost_percent":5.25,"budget_percent":2,"shed":["free","queue"]}` + "\n",
		", 0 lost, 0 untracked, 0 open, 0 evicted, 1 journeys, 5.25% CPU, budget 2%, without free,queue, 1 of 8 flows\n",
		`":6,"lost":0,"untracked":0,"tracked":0,"evicted":0,"journeys":1,"cost_percent":5.25,"budget_percent":2,"shed":["free","queue"],"one_in":8}` + "\n",
		", 0 lost, 0 untracked, 0 open, 0 evicted, 1 journeys, 5.25% CPU, budget 2%, 4711 sampled out\n",
		`":6,"lost":0,"untracked":0,"tracked":0,"evicted":0,"journeys":1,"cost_percent":5.25,"budget_percent":2,"sampled_out":4711}` + "\n",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, ""), strings.Join(want, ""))
	}
}

// TestManyShedGroups: a recording may say what it likes.
func TestManyShedGroups(t *testing.T) {
	s := newStream(t, newTrench())
	for i := range 1000 {
		s.add(leftOut(time.Duration(i), Budget{Shed: []string{strings.Repeat("x", i)}}))
	}
	s.tcp(1, 0, client4, 40000, vip4, 5000, syn).request()
	if js := s.run(Options{}); len(js) != 1 || js[0].Complete || len(js[0].Notes) != 1 {
		t.Errorf("%d journeys", len(js))
	}
}
