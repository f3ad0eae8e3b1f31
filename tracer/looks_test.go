// SPDX-License-Identifier: Apache-2.0

//go:build linux

package tracer

import (
	"testing"
	"time"
)

// TestLooks: the first drops get a look each, a flood one each stateLookEvery.
func TestLooks(t *testing.T) {
	var l looks
	at := uint64(time.Hour)
	count := func(drops int, every time.Duration) (n int) {
		for range drops {
			if l.take(at) {
				n++
			}
			at += uint64(every)
		}
		return n
	}
	if n := count(100, time.Microsecond); n != stateLooks {
		t.Errorf("%d looks at once, want %d", n, stateLooks)
	}
	if n := count(10_000, 100*time.Microsecond); n < 45 || n > 55 { // a second
		t.Errorf("%d looks in a second, want 50", n)
	}
	at += uint64(time.Minute)
	if n := count(100, time.Microsecond); n != stateLooks {
		t.Errorf("%d looks after a quiet time, want %d", n, stateLooks)
	}
}
