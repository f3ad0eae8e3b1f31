// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"waymark/decoder"
)

// pace spreads what is printed over time as it was recorded: from the first
// that has a time on.
type pace struct {
	speed float64 // times as fast as recorded; 0: no waiting
	now   func() time.Time
	sleep func(context.Context, time.Duration) bool // false: interrupted

	began time.Time
	first decoder.WallTime // 0: nothing was printed yet
}

func newPace(speed float64) *pace {
	return &pace{speed: speed, now: time.Now, sleep: sleep}
}

// parseSpeed parses 1x, 0.5x or max, which is 0.
func parseSpeed(s string) (float64, error) {
	if s == "max" {
		return 0, nil
	}
	digits, times := strings.CutSuffix(s, "x")
	v, err := strconv.ParseFloat(digits, 64)
	if err != nil || !times || !(v >= 0.001 && v <= 1e6) { // not even NaN
		return 0, fmt.Errorf("--speed %s: give a factor from 0.001x to 1000000x such as 1x, or max", s)
	}
	return v, nil
}

// until waits until what happened at t is due; false: interrupted. Before it
// waits it calls flush: what was printed is then seen.
func (p *pace) until(ctx context.Context, t decoder.WallTime, flush func()) bool {
	if p.speed == 0 {
		return true
	}
	if ctx.Err() != nil {
		return false
	}
	if p.first == 0 {
		p.first, p.began = t, p.now()
		return true
	}
	after := float64(t-p.first) / p.speed
	if after > math.MaxInt64/2 { // a broken recording's time, in centuries
		after = math.MaxInt64 / 2
	}
	left := time.Duration(after) - p.now().Sub(p.began)
	if left <= 0 {
		return true
	}
	flush()
	return p.sleep(ctx, left)
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
