// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// QueueConfig says which NFQUEUEs to serve and how. The zero value serves
// queue 0 of the calling thread's network namespace.
type QueueConfig struct {
	First, Last uint16 // queue numbers, both included; Last 0 with First above: First alone
	Length      uint32 // packets the kernel keeps for each queue; 0: 1024
	NetNS       int    // file descriptor of the network namespace; 0: the caller's
	CopyRange   int    // bytes of a packet that are looked at, the MTU if fragments are kept; 0: enough for headers
	FailOpen    bool   // packets for which a queue is full pass without a mark, instead of being dropped
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

	// ownerCheck is how often the engine asks the kernel whether the queues
	// are still its own. A queue that is not brings no packets, nor any error.
	ownerCheck = 2 * time.Second
)

// EngineStats counts what went over the queues' sockets.
type EngineStats struct {
	Packets       uint64 `json:"packets"`        // received
	Batches       uint64 `json:"batches"`        // receive calls that brought packets
	Malformed     uint64 `json:"malformed"`      // messages that were no whole packet
	VerdictErrors uint64 `json:"verdict_errors"` // verdicts the kernel did not take
	Flushed       uint64 `json:"flushed"`        // packets that had a verdict to pass, but the kernel had dropped them since a base chain went
	Overruns      uint64 `json:"overruns"`       // times the kernel said that messages were lost
}

// Engine feeds packets from NFQUEUEs to a balancer and its verdicts back.
type Engine struct {
	b        *Balancer
	config   QueueConfig
	adopted  []int                        // sockets of bound queues, from First on; nil: Run binds them
	loops    atomic.Pointer[[]*batchLoop] // that serve the queues now
	buffer   atomic.Int64
	handover chan chan *Handover
	ended    chan struct{}
	stats    engineCounters
}

type engineCounters struct{ packets, batches, malformed, verdictErrors, flushed, overruns counter }

// inherit goes on counting where another engine ended.
func (c *engineCounters) inherit(s *EngineStats) {
	c.packets.Add(s.Packets)
	c.batches.Add(s.Batches)
	c.malformed.Add(s.Malformed)
	c.verdictErrors.Add(s.VerdictErrors)
	c.flushed.Add(s.Flushed)
	c.overruns.Add(s.Overruns)
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
	e := &Engine{b: b, config: c, handover: make(chan chan *Handover), ended: make(chan struct{})}
	b.mu.Lock()
	b.settle = e.settle
	b.mu.Unlock()
	return e
}

// Stats takes a look at the counters.
func (e *Engine) Stats() EngineStats {
	return EngineStats{
		Packets: e.stats.packets.Load(), Batches: e.stats.batches.Load(),
		Malformed: e.stats.malformed.Load(), VerdictErrors: e.stats.verdictErrors.Load(),
		Flushed: e.stats.flushed.Load(), Overruns: e.stats.overruns.Load(),
	}
}

// ReceiveBuffer is the size of a queue's socket buffer as the kernel has it, in
// bytes: twice what was asked for, or less without CAP_NET_ADMIN
// (net.core.rmem_max). It is 0 before Run is ready.
func (e *Engine) ReceiveBuffer() int { return int(e.buffer.Load()) }

// Run binds the queues, calls ready, and serves them until ctx ends or a queue
// fails. At the end of ctx it lets no more packets in, gives those that wait
// their verdicts, and unbinds. It returns nil, too, when the queues were handed
// over. An engine runs once.
//
// Each queue has a thread that holds on to a processor of the Go scheduler
// while packets come, so Run raises GOMAXPROCS to the number of queues and two
// more.
func (e *Engine) Run(ctx context.Context, ready func()) error {
	defer close(e.ended)
	count := int(e.config.Last-e.config.First) + 1
	if n := count + 2; runtime.GOMAXPROCS(0) < n {
		runtime.GOMAXPROCS(n)
	}
	queues, err := e.open()
	defer func() {
		for _, q := range queues {
			q.close()
		}
	}()
	if err != nil {
		return err
	}
	if size, err := unix.GetsockoptInt(queues[0].fd, unix.SOL_SOCKET, unix.SO_RCVBUF); err == nil {
		e.buffer.Store(int64(size))
	}
	if ready != nil {
		ready()
	}
	check := time.NewTicker(ownerCheck)
	defer check.Stop()
	for {
		s, err := e.serve(queues)
		if err != nil {
			return err
		}
		var asked chan *Handover
		for asked == nil {
			select {
			case err := <-s.ended:
				return err // not asked to end, so it is one
			case <-ctx.Done():
				return errors.Join(s.end(), e.drain(queues))
			case <-check.C:
				for _, q := range queues {
					if err := q.limit(e.config.Length); err != nil {
						return errors.Join(fmt.Errorf("queue %d: %w", q.number, err), s.end())
					}
				}
			case asked = <-e.handover:
			}
		}
		if err := s.end(); err != nil {
			return err
		}
		h := newHandover(queues)
		asked <- h
		if <-h.taken {
			return nil
		}
	}
}

// open binds the queues, or adopts those of another process. What it opened
// before an error is returned with it.
func (e *Engine) open() (queues []*queue, err error) {
	for n := int(e.config.First); n <= int(e.config.Last); n++ {
		var q *queue
		if e.adopted != nil {
			q, err = e.adopt(uint16(n), e.adopted[n-int(e.config.First)])
		} else {
			q, err = e.bind(uint16(n))
		}
		if q != nil {
			queues = append(queues, q)
		}
		if err != nil {
			return queues, err
		}
	}
	return queues, nil
}

// serving is one stretch of serving the queues, a goroutine for each.
type serving struct {
	stop  *waker
	ended chan error // once all goroutines have ended; the first failure
}

func (e *Engine) serve(queues []*queue) (*serving, error) {
	stop, err := newWaker()
	if err != nil {
		return nil, err
	}
	s := &serving{stop: stop, ended: make(chan error, 1)}
	var running sync.WaitGroup
	var failed atomic.Pointer[error]
	loops := make([]*batchLoop, len(queues))
	for i, q := range queues {
		loops[i] = newBatchLoop(e, q.number, q.fd, stop)
	}
	e.loops.Store(&loops)
	for i, q := range queues {
		running.Go(func() {
			if err := loops[i].run(); err != nil {
				err = fmt.Errorf("queue %d: %w", q.number, err)
				failed.CompareAndSwap(nil, &err)
				stop.wake()
			}
		})
	}
	go func() {
		running.Wait()
		stop.close()
		if err := failed.Load(); err != nil {
			s.ended <- *err
			return
		}
		s.ended <- nil
	}()
	return s, nil
}

// end ends the goroutines after the verdicts of what they received.
func (s *serving) end() error {
	s.stop.wake()
	return <-s.ended
}

// settle waits until each batch of packets that is being decided has its
// verdicts. It gives up on one that takes unreasonably long.
func (e *Engine) settle() {
	loops := e.loops.Load()
	if loops == nil {
		return
	}
	for _, l := range *loops {
		batch := l.batch.Load()
		for limit := time.Now().Add(time.Second); batch%2 == 1 && l.batch.Load() == batch && time.Now().Before(limit); {
			time.Sleep(settlePause)
		}
	}
}

// settlePause is about what a batch takes.
const settlePause = 50 * time.Microsecond

// drain closes the queues for new packets and gives the waiting ones their
// verdicts. What unbinding finds in a queue the kernel drops.
func (e *Engine) drain(queues []*queue) error {
	var errs []error
	for _, q := range queues {
		err := q.limit(0)
		if err == nil {
			err = newBatchLoop(e, q.number, q.fd, nil).drain()
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("queue %d: drain: %w", q.number, err))
		}
	}
	return errors.Join(errs...)
}
