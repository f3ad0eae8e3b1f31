// SPDX-License-Identifier: Apache-2.0

//go:build linux

package tracer

import (
	"reflect"
	"testing"
	"time"
)

// TestBudget: period by period, what is spent and what is done about it.
func TestBudget(t *testing.T) {
	type period struct {
		spent spent
		want  change
	}
	busy := func(total, queue, free, device, drop float64) spent {
		return spent{total: total, groups: map[string]float64{"queue": queue, "free": free, "device": device, "drop": drop}, following: true}
	}
	idle := func(total float64) spent { return spent{total: total, following: true} }
	// twice is what must be seen twice to count.
	twice := func(s spent, c change) []period { return []period{{s, change{}}, {s, c}} }
	calm := func(s spent, periods int, c change) []period {
		p := make([]period, periods)
		for i := range p {
			p[i].spent = s
		}
		p[periods-1].want = c
		return p
	}
	join := func(all ...[]period) (p []period) {
		for _, a := range all {
			p = append(p, a...)
		}
		return p
	}
	for name, tt := range map[string]struct {
		periods []period
		shed    []string
		sample  uint
	}{
		"within": {periods: join(twice(busy(.019, .01, 0, 0, 0), change{}), twice(idle(.001), change{}))},
		"once is no load": {periods: []period{
			{busy(.5, .2, .2, 0, 0), change{}}, {busy(.019, .01, 0, 0, 0), change{}}, {busy(.5, .2, .2, 0, 0), change{}}, {idle(.001), change{}},
		}},
		"the dearest first, devices and drops never": {
			periods: join(
				twice(busy(.1, .01, .02, .05, .02), change{detach: "free"}),
				twice(busy(.08, .01, 0, .05, .02), change{detach: "queue"}),
				twice(busy(.07, 0, 0, .05, .02), change{sample: true}),
			),
			shed: []string{"free", "queue"}, sample: 2,
		},
		"what is not worth shedding stays as long as fewer flows can be followed": {
			periods: join(
				twice(busy(8, .1, 0, 7, .9), change{sample: true}),
				twice(busy(1, .01, 0, .9, .09), change{sample: true}),
				twice(busy(.12, .001, 0, .1, .019), change{sample: true}),
				twice(busy(.08, .001, 0, .07, .009), change{sample: true}),
				twice(busy(.08, .001, 0, .07, .009), change{detach: "queue"}),
				twice(busy(.08, 0, 0, .07, .01), change{helpless: true}),
				twice(busy(.08, 0, 0, .07, .01), change{}), // said once
				twice(idle(.015), change{}),
				twice(busy(.08, 0, 0, .07, .01), change{helpless: true}),
			),
			shed: []string{"queue"}, sample: maxSampleShift,
		},
		"nothing is followed: the programs alone are too dear": {
			periods: twice(spent{total: .05, groups: map[string]float64{"device": .05}}, change{helpless: true}),
		},
		"flows come back first, then groups, the last one shed first": {
			periods: join(
				twice(busy(.1, .03, .05, .02, 0), change{detach: "free"}),
				twice(busy(.05, .03, 0, .02, 0), change{detach: "queue"}),
				twice(busy(.15, 0, 0, .15, 0), change{sample: true}), // 8 times
				calm(idle(.009), calmPatience, change{sample: true}),
				calm(idle(.011), 10*calmPatience, change{}), // neither too much nor little
				calm(idle(.004), calmPatience, change{sample: true}),
				calm(idle(.009), calmPatience, change{attach: "queue"}),
				calm(idle(.009), calmPatience, change{attach: "free"}),
				calm(idle(.009), calmPatience, change{}),
			),
		},
		"what came back too soon waits longer the next time": {
			periods: join(
				twice(busy(.03, .02, 0, .01, 0), change{detach: "queue"}),
				calm(idle(.009), calmPatience, change{attach: "queue"}),
				twice(busy(.03, .02, 0, .01, 0), change{detach: "queue"}),
				calm(idle(.009), 2*calmPatience, change{attach: "queue"}),
				calm(idle(.015), tooSoon, change{}),
				twice(busy(.03, .02, 0, .01, 0), change{detach: "queue"}),
				calm(idle(.009), calmPatience, change{attach: "queue"}),
			),
		},
		"nothing at all was spent": {
			periods: join(
				twice(busy(.15, 0, 0, .15, 0), change{sample: true}),
				calm(spent{}, calmPatience, change{sample: true}),
			),
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBudget(.02)
			for i, p := range tt.periods {
				if got := b.judge(p.spent); got != p.want {
					t.Fatalf("period %d: %+v, want %+v", i, got, p.want)
				}
			}
			if len(b.shed)+len(tt.shed) > 0 && !reflect.DeepEqual(b.shed, tt.shed) || b.sample != tt.sample {
				t.Errorf("shed %v, sample %d; want %v, %d", b.shed, b.sample, tt.shed, tt.sample)
			}
		})
	}
}

// TestSpent: the process's time is shared out by records.
func TestSpent(t *testing.T) {
	begin := time.Now()
	from := reading{
		at: begin, own: time.Second,
		groups: map[string]time.Duration{"device": time.Second, "queue": time.Second}, records: map[string]uint64{"device": 100, "queue": 100},
	}
	to := reading{
		at: begin.Add(time.Second), own: 1400 * time.Millisecond,
		groups: map[string]time.Duration{"device": 1100 * time.Millisecond, "queue": time.Second}, records: map[string]uint64{"device": 400, "queue": 200},
	}
	got := to.since(from)
	near := func(a, b float64) bool { return a-b < 1e-9 && b-a < 1e-9 }
	if !near(got.total, .5) || !near(got.groups["device"], .4) || !near(got.groups["queue"], .1) || !got.following {
		t.Errorf("%+v", got)
	}
	if from.since(reading{at: begin.Add(-time.Second), own: time.Second, groups: from.groups, records: from.records}).following {
		t.Error("no record was written")
	}
}
