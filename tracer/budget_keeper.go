// SPDX-License-Identifier: Apache-2.0

//go:build linux

package tracer

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"waymark/bpf"
	"waymark/decoder"
)

// keeper keeps a trace to its budget: it measures, asks the budget, does what
// that says, and tells of it in the log and in the stream.
type keeper struct {
	t      *Tracer
	budget *budget
	last   reading
	cost   float64  // share of one CPU in the last period
	own    float64  // of that the process's
	lost   []string // groups that could not be attached again
	ever   bool     // something was shed

	// Periods in which what is spent may still be for records from before the
	// last change.
	unsettled int

	// A group is being attached or detached, which is not waited for: the ring
	// must be read meanwhile.
	moving chan attached
}

// reading is what everything cost so far.
type reading struct {
	at      time.Time
	own     time.Duration            // the process's CPU time, user and system
	groups  map[string]time.Duration // run time of programs by hook group
	records map[string]uint64        // written, likewise
}

func newKeeper(t *Tracer, percent float64) *keeper {
	return &keeper{t: t, budget: newBudget(percent / 100)}
}

func (k *keeper) read() (reading, error) {
	r := reading{at: time.Now(), groups: map[string]time.Duration{}, records: map[string]uint64{}}
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		return r, fmt.Errorf("read what waymark itself costs: %w", err)
	}
	r.own = time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	stats := k.t.loss.read()
	counted := map[bpf.Hook]bool{} // several rows may write records of one number
	for _, row := range Hooks {
		cost, err := k.t.costOf(row)
		if err != nil {
			return r, err
		}
		r.groups[row.Group] += cost.Time
		if !counted[row.Hook] {
			counted[row.Hook] = true
			r.records[row.Group] += stats[row.Hook].Records
		}
	}
	return r, nil
}

// since is what was spent between two readings. What the process costs is
// shared out among the groups by their records.
func (r reading) since(s reading) spent {
	took := float64(r.at.Sub(s.at))
	own := float64(r.own-s.own) / took
	var records uint64
	for g := range r.records {
		records += r.records[g] - s.records[g]
	}
	sp := spent{total: own, own: own, groups: map[string]float64{}, following: records > 0}
	for g := range r.groups {
		cost := float64(r.groups[g]-s.groups[g]) / took
		sp.total += cost
		if records > 0 {
			cost += own * float64(r.records[g]-s.records[g]) / float64(records)
		}
		sp.groups[g] = cost
	}
	return sp
}

// maxUnsettled bounds how long old records may excuse what is spent: the queue
// of a sink that cannot keep up is never empty.
const maxUnsettled = 4

// look measures if it is time to, and acts. backlog: there are records that
// the sink has not had yet.
func (k *keeper) look(now time.Time, backlog bool) error {
	if k.moving != nil {
		select {
		case a := <-k.moving:
			return k.moved(a)
		default:
			return nil
		}
	}
	if now.Sub(k.last.at) < budgetEvery {
		return nil
	}
	r, err := k.read()
	if err != nil {
		return err
	}
	before := k.last
	k.last = r
	if before.at.IsZero() {
		return nil // to load and attach is not what the budget is for
	}
	if backlog && k.unsettled > 0 {
		k.unsettled--
		return nil
	}
	k.unsettled = 0
	s := r.since(before)
	k.cost, k.own = s.total, s.own
	return k.act(k.budget.judge(s))
}

func (k *keeper) act(c change) error {
	// Before it is done: what happens from now on may miss a hook.
	at := bootTime()
	switch {
	case c.detach != "":
		wait := k.t.programs.detach(c.detach)
		k.unsettled = maxUnsettled
		k.move(func() attached { wait(); return attached{} })
		return k.tell(at, "hooks detached: "+c.detach)
	case c.attach != "":
		k.move(k.t.programs.attach(c.attach))
	case c.sample:
		if err := k.t.programs.shared.Variables["sample_mask"].Set(uint32(1)<<k.budget.sample - 1); err != nil {
			return fmt.Errorf("tell the programs which flows to follow: %w", err)
		}
		k.unsettled = maxUnsettled
		what := "all flows are followed again"
		if n := k.oneIn(); n > 0 {
			what = fmt.Sprintf("one of %d flows is followed", n)
		}
		return k.tell(at, what)
	case c.helpless:
		k.t.opts.Log.Warn().Msgf("budget: cost is %.2f%% of one CPU, %.2f%% of it waymark's process, and nothing is left to shed to come below %g%%: choose fewer namespaces and devices (--netns, -i) or another budget",
			100*k.cost, 100*k.own, 100*k.budget.limit)
	}
	return nil
}

func (k *keeper) move(do func() attached) {
	k.moving = make(chan attached, 1)
	go func() { k.moving <- do() }()
}

// moved goes on after a group was attached or detached.
func (k *keeper) moved(a attached) error {
	k.moving, k.last = nil, reading{} // what that cost is not judged
	if a.group == "" {
		return nil
	}
	k.t.programs.attachedAgain(a)
	if a.err != nil {
		k.t.opts.Log.Warn().Err(a.err).Msg("budget: hooks cannot be attached again: " + a.group)
		k.lost = append(k.lost, a.group)
		return nil
	}
	return k.tell(bootTime(), "hooks attached again: "+a.group)
}

func (k *keeper) oneIn() uint32 {
	if k.budget.sample == 0 {
		return 0
	}
	return 1 << k.budget.sample
}

// tell says in the log what was done, and in the stream what holds from at on.
func (k *keeper) tell(at uint64, what string) error {
	k.ever = true
	k.t.opts.Log.Info().Msgf("budget: cost is %.2f%% of one CPU, budget %g%%: %s", 100*k.cost, 100*k.budget.limit, what)
	return k.t.stream.context(k.state(at))
}

func (k *keeper) state(at uint64) *decoder.Context {
	b := &decoder.Budget{
		At: at, Limit: 100 * k.budget.limit, Cost: math.Round(1e4*k.cost) / 100, Shed: slices.Concat(k.lost, k.budget.shed), OneIn: k.oneIn(),
	}
	for _, s := range k.t.loss.read() {
		b.SampledOut += s.SampledOut
	}
	return &decoder.Context{Budget: b}
}

// end tells the last state, with all that was left out.
func (k *keeper) end() error {
	if !k.ever {
		return nil
	}
	b := k.state(bootTime())
	if n := b.Budget.SampledOut; n > 0 {
		k.t.opts.Log.Info().Msgf("budget: packets of flows that were not followed were seen %d times", n)
	}
	if len(b.Budget.Shed) > 0 {
		k.t.opts.Log.Info().Msg("budget: hooks still detached: " + strings.Join(b.Budget.Shed, ","))
	}
	return k.t.stream.context(b)
}

// close waits for what is being done.
func (k *keeper) close() {
	if k.moving != nil {
		k.t.programs.attachedAgain(<-k.moving)
		k.moving = nil
	}
}
