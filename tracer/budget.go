// SPDX-License-Identifier: Apache-2.0

//go:build linux

package tracer

import (
	"math"
	"slices"
	"time"
)

// How a budget is kept. Above it for two periods something is shed: what comes
// once, such as reading the kernel's symbols, is no load. Below half of it for
// longer something comes back: half, because to follow twice as many flows
// doubles what they cost.
const (
	budgetEvery    = 500 * time.Millisecond // a period: measure, then judge
	overPatience   = 2                      // periods above the budget until something is shed
	calmPatience   = 4                      // periods below half until something comes back
	maxPatience    = 120                    // which doubles up to this, each time that was too soon
	tooSoon        = 20                     // periods: shed again within these, it was
	worthShedding  = 0.1                    // share of the cost that a group must have to be shed
	maxSampleShift = 10                     // follow at least one of 1024 flows
	maxSampleStep  = 3                      // at once: an eighth, or eight times as many
)

// neverShed are the groups that stay: without devices there are no journeys,
// and drops are what people look for.
var neverShed = []string{"device", "drop"}

// spent is what one period cost, as shares of one CPU.
type spent struct {
	total  float64
	own    float64            // of it the process's
	groups map[string]float64 // of it by hook group: run time of its programs, and the process's for its records
	// following: records were written, so to follow fewer flows would save.
	following bool
}

// budget decides what to leave out to keep to a limit. It measures and does
// nothing itself.
type budget struct {
	limit  float64  // share of one CPU
	shed   []string // groups, the last one shed last
	sample uint     // one of 2^sample flows is followed

	over, calm int // periods in a row
	patience   int // periods of calm until something comes back
	back       int // periods since something came back; 0: nothing did
	told       bool
}

func newBudget(limit float64) *budget { return &budget{limit: limit, patience: calmPatience} }

// change is what a budget wants done. The zero value is nothing.
type change struct {
	detach, attach string // a group
	sample         bool   // budget.sample changed
	helpless       bool   // it is above the limit, and nothing is left to shed
}

// judge takes what a period cost and says what to do now.
func (b *budget) judge(s spent) change {
	if b.back > 0 {
		b.back++
	}
	switch {
	case s.total > b.limit:
		b.over, b.calm = b.over+1, 0
		if b.over < overPatience {
			return change{}
		}
		b.over = 0
		return b.tighten(s)
	case s.total < b.limit/2 && (b.sample > 0 || len(b.shed) > 0):
		b.over, b.calm = 0, b.calm+1
		if b.calm < b.patience {
			return change{}
		}
		b.calm = 0
		return b.loosen(s)
	}
	b.over, b.calm, b.told = 0, 0, false
	return change{}
}

func (b *budget) tighten(s spent) change {
	c := change{detach: b.dearest(s, worthShedding)}
	switch {
	case c.detach != "":
	case s.following && b.sample < maxSampleShift:
		// Three times the limit: a half is not enough, a quarter is.
		more := uint(math.Ceil(math.Log2(min(s.total/b.limit, 1<<maxSampleStep))))
		b.sample = min(b.sample+max(more, 1), maxSampleShift)
		c.sample = true
	default:
		c.detach = b.dearest(s, 0)
	}
	if c.detach != "" {
		b.shed = append(b.shed, c.detach)
	} else if !c.sample {
		c.helpless, b.told = !b.told, true
		return c
	}
	if b.back > 0 && b.back <= tooSoon {
		b.patience = min(2*b.patience, maxPatience)
	} else {
		b.patience = calmPatience
	}
	b.back = 0
	return c
}

// dearest is the group to shed, if it has at least that share of the cost;
// empty: there is none.
func (b *budget) dearest(s spent, share float64) (group string) {
	for _, g := range Groups {
		cost := s.groups[g]
		if cost >= share*s.total && cost > s.groups[group] && !slices.Contains(neverShed, g) && !slices.Contains(b.shed, g) {
			group = g
		}
	}
	return group
}

func (b *budget) loosen(s spent) (c change) {
	b.back, b.told = 1, false
	if b.sample > 0 {
		// A fifth of the limit: four times as many flows may be followed.
		more := uint(math.Log2(min(b.limit/s.total, 1<<maxSampleStep)))
		b.sample -= min(max(more, 1), b.sample)
		c.sample = true
		return c
	}
	last := len(b.shed) - 1
	c.attach, b.shed = b.shed[last], b.shed[:last]
	return c
}
