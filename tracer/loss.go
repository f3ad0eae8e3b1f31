// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"github.com/cilium/ebpf"

	"waymark/bpf"
	"waymark/decoder"
)

// lossWatch reads the programs' counters and tells when records went missing.
type lossWatch struct {
	stats *ebpf.Map
	told  [bpf.HookMax]bpf.HookStats // as of the last since
	at    uint64                     // boot time at which that began to read
}

func newLossWatch(stats *ebpf.Map) *lossWatch {
	return &lossWatch{stats: stats, at: bootTime()}
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
	sum := l.read()
	now := bootTime()
	var losses []decoder.Loss
	for h, s := range sum {
		if n := s.Lost - l.told[h].Lost; n > 0 {
			losses = append(losses, decoder.Loss{From: l.at, To: now, Hook: uint16(h), Count: n, Kind: "ring"})
		}
		if n := s.Untracked - l.told[h].Untracked; n > 0 {
			losses = append(losses, decoder.Loss{From: l.at, To: now, Hook: uint16(h), Count: n, Kind: "untracked"})
		}
	}
	l.told, l.at = sum, began
	return losses
}
