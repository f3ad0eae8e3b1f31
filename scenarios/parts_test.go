// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// TestInterval: the fault is set once, when all have come so far, and none goes on
// before.
func TestInterval(t *testing.T) {
	const n = 5
	refused := errors.New("refused")
	for name, outcome := range map[string]error{"set": nil, "refused": refused} {
		t.Run(name, func(t *testing.T) {
			var arrived, sets atomic.Int32
			v := &interval{missing: n, over: make(chan struct{}), set: func(context.Context) error {
				if arrived.Load() != n {
					t.Errorf("set when %d of %d had come", arrived.Load(), n)
				}
				sets.Add(1)
				return outcome
			}}
			var all sync.WaitGroup
			for i := range n {
				all.Go(func() {
					arrived.Add(1)
					v.arrive(t.Context())
					if i == 0 {
						return // it has failed, and does not go on
					}
					if err := v.wait(t.Context()); !errors.Is(err, outcome) || sets.Load() != 1 {
						t.Errorf("%v after %d sets, want %v after 1", err, sets.Load(), outcome)
					}
				})
			}
			all.Wait()
		})
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	v := &interval{missing: 2, over: make(chan struct{}), set: func(context.Context) error { return nil }}
	v.arrive(over)
	if err := v.wait(over); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted, it waits on: %v", err)
	}
}

// TestPartsOfTraffic: what has no parts says so before anything is sent.
func TestPartsOfTraffic(t *testing.T) {
	w := &World{lab: ipvs}
	for want, traffic := range map[string]Traffic{
		"have no parts":        {Ping: true, Pause: 1},
		"connections are made": {UDP: true, Again: true},
		"not be negative":      {Pause: -1},
		`fault "nonsense"`:     {Amid: "nonsense"},
	} {
		if _, err := w.Send(timeout(t), traffic, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", traffic, err, want)
		}
	}
}
