// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"slices"
	"testing"
	"time"

	"waymark/decoder"
)

func TestParseSpeed(t *testing.T) {
	for s, want := range map[string]float64{"max": 0, "1x": 1, "10x": 10, "0.5x": 0.5} {
		if got, err := parseSpeed(s); err != nil || got != want {
			t.Errorf("%s: %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "1", "x", "0x", "-1x", "NaNx", "Infx", "1e300x", "fast", "maxx"} {
		if _, err := parseSpeed(s); err == nil {
			t.Errorf("%q was taken", s)
		}
	}
}

// TestPace: on a clock that only sleeping moves.
func TestPace(t *testing.T) {
	const start = 1_795_188_131_000_000_000
	const ms = decoder.WallTime(time.Millisecond)
	for _, tt := range []struct {
		name  string
		speed float64
		at    []decoder.WallTime // since start
		slept []time.Duration
	}{
		{"as recorded", 1, []decoder.WallTime{0, 100 * ms, 250 * ms}, []time.Duration{100e6, 150e6}},
		{"ten times", 10, []decoder.WallTime{0, 100 * ms, 250 * ms}, []time.Duration{10e6, 15e6}},
		{"half", 0.5, []decoder.WallTime{0, 100 * ms}, []time.Duration{200e6}},
		{"at once", 0, []decoder.WallTime{0, 100 * ms}, nil},
		{"late ones wait for nothing", 1, []decoder.WallTime{0, 100 * ms, 50 * ms, 100 * ms}, []time.Duration{100e6}},
		{"before the first", 1, []decoder.WallTime{100 * ms, 0}, nil},
	} {
		now, flushed := time.Unix(0, 0), 0
		var slept []time.Duration
		p := newPace(tt.speed)
		p.now = func() time.Time { return now }
		p.sleep = func(_ context.Context, d time.Duration) bool {
			now, slept = now.Add(d), append(slept, d)
			if flushed != len(slept) {
				t.Errorf("%s: waits while something is not printed", tt.name)
			}
			return true
		}
		for _, at := range tt.at {
			if !p.until(t.Context(), start+at, func() { flushed++ }) {
				t.Errorf("%s: interrupted", tt.name)
			}
		}
		if !slices.Equal(slept, tt.slept) {
			t.Errorf("%s: slept %v, want %v", tt.name, slept, tt.slept)
		}
	}
}

// TestPaceIsInterruptible, also where a broken recording asks for centuries.
func TestPaceIsInterruptible(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	p := newPace(0.001)
	if !p.until(ctx, 1, func() {}) {
		t.Error("the first had to wait")
	}
	if p.until(ctx, 1<<63-1, cancel) { // flush comes before the wait
		t.Error("it was not interrupted")
	}
	if p.until(ctx, 1, func() {}) {
		t.Error("it goes on after that")
	}
}
