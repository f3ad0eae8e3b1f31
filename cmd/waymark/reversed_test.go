// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"waymark/scenarios"
)

// reversedFault loses fragments, which have no ports: what is told of them is found
// by their offset.
const (
	reversedFault = "no-defrag"

	reversedDatagrams = 4
	fragmentsEach     = 2 // that come before the first one
)

func reversed(v6 bool, timeout time.Duration) scenarios.Traffic {
	return scenarios.Traffic{Connections: reversedDatagrams, UDP: true, IPv6: v6, Size: 4000, ReverseFragments: true, Timeout: timeout}
}

// loseFragments sets the fault, sends what it loses, clears it, and sends again.
func loseFragments(t *testing.T, w *scenarios.World) {
	if err := w.Fault(ctxBackground, reversedFault); err != nil {
		t.Fatal(err)
	}
	for _, v6 := range []bool{false, true} {
		if sum, err := w.Send(ctxBackground, reversed(v6, 300*time.Millisecond), nil); err != nil || sum.Answered > 0 {
			t.Errorf("IPv6 %v: %+v, %v", v6, sum, err)
		}
		// In order they pass.
		inOrder := reversed(v6, 10*time.Second)
		inOrder.ReverseFragments = false
		if sum, err := w.Send(ctxBackground, inOrder, nil); err != nil || sum.Failed > 0 {
			t.Errorf("IPv6 %v, in order: %+v, %v", v6, sum, err)
		}
	}
	if err := w.Clear(ctxBackground, reversedFault); err != nil {
		t.Fatal(err)
	}
	for _, v6 := range []bool{false, true} {
		if sum, err := w.Send(ctxBackground, reversed(v6, 10*time.Second), nil); err != nil || sum.Failed > 0 {
			t.Errorf("IPv6 %v, cleared: %+v, %v", v6, sum, err)
		}
	}
}

// checkFragments wants the drops of loseFragments explained.
func checkFragments(t *testing.T, lines []dropLine) {
	meridio := slices.IndexFunc(scenarios.List(), func(l scenarios.Lab) bool { return l.Name == "meridio" })
	faults := scenarios.List()[meridio].Faults
	f := faults[slices.IndexFunc(faults, func(f scenarios.Fault) bool { return f.Name == reversedFault })]
	lost := map[int]int{}
	for _, d := range lines {
		if d.Packet.FragOff == 0 {
			continue
		}
		ip := 4
		if strings.Contains(d.Packet.Src, ":") {
			ip = 6
		}
		site := siteFor(f, ip)
		if site == nil || !site.Is(d.Reason, functionOf(d.At)) || d.Netns != f.Expect.Netns || d.Dev != f.Expect.Dev {
			t.Errorf("a fragment is lost in %s/%s at %s: %s", d.Netns, d.Dev, d.At, d.Reason)
			continue
		}
		lost[ip]++
		if d.Question != f.Question || !strings.Contains(d.Because, f.Expect.Because) || !strings.Contains(d.Advice, f.Expect.Fix) {
			t.Errorf("explained as %s: %q, advice %q", d.Question, d.Because, d.Advice)
		}
	}
	if want := reversedDatagrams * fragmentsEach; lost[4] != want || lost[6] != want {
		t.Errorf("fragments lost: %v, want %d each", lost, want)
	}
}
