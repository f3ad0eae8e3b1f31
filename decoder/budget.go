// SPDX-License-Identifier: Apache-2.0

package decoder

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// shedding is a time without the hooks of a group.
type shedding struct {
	group    string
	from, to uint64 // boot clock ns; to is math.MaxUint64 while it lasts
}

// maxShed bounds the groups that a recording can say are shed.
const maxShed = 64

// budgeting is what the stream has said of the budget.
type budgeting struct {
	now Budget
	// shed has each group that journeys still to be told may miss, once: from
	// the first time to the last.
	shed []shedding
	// Where more flows began to be followed, from first to last likewise.
	moreFrom, moreTo uint64
}

func (w *world) applyBudget(b *Budget) {
	k := &w.budget
	for i := range k.shed {
		if s := &k.shed[i]; s.to == math.MaxUint64 && !slices.Contains(b.Shed, s.group) {
			s.to = b.At
		}
	}
	for _, g := range b.Shed {
		i := slices.IndexFunc(k.shed, func(s shedding) bool { return s.group == g })
		switch {
		case i >= 0:
			k.shed[i].to = math.MaxUint64
		case len(k.shed) < maxShed:
			k.shed = append(k.shed, shedding{g, b.At, math.MaxUint64})
		}
	}
	if max(b.OneIn, 1) < max(k.now.OneIn, 1) {
		if k.moreTo == 0 {
			k.moreFrom = b.At
		}
		k.moreTo = b.At
	}
	k.now = *b
}

// forget drops what was over before t.
func (k *budgeting) forget(t uint64) {
	k.shed = slices.DeleteFunc(k.shed, func(s shedding) bool { return s.to < t })
	if k.moreTo < t {
		k.moreFrom, k.moreTo = 0, 0
	}
}

// markShed notes what j may miss for the budget's sake.
func (s *Stitcher) markShed(j *Journey) {
	k := &s.world.budget
	var groups []string
	for _, g := range k.shed {
		// As of losses: without the hooks for copies the first records may be
		// missing.
		if g.from <= j.until && g.to >= j.seq.start-min(j.seq.start, uint64(s.opt.Linger)) {
			groups = append(groups, g.group)
		}
	}
	if len(groups) > 0 {
		j.Complete = false
		j.Notes = append(j.Notes, fmt.Sprintf("the %s hooks were detached meanwhile to keep to the budget: hops may be missing", strings.Join(groups, ", ")))
	}
	if k.moreTo != 0 && j.seq.start >= k.moreFrom && j.seq.start-min(j.seq.start, uint64(s.opt.Linger)) <= k.moreTo {
		j.Complete = false
		j.Notes = append(j.Notes, "more flows began to be followed just before it: its first hops may be missing")
	}
}

// budgetText is what a status line says of the budget.
func (s *Status) budgetText() string {
	t := fmt.Sprintf(", budget %g%%", s.Budget)
	if len(s.Shed) > 0 {
		t += ", without " + strings.Join(s.Shed, ",")
	}
	if s.OneIn > 1 {
		t += fmt.Sprintf(", 1 of %d flows", s.OneIn)
	}
	if s.SampledOut > 0 {
		t += fmt.Sprintf(", %d sampled out", s.SampledOut)
	}
	return t
}
