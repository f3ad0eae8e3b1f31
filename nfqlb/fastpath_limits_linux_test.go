// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"fmt"
	"strings"
	"testing"
)

// A state that the kernel's path has no room for leaves all packets to the
// queue, and the next one that fits is taken.
func TestFastPathTooLarge(t *testing.T) {
	var specs []FlowSpec
	for i := range 5000 {
		specs = append(specs, FlowSpec{Name: fmt.Sprint("f", i), Target: "t", Dests: []string{"10.0.0.1/32"}})
	}
	large, err := NewState(Config{}, specs, map[string]*Target{"t": NewTarget("t", table(t, 997, 32, 1))})
	if err != nil {
		t.Fatal(err)
	}
	b := manyTargets(t, 2, 1)
	var told []string
	f := fastPathFor(t, b, FastPathConfig{Log: func(message string, err error) { told = append(told, fmt.Sprint(message, ": ", err)) }})
	packet := udp(1, false)
	mark, _, _ := f.run(t, packet)
	if mark == 0 || len(told) != 0 {
		t.Fatalf("mark %d, told %q", mark, told)
	}
	b.mu.Lock()
	f.use(large)
	b.mu.Unlock()
	if mark, _, _ := f.run(t, packet); mark != 0 {
		t.Errorf("with too many flows the packet has mark %d", mark)
	}
	if len(told) != 1 || !strings.Contains(told[0], "5000 flows") {
		t.Errorf("told %q", told)
	}
	if text := string(f.Metrics()); !strings.Contains(text, "waymark_lb_fastpath_active 0\n") {
		t.Errorf("metrics say it is active:\n%s", text)
	}
	if err := b.SetFlow(FlowSpec{Name: "another", Target: "t"}); err != nil {
		t.Fatal(err)
	}
	if got, _, _ := f.run(t, packet); got != mark {
		t.Errorf("mark %d with flows that fit, want %d", got, mark)
	}
}
