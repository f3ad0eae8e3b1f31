// SPDX-License-Identifier: Apache-2.0

//go:build linux

package tracer

import (
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// HookCost is what a hook's program cost since it was attached, as the kernel
// measures it (kernel.bpf_stats_enabled). An empty program reads about 30 ns:
// some of that is the measuring.
type HookCost struct {
	Hook string
	Runs uint64
	Time time.Duration // all runs together, on all CPUs
}

// measure makes the kernel count the programs' run time, all programs' of the
// machine, until the tracer is closed.
func (t *Tracer) measure() error {
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		return fmt.Errorf("measure the programs' run time: %w", err)
	}
	t.stats = stats
	return nil
}

// Costs tells what each attached hook cost so far, in the hook table's order.
// It needs Options.Cost.
func (t *Tracer) Costs() ([]HookCost, error) {
	var costs []HookCost
	for _, row := range Hooks {
		if len(t.programs.running[row.Name]) == 0 {
			continue
		}
		cost, err := t.costOf(row)
		if err != nil {
			return nil, err
		}
		costs = append(costs, cost)
	}
	return costs, nil
}

func (t *Tracer) costOf(row HookRow) (HookCost, error) {
	cost := HookCost{Hook: row.Name}
	for _, prog := range t.programs.running[row.Name] {
		stats, err := prog.Stats()
		if err != nil {
			return cost, fmt.Errorf("run time of hook %s: %w", row.Name, err)
		}
		cost.Runs += stats.RunCount
		cost.Time += stats.Runtime
	}
	return cost, nil
}
