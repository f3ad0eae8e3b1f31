// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
)

// traceFlows are the flows that pick packets for tracing. They have no target
// and decide nothing. ICMP with an address of theirs is picked whatever else
// they ask for.
type traceFlows struct {
	state atomic.Pointer[State] // nil: none was ever set

	mu   sync.Mutex
	list []*flow
}

// SetTraceFlow adds a trace-flow or replaces the one of the same name and keeps
// its count.
func (b *Balancer) SetTraceFlow(spec FlowSpec) error {
	if spec.UDPEncap != 0 {
		return errors.New("udpencap is not for a trace-flow")
	}
	spec.Target = ""
	f, err := compileFlow(spec)
	if err != nil {
		return err
	}
	t := &b.trace.flows
	t.mu.Lock()
	defer t.mu.Unlock()
	list := slices.Clone(t.list)
	if i := t.index(spec.Name); i >= 0 {
		f.matches = list[i].matches
		list[i] = f
	} else {
		list = append(list, f)
	}
	t.publish(list)
	return nil
}

// DeleteTraceFlow removes a trace-flow; the error is ErrNoFlow if there is none.
func (b *Balancer) DeleteTraceFlow(name string) error {
	t := &b.trace.flows
	t.mu.Lock()
	defer t.mu.Unlock()
	i := t.index(name)
	if i < 0 {
		return ErrNoFlow
	}
	t.publish(slices.Delete(slices.Clone(t.list), i, i+1))
	return nil
}

// TraceFlows lists the trace-flows in matching order; a name other than ""
// picks one.
func (b *Balancer) TraceFlows(name string) []FlowStatus {
	s := b.trace.flows.state.Load()
	if s == nil {
		return nil
	}
	var out []FlowStatus
	for _, f := range s.flows {
		if name == "" || f.spec.Name == name {
			out = append(out, FlowStatus{f.spec, f.matches.Load()})
		}
	}
	return out
}

func (t *traceFlows) index(name string) int {
	return slices.IndexFunc(t.list, func(f *flow) bool { return f.spec.Name == name })
}

// publish puts list in force. t.mu is held.
func (t *traceFlows) publish(list []*flow) {
	t.list = list
	if len(list) == 0 {
		t.state.Store(nil)
		return
	}
	t.state.Store(newState(Config{PromiscuousPing: true}, list))
}

// match finds the trace-flow for the packet l3, which it parses into p. UDP
// that carries SCTP is UDP here.
func (t *traceFlows) match(l3 []byte, p *Packet) *flow {
	s := t.state.Load()
	if s == nil {
		return nil
	}
	return Decide(s, l3, p).flow
}

// answerTrace answers the commands about trace-flows.
func (b *Balancer) answerTrace(cmd *Command) []byte {
	switch cmd.Action {
	case "trace-set":
		if err := b.SetTraceFlow(cmd.Flow); err != nil {
			return reply(err.Error())
		}
		return reply("") // nfqlb forgets to answer
	case "trace-delete":
		if cmd.Flow.Name == "" {
			return reply("no name")
		}
		if err := b.DeleteTraceFlow(cmd.Flow.Name); err != nil && !errors.Is(err, ErrNoFlow) {
			return reply(err.Error())
		}
		return reply("")
	case "trace-list":
		return formatList(b.TraceFlows(cmd.Flow.Name), cmd.Flow.Name)
	case "trace-list-names":
		return FormatNames(b.TraceFlows(""))
	}
	return reply(fmt.Sprintf("action unknown: %q", cmd.Action))
}

// formatList is the answer to a list command: all flows, or the one of a name.
func formatList(flows []FlowStatus, name string) []byte {
	switch {
	case name == "":
		return FormatFlows(flows)
	case len(flows) == 0:
		return nil
	}
	return FormatFlow(flows[0])
}

// SetTraceFlow sets a trace-flow of the balancer in this network namespace.
func SetTraceFlow(ctx context.Context, spec FlowSpec) error {
	answer, err := Do(ctx, &Command{Action: "trace-set", Flow: spec})
	if err != nil || len(answer) == 0 { // nfqlb says nothing when all is well
		return err
	}
	return checkOK(answer)
}

// DeleteTraceFlow deletes a trace-flow of the balancer in this network
// namespace.
func DeleteTraceFlow(ctx context.Context, name string) error {
	return doOK(ctx, &Command{Action: "trace-delete", Flow: FlowSpec{Name: name}})
}
