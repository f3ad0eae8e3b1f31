// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"waymark/scenarios"
)

// TestTraceTellsTheMarksHistory: the balancer sets the mark, leaving its
// namespace loses it; and the mark selects.
func TestTraceTellsTheMarksHistory(t *testing.T) {
	w := labUpFor(t)
	file := filepath.Join(t.TempDir(), "x.pcapng")
	args := append([]string{"trace", "-o", "json", "-w", file}, netnsFlags(w)...)
	tr := start(t, append(args, "tcp", "any", "10.0.0.1:5000")...)
	if sum, err := w.Send(ctxBackground, scenarios.Traffic{Connections: 10}, nil); err != nil || sum.Answered != 10 {
		t.Fatalf("%+v: %v", sum, err)
	}
	out := tr.stop(t)
	ids := map[uint32][]string{} // by mark
	// On a slow machine one may wait in the queue for longer than waymark waits
	// for it, so that two journeys tell of its way.
	whole := func(j journey) bool { return j.Complete && j.Outcome == "delivered" }
	for _, j := range parseJourneys(t, out) {
		if !whole(j) {
			continue
		}
		if j.Reply {
			if len(j.Marks) > 0 {
				t.Errorf("%s is a reply and was marked: %+v", j.ID, j.Marks)
			}
			continue
		}
		if len(j.Marks) != 2 {
			t.Errorf("%s: marks %+v, want one set and lost", j.ID, j.Marks)
			continue
		}
		set, lost := j.Marks[0], j.Marks[1]
		if set.From != 0 || set.By != "lb" || set.How != "set" || j.Hops[set.Hop].Netns != "wm-meridio-lb" || *j.Hops[set.Hop].Mark != set.To {
			t.Errorf("%s: %+v at %+v", j.ID, set, j.Hops[set.Hop])
		}
		if lost.From != set.To || lost.To != 0 || lost.By != "crossing" || lost.How != "lost" || j.Hops[lost.Hop].Netns != "wm-meridio-px" {
			t.Errorf("%s: %+v at %+v", j.ID, lost, j.Hops[lost.Hop])
		}
		ids[set.To] = append(ids[set.To], j.ID)
	}
	if len(ids) == 0 {
		t.Fatal("no packet was marked")
	}
	for mark, want := range ids {
		replayed, stderr, code := run0(t, "replay", "-o", "json", "--mark", fmt.Sprintf("%#x", mark), file)
		var got []string
		for _, j := range parseJourneys(t, []byte(replayed)) {
			if whole(j) {
				got = append(got, j.ID)
			}
		}
		if code != 0 || !slices.Equal(got, want) {
			t.Errorf("replay --mark %#x (exit %d, %s) shows %v, want %v", mark, code, stderr, got, want)
		}
	}
	if _, stderr, code := run0(t, "replay", "--mark", "red", file); code != 2 || !strings.Contains(stderr, "--mark red") {
		t.Errorf("replay --mark red: exit %d: %s", code, stderr)
	}
}
