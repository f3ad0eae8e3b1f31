// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

import (
	"context"

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
			break_: func(_ context.Context, w *World) error { return w.signalBalancer(unix.SIGSTOP) },
			fix:    func(_ context.Context, w *World) error { return w.signalBalancer(unix.SIGCONT) },
		},
	}
}

func (w *World) signalBalancer(sig unix.Signal) error {
	running, err := w.processesOf(balancerRole)
	if err != nil {
		return err
	}
	return eachOf(running, func(p Process) error { return p.signal(sig) })
}
