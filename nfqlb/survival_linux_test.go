// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What becomes of packets when the engine starts, stops, is robbed of its
// queue, or cannot follow.

// steadyRate is low enough for an emulated machine.
const steadyRate = 2000

// steadyTraffic is packets that all have a target.
func steadyTraffic(n int) (out [][]byte) {
	r := rand.New(rand.NewPCG(21, 22))
	oracle := NewBalancer(Config{}, func(string) (*Table, error) { return NewTable(7, 1, []int{1}) })
	if err := oracle.SetFlow(allFlow()); err != nil {
		panic(err)
	}
	for len(out) < n {
		for _, raw := range traffic(r, n) {
			var p Packet
			if oracle.Decide(raw, &p).Accept && len(out) < n {
				out = append(out, raw)
			}
		}
	}
	return out
}

func allFlow() FlowSpec { return FlowSpec{Name: "all", Target: "tshm-stream-a"} }

// start runs an engine until end is called.
func start(t *testing.T, e *Engine) (end func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- e.Run(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-done:
		cancel()
		t.Fatalf("the engine did not start: %v", err)
	}
	ended := false
	end = func() error {
		ended = true
		cancel()
		return <-done
	}
	t.Cleanup(func() {
		if !ended {
			end()
		}
	})
	return end
}

// everything is a balancer that places every packet.
func everything(t *testing.T) *Balancer {
	t.Helper()
	b := meridio(t, Config{}, 47, 57, 66, 89)
	if err := b.SetFlow(allFlow()); err != nil {
		t.Fatal(err)
	}
	return b
}

func sumOf(counted map[int]int) (n uint64) {
	for _, c := range counted {
		n += uint64(c)
	}
	return n
}

// The engine starts and ends while packets come, and every packet that it
// received passes with its verdict: none is thrown away by the end.
func TestEngineStartsAndDrainsUnderTraffic(t *testing.T) {
	w := newWorld(t, 1)
	s := w.sender(steadyTraffic(256))
	s.constantly(10 * steadyRate)
	received := uint64(0)
	for range 15 {
		e := NewEngine(everything(t), QueueConfig{NetNS: int(w.ns), Length: 8192})
		end := start(t, e)
		await(t, "packets", func() bool { return e.Stats().Packets > 50 })
		if err := end(); err != nil {
			t.Fatalf("the engine ended with %v", err)
		}
		st := e.Stats()
		if st.VerdictErrors+st.Flushed+st.Malformed != 0 {
			t.Fatalf("packets were lost: %+v", st)
		}
		received += st.Packets
	}
	if passed := sumOf(w.counted()); passed != received {
		t.Fatalf("of %d packets that the engine received, %d passed", received, passed)
	}
}

// What waits in the queue at the end passes with its verdict.
func TestEngineDrainsWhatWaits(t *testing.T) {
	w := newWorld(t, 1)
	e := NewEngine(everything(t), QueueConfig{NetNS: int(w.ns)})
	end := start(t, e)
	h, err := e.HandOver()
	if err != nil {
		t.Fatal(err)
	}
	const waiting = 500
	w.sender(steadyTraffic(50)).send(waiting)
	await(t, "the queue", func() bool { return w.queueLine()[2] == waiting })
	h.Resume()
	if err := end(); err != nil {
		t.Fatal(err)
	}
	if passed := sumOf(w.counted()); passed != waiting {
		t.Fatalf("%d packets waited at the end, %d passed", waiting, passed)
	}
}

// queueLine is the numbers that the kernel shows of queue 0; see
// parseKernelQueues.
func (w *world) queueLine() (out [9]uint64) {
	w.t.Helper()
	w.inNS(func() {
		for f := range procRows("/proc/thread-self/net/netfilter/nfnetlink_queue") {
			for i := range min(len(f), len(out)) {
				n, err := strconv.ParseUint(f[i], 10, 64)
				w.must(err)
				out[i] = n
			}
			return
		}
	})
	return out
}

// A queue that is full drops, and counts it; with FailOpen the packets pass
// without a mark.
func TestEngineFullQueue(t *testing.T) {
	for _, open := range []bool{false, true} {
		w := newWorld(t, 1)
		const length, sent = 100, 300
		e := NewEngine(everything(t), QueueConfig{NetNS: int(w.ns), Length: length, FailOpen: open})
		end := start(t, e)
		h, err := e.HandOver() // nobody reads
		if err != nil {
			t.Fatal(err)
		}
		w.sender(steadyTraffic(50)).send(sent)
		unmarked := 0
		if open {
			unmarked = sent - length
		}
		await(t, "the packets", func() bool { return w.queueLine()[2] == length && w.counted()[0] == unmarked })
		if dropped := w.queueLine()[5]; dropped != uint64(sent-length-unmarked) {
			t.Errorf("fail-open %v: %d packets dropped from the full queue, want %d", open, dropped, sent-length-unmarked)
		}
		h.Resume()
		if err := end(); err != nil {
			t.Fatal(err)
		}
		if passed := sumOf(w.counted()); passed != uint64(length+unmarked) {
			t.Errorf("fail-open %v: %d packets passed, want %d", open, passed, length+unmarked)
		}
	}
}

// Removing a base chain makes the kernel drop what waits in the namespace's
// queues. The engine counts each such packet and goes on.
func TestEngineCountsFlushedPackets(t *testing.T) {
	w := newWorld(t, 1)
	e := serve(t, w, everything(t), QueueConfig{})
	h, err := e.HandOver()
	if err != nil {
		t.Fatal(err)
	}
	const waiting = 200
	s := w.sender(steadyTraffic(50))
	s.send(waiting)
	await(t, "the queue", func() bool { return w.queueLine()[2] == waiting })
	w.removeRules()
	h.Resume()
	await(t, "the count", func() bool { return e.Stats().Flushed == waiting })
	w.rules(1, 0)
	s.send(100)
	await(t, "packets after the rules came back", func() bool { return sumOf(w.counted()) == 100 })
	if st := e.Stats(); st.VerdictErrors != 0 {
		t.Errorf("stats %+v", st)
	}
}

// An engine whose queue is another's ends and says so: it would wait for
// packets for ever.
func TestEngineNoticesLostQueue(t *testing.T) {
	w := newWorld(t, 1)
	e := NewEngine(everything(t), QueueConfig{NetNS: int(w.ns)})
	done := make(chan error, 1)
	ready := make(chan struct{})
	go func() { done <- e.Run(t.Context(), func() { close(ready) }) }()
	<-ready
	h, err := e.HandOver()
	if err != nil {
		t.Fatal(err)
	}
	q := &queue{fd: h.Sockets[0]}
	if err := q.unbind(); err != nil {
		t.Fatal(err)
	}
	other := NewEngine(everything(t), QueueConfig{NetNS: int(w.ns)})
	start(t, other)
	h.Resume()
	select {
	case err := <-done:
		if !errors.Is(err, errQueueTaken) {
			t.Fatalf("ended with: %v", err)
		}
	case <-time.After(3 * ownerCheck):
		t.Fatal("the engine did not notice that its queue is gone")
	}
}

// unbind gives the queue up and keeps the socket.
func (q *queue) unbind() error {
	const nfqaCfgCmd, unbind = 1, 2
	return q.configure(attribute{nfqaCfgCmd, []byte{unbind, 0, 0, unix.AF_INET}})
}

// Should the kernel report lost messages although the engine asked it not to,
// that is counted and no reason to end.
func TestEngineSurvivesOverrun(t *testing.T) {
	w := newWorld(t, 1)
	e := serve(t, w, everything(t), QueueConfig{Length: 4096})
	h, err := e.HandOver()
	if err != nil {
		t.Fatal(err)
	}
	fd := h.Sockets[0]
	w.must(unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_NO_ENOBUFS, 0))
	w.must(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<10))
	s := w.sender(steadyTraffic(50))
	const sent = 1000
	s.send(sent)
	await(t, "the socket to overflow", func() bool { return w.queueLine()[6] > 0 })
	h.Resume()
	await(t, "the overrun", func() bool { return e.Stats().Overruns > 0 })
	await(t, "every packet to pass or be counted", func() bool {
		return sumOf(w.counted())+w.queueLine()[6] == sent
	})
	passed := sumOf(w.counted())
	s.send(10)
	await(t, "packets after it", func() bool { return sumOf(w.counted()) == passed+10 })
}

// A second engine learns who has the queue.
func TestEngineNamesOwnerOfQueue(t *testing.T) {
	w := newWorld(t, 1)
	serve(t, w, everything(t), QueueConfig{})
	owner := ""
	w.inNS(func() { owner = queueOwner(0) })
	if !strings.HasPrefix(owner, "process ") || !strings.Contains(owner, "nfqlb") {
		t.Errorf("the queue's owner is %q, want this process", owner)
	}
	w.inNS(func() { owner = queueOwner(7) })
	if owner != "" {
		t.Errorf("a free queue's owner is %q", owner)
	}
}
