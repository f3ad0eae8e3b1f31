// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
)

// QueueConfig says which NFQUEUEs to serve and how. The zero value serves
// queue 0 of the calling thread's network namespace.
type QueueConfig struct {
	First, Last uint16 // queue numbers, both included; Last 0 with First above: First alone
	Length      uint32 // packets the kernel keeps for each queue; 0: 1024
	NetNS       int    // file descriptor of the network namespace; 0: the caller's
	CopyRange   int    // bytes of a packet that are looked at, the MTU if fragments are kept; 0: enough for headers
}

// How a queue is set up.
const (
	defaultQueueLength = 1024

	// copyRange is how much of a packet is looked at if not said. The longest header chain
	// that IPv4 can have, with a quoted one and encapsulation, ends at 148
	// bytes; IPv6 extension headers have the rest. It is the least MTU that
	// nfqlb takes. Copying less of each packet is the larger part of what can
	// be gained over nfqlb for large packets.
	copyRange = 576

	// packetMemory is about what a queued packet costs the socket's receive
	// buffer. nfqlb asks for less and loses packets before its queue is full.
	packetMemory     = 4096
	minReceiveBuffer = 8 << 20
)

// EngineStats counts what went over the queues' sockets.
type EngineStats struct {
	Packets       uint64 `json:"packets"`        // received
	Batches       uint64 `json:"batches"`        // receive calls that brought packets
	Malformed     uint64 `json:"malformed"`      // messages that were no whole packet
	VerdictErrors uint64 `json:"verdict_errors"` // verdicts the kernel did not take
}

// Engine feeds packets from NFQUEUEs to a balancer and its verdicts back.
type Engine struct {
	b      *Balancer
	config QueueConfig
	stats  struct{ packets, batches, malformed, verdictErrors counter }
}

// NewEngine prepares an engine; Run starts it.
func NewEngine(b *Balancer, c QueueConfig) *Engine {
	if c.Last < c.First {
		c.Last = c.First
	}
	if c.Length == 0 {
		c.Length = defaultQueueLength
	}
	if c.CopyRange == 0 {
		c.CopyRange = copyRange
	}
	return &Engine{b: b, config: c}
}

// Stats takes a look at the counters.
func (e *Engine) Stats() EngineStats {
	return EngineStats{
		Packets: e.stats.packets.Load(), Batches: e.stats.batches.Load(),
		Malformed: e.stats.malformed.Load(), VerdictErrors: e.stats.verdictErrors.Load(),
	}
}

// Run binds the queues, calls ready, and serves them until ctx ends or a queue
// fails; then it unbinds. Packets that wait in a queue at that time are
// dropped by the kernel.
//
// Each queue has a thread that holds on to a processor of the Go scheduler
// while packets come, so Run raises GOMAXPROCS to the number of queues and two
// more.
func (e *Engine) Run(ctx context.Context, ready func()) error {
	queues := int(e.config.Last-e.config.First) + 1
	if n := queues + 2; runtime.GOMAXPROCS(0) < n {
		runtime.GOMAXPROCS(n)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	var running sync.WaitGroup
	var failed atomic.Pointer[error]
	for n := int(e.config.First); n <= int(e.config.Last); n++ {
		q, err := e.open(uint16(n))
		if err != nil {
			cancel()
			running.Wait()
			return err
		}
		running.Go(func() {
			if err := q.run(ctx); err != nil {
				err = fmt.Errorf("queue %d: %w", q.number, err)
				failed.CompareAndSwap(nil, &err)
				cancel()
			}
		})
	}
	if ready != nil {
		ready()
	}
	running.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

var errQueueEnded = errors.New("the queue's socket failed")
