// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// meridioAnswerFaults are those by which no kernel frees a packet: nothing comes
// of what arrives.
func meridioAnswerFaults(l *lab, e meridioExternal) []Fault {
	t1, t2 := meridioTargets[0], meridioTargets[1]
	return []Fault{
		{
			Name:     "no-source-rule",
			Question: "M26",
			Brief:    "target-1 lacks the rules that lead answers from the virtual addresses to the proxy",
			Traffic:  []string{"-c", "24"},
			Expect: Expect{
				Outcome: "delivered", Packet: "request", Netns: l.namespace(t1.node), Dev: "nsc", Silent: []int{4, 6},
				Advice: "the target has no rule from the virtual address, so answers have no way out: put it back",
			},
			break_: func(_ context.Context, w *World) error { return eachOf(t1.rules(), w.removeRule) },
			fix:    func(_ context.Context, w *World) error { return eachOf(t1.rules(), w.addRule) },
		},
		{
			Name:     "no-target-route",
			Question: "M27",
			Brief:    "target-2's tables have no default route via the proxy's bridge",
			Traffic:  []string{"-c", "24"},
			Expect: Expect{
				Outcome: "delivered", Packet: "request", Netns: l.namespace(t2.node), Dev: "nsc", Silent: []int{4, 6},
				Advice: "the table that answers are routed by is empty: put back its default route via the proxy's bridge",
			},
			break_: func(_ context.Context, w *World) error { return eachOf(t2.routes(), w.removeRoute) },
			fix:    func(_ context.Context, w *World) error { return eachOf(t2.routes(), w.addRoute) },
		},
		{
			Name:     "balancer-stuck",
			Question: "M30",
			Brief:    "the balancer is stopped: its queues take packets and give no verdict",
			Traffic:  []string{"-c", "4"},
			Expect: Expect{
				Outcome: "open", Packet: "request", Netns: l.namespace(meridioLB), Dev: e.balancer, Silent: []int{4, 6},
				Advice: "the balancer's process has the packets and does not say what to do with them: continue it, or restart it",
			},
			break_: func(ctx context.Context, w *World) error { return w.stopBalancerForNow(ctx) },
			fix:    func(_ context.Context, w *World) error { return w.continueBalancer() },
		},
	}
}

// stopBalancerForNow stops the balancer's process and waits until each of its threads
// has stopped: until then they give verdicts.
func (w *World) stopBalancerForNow(ctx context.Context) error {
	running, err := w.processesOf(balancerRole)
	if err != nil {
		return err
	}
	if err := eachOf(running, func(p Process) error { return p.signal(unix.SIGSTOP) }); err != nil {
		return err
	}
	tick := time.NewTicker(balancerPoll)
	defer tick.Stop()
	for slices.ContainsFunc(running, func(p Process) bool { return p.running() && !p.stopped() }) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("the balancer does not stop: %w", ctx.Err())
		}
	}
	return nil
}

func (w *World) continueBalancer() error {
	running, err := w.processesOf(balancerRole)
	if err != nil {
		return err
	}
	return eachOf(running, func(p Process) error { return p.signal(unix.SIGCONT) })
}

// stopped says whether every thread of p is stopped.
func (p Process) stopped() bool {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/[0-9]*/stat", p.PID))
	if err != nil || len(threads) == 0 {
		return false
	}
	return !slices.ContainsFunc(threads, func(path string) bool {
		stat, err := os.ReadFile(path)
		if err != nil {
			return false // it has ended
		}
		state, _, err := parseStat(stat)
		return err == nil && state != 'T'
	})
}
