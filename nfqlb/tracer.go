// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
)

// tracer hands messages to the trace clients. Whoever has a message never
// waits for a client: what does not fit in a client's buffer is dropped, and
// the client is told how many messages that were.
type tracer struct {
	flows traceFlows

	mu      sync.Mutex
	clients []*traceClient
	dropped atomic.Uint64 // messages, of all clients
}

// traceBuffer is how much may wait for one client: some thousand packets.
const traceBuffer = 256 << 10

// traceClient is one client. The tracer's lock is for all but mask and wake.
type traceClient struct {
	mask   TraceMask
	wake   chan struct{} // holds one: there is something to take
	queued []byte
	lost   int // messages since the last that was queued
}

// attachTrace adds a client.
func (b *Balancer) attachTrace(mask TraceMask) *traceClient {
	c := &traceClient{mask: mask, wake: make(chan struct{}, 1)}
	t := &b.trace
	t.mu.Lock()
	t.clients = append(t.clients, c)
	b.tracing.Store(uint32(t.mask()))
	t.mu.Unlock()
	b.followTracing()
	return c
}

// detachTrace removes a client and returns what the others want.
func (b *Balancer) detachTrace(c *traceClient) TraceMask {
	t := &b.trace
	t.mu.Lock()
	t.clients = slices.DeleteFunc(t.clients, func(o *traceClient) bool { return o == c })
	mask := t.mask()
	b.tracing.Store(uint32(mask))
	t.mu.Unlock()
	b.followTracing()
	return mask
}

// mask is all that any client wants. t.mu is held.
func (t *tracer) mask() TraceMask {
	var mask TraceMask
	for _, c := range t.clients {
		mask |= c.mask
	}
	return mask
}

// emit gives a message to the clients that want any of which.
func (t *tracer) emit(which TraceMask, text []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.clients {
		if c.mask&which == 0 {
			continue
		}
		if len(c.queued)+len(text) > traceBuffer {
			c.lost++
			t.dropped.Add(1)
			continue
		}
		c.queued = append(c.queued, text...)
		select {
		case c.wake <- struct{}{}:
		default: // it is awake already
		}
	}
}

// take moves what waits for c to buf, which it returns.
func (t *tracer) take(c *traceClient, buf []byte) []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	buf, c.queued = c.queued, buf[:0]
	if c.lost > 0 {
		buf = fmt.Appendf(buf, "\n%d messages dropped: this client reads too slowly\n", c.lost)
		c.lost = 0
	}
	return buf
}

// TraceLine gives a line of the balancer's log to the trace clients that want
// the log.
func (b *Balancer) TraceLine(line []byte) {
	if TraceMask(b.tracing.Load())&TraceLog != 0 {
		b.trace.emit(TraceLog, line)
	}
}

// tracef gives a message that is no packet's to the clients that want it.
func (b *Balancer) tracef(which TraceMask, format string, args ...any) {
	if TraceMask(b.tracing.Load())&which != 0 {
		b.trace.emit(which, fmt.Appendf(nil, format, args...))
	}
}
