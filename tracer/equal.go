// SPDX-License-Identifier: Apache-2.0

//go:build linux

package tracer

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
)

// equalDrops has the programs tell what they have only counted (bpf/equal.h).
type equalDrops struct {
	program *ebpf.Program
	cpus    uint64
}

// maxTold is how often the program is run at the end: it leaves a kind that grew
// while it was being told, and all when the ring is full.
const maxTold = 100

// canCountEqual tells whether this kernel has what the program needs: another
// CPU's entry of a map (5.19), and loops (5.17).
func canCountEqual() bool {
	return features.HaveProgramHelper(ebpf.RawTracepoint, asm.FnMapLookupPercpuElem) == nil &&
		features.HaveProgramHelper(ebpf.RawTracepoint, asm.FnLoop) == nil
}

// equalDrops loads the program that tells.
func (p *programs) equalDrops() (*equalDrops, error) {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, fmt.Errorf("count CPUs: %w", err)
	}
	const name = "tell_equal"
	c, err := ebpf.NewCollectionWithOptions(only(p.spec, name), ebpf.CollectionOptions{MapReplacements: p.shared.Maps})
	if err != nil {
		return nil, fmt.Errorf("load the program that tells equal drops: %w", err)
	}
	p.loaded = append(p.loaded, c)
	return &equalDrops{c.Programs[name], uint64(cpus)}, nil
}

// tell puts what was counted into the ring, and returns how many kinds of drops
// are still to be told.
func (e *equalDrops) tell() (left uint32, err error) {
	if e == nil {
		return 0, nil
	}
	left, err = e.program.Run(&ebpf.RunOptions{Context: e.cpus})
	if err != nil {
		return 0, fmt.Errorf("tell equal drops: %w", err)
	}
	return left, nil
}

// tellAll is tell until nothing is left; drain makes room in the ring.
func (e *equalDrops) tellAll(drain func() error) error {
	for range maxTold {
		left, err := e.tell()
		if err != nil || left == 0 {
			return err
		}
		if err := drain(); err != nil {
			return err
		}
	}
	return errors.New("drops that were counted could not be told: the ring buffer stays full; give it more room with --ring")
}
