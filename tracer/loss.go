// SPDX-License-Identifier: Apache-2.0

//go:build linux

package tracer

import (
	"github.com/cilium/ebpf"

	"waymark/bpf"
	"waymark/decoder"
)

// lossWatch reads the programs' counters, and the kernel's of them, and tells
// when records went missing.
type lossWatch struct {
	programs *programs
	stats    *ebpf.Map
	told     [bpf.HookMax]bpf.HookStats // as of the last since
	missed   map[string]uint64          // by hook row, likewise
	at       uint64                     // boot time at which that began to read
}

func newLossWatch(p *programs) *lossWatch {
	return &lossWatch{programs: p, stats: p.shared.Maps["stats"], missed: map[string]uint64{}, at: bootTime()}
}

// read sums the counters over CPUs.
func (l *lossWatch) read() (sum [bpf.HookMax]bpf.HookStats) {
	var perCPU []bpf.HookStats
	for h := range sum {
		if l.stats.Lookup(uint32(h), &perCPU) != nil {
			continue
		}
		for _, s := range perCPU {
			sum[h].Records += s.Records
			sum[h].Lost += s.Lost
			sum[h].Untracked += s.Untracked
			sum[h].Seen += s.Seen
			sum[h].SampledOut += s.SampledOut
		}
	}
	return sum
}

// since returns the losses since the last call. After it, at is up to when all
// of them are told.
func (l *lossWatch) since() []decoder.Loss {
	// What is counted while this reads may be in sum or not: then it is the next
	// one's. It may take long, if the process is stopped here.
	began := bootTime()
	sum, losses := l.read(), l.misses()
	now := bootTime()
	for h, s := range sum {
		if n := s.Lost - l.told[h].Lost; n > 0 {
			losses = append(losses, decoder.Loss{Hook: uint16(h), Count: n, Kind: "ring"})
		}
		if n := s.Untracked - l.told[h].Untracked; n > 0 {
			losses = append(losses, decoder.Loss{Hook: uint16(h), Count: n, Kind: "untracked"})
		}
	}
	for i := range losses {
		losses[i].From, losses[i].To = l.at, now
	}
	l.told, l.at = sum, began
	return losses
}

// misses are the times since the last call that the kernel did not run a
// program, because an interrupt came while it ran on that processor
// (bpf_prog_inc_misses_counter, kernel/bpf/syscall.c). TC programs always run, and
// of twins one.
func (l *lossWatch) misses() (losses []decoder.Loss) {
	for _, row := range Hooks {
		if row.Group == "device" || row.Twins {
			continue
		}
		var missed uint64
		for _, prog := range l.programs.running[row.Name] {
			stats, err := prog.Stats()
			if err != nil {
				continue // before 5.12 the kernel does not count them
			}
			missed += stats.RecursionMisses
		}
		if n := missed - l.missed[row.Name]; n > 0 {
			losses = append(losses, decoder.Loss{Hook: uint16(row.Hook), Count: n, Kind: "missed"})
		}
		l.missed[row.Name] = missed
	}
	return losses
}
