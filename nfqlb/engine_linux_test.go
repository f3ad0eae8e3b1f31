// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"context"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// serve runs an engine for b in w until the test ends.
func serve(t testing.TB, w *world, b *Balancer, c QueueConfig) *Engine {
	t.Helper()
	c.NetNS = int(w.ns)
	e := NewEngine(b, c)
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- e.Run(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-done:
		cancel()
		unavailable(t, "NFQUEUE: %v", err)
	}
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("engine ended with: %v", err)
		}
	})
	return e
}

// Every packet gets the mark that Decide says, and no packet that Decide drops
// comes out.
func TestEngineMarksAsDecided(t *testing.T) {
	w := newWorld(t, 4)
	c := Config{PromiscuousPing: true}
	b := meridio(t, c, 47, 57, 66, 89)
	e := serve(t, w, b, QueueConfig{First: 0, Last: 3})

	packets := traffic(rand.New(rand.NewPCG(1, 2)), 3000)
	want := make(map[int]int)
	oracle := meridio(t, c, 47, 57, 66, 89)
	for _, raw := range packets {
		var p Packet
		if d := oracle.Decide(raw, &p); d.Accept {
			want[d.Mark]++
		}
	}
	if len(want) != 4 || oracle.Stats().Reasons[NoFlow.String()] == 0 {
		t.Fatalf("the traffic shows too little: %v", oracle.Stats())
	}
	for len(packets) > 0 { // in bursts that the veth's backlog can hold
		n := min(len(packets), 200)
		sent := e.Stats().Packets
		w.send(packets[:n]...)
		await(t, "the queue to be served", func() bool { return e.Stats().Packets >= sent+uint64(n) })
		packets = packets[n:]
	}
	total := func(m map[int]int) (n int) {
		for v := range maps.Values(m) {
			n += v
		}
		return n
	}
	await(t, "the packets behind the queue", func() bool { return total(w.counted()) >= total(want) })
	if got := w.counted(); !maps.Equal(got, want) {
		t.Fatalf("packets by mark\n got %v\nwant %v\nstats %+v", got, want, e.Stats())
	}
	if s := e.Stats(); s.Malformed+s.VerdictErrors != 0 {
		t.Errorf("engine stats %+v", s)
	}
	if got, want := b.Stats(), oracle.Stats(); !maps.Equal(got.Reasons, want.Reasons) {
		t.Errorf("reasons %v, want %v", got.Reasons, want.Reasons)
	}
}

// No packet is lost while targets come and go all the time.
func TestEngineTargetChangesLoseNothing(t *testing.T) {
	w := newWorld(t, 1)
	name := "tshm-stream-a"
	dir := sharedTable(t, name, 47, 57, 66, 89)
	b := NewBalancer(Config{}, func(name string) (*Table, error) { return LoadTable(dir, name) })
	if err := b.SetFlow(FlowSpec{Name: "all", Target: name}); err != nil {
		t.Fatal(err)
	}
	e := serve(t, w, b, QueueConfig{})
	ctx, cancel := context.WithCancel(context.Background())
	watch := make(chan error, 1)
	go func() { watch <- b.WatchShared(ctx, dir, nil) }()
	t.Cleanup(func() {
		cancel()
		if err := <-watch; err != nil {
			t.Error(err)
		}
	})

	const rounds, burst = 60, 100
	r := rand.New(rand.NewPCG(3, 4))
	for i := range rounds {
		var err error
		if i%2 == 0 {
			err = DeactivateAt(dir, name, 57)
		} else {
			err = ActivateAt(dir, name, 57, 5058)
		}
		if err != nil {
			t.Fatal(err)
		}
		sent := e.Stats().Packets
		w.send(traffic(r, burst)...)
		await(t, "the queue to be served", func() bool { return e.Stats().Packets >= sent+burst })
	}
	if got := b.Stats().Reasons; got[""] != rounds*burst || len(got) != 1 {
		t.Fatalf("of %d packets: %v", rounds*burst, got)
	}
	got := w.counted()
	var marks []int
	for m := range got {
		marks = append(marks, m)
	}
	slices.Sort(marks)
	if !slices.Equal(marks, []int{5048, 5058, 5067, 5090}) {
		t.Fatalf("packets by mark: %v", got)
	}
}

// The queue's thread waits in raw system calls. A garbage collection, which has
// to stop it, must not wait with it, however much or little traffic there is.
func TestEngineLetsGarbageCollectorIn(t *testing.T) {
	w := newWorld(t, 4)
	b := meridio(t, Config{PromiscuousPing: true}, 47)
	e := serve(t, w, b, QueueConfig{First: 0, Last: 3})
	packets := traffic(rand.New(rand.NewPCG(11, 12)), 64)
	var slowest time.Duration
	for i := range 60 {
		// Busy, just idle and long idle: the three ways to wait.
		if i%3 != 2 {
			w.send(packets...)
		}
		if i%3 == 2 {
			time.Sleep(2 * idleAfter)
		}
		start := time.Now()
		runtime.GC()
		slowest = max(slowest, time.Since(start))
	}
	t.Logf("slowest collection %v, engine %+v", slowest, e.Stats())
	if slowest > 5*time.Second { // it is some 10 ms, more on a busy machine
		t.Fatalf("a garbage collection took %v", slowest)
	}
}

func TestEngineRefusesBusyQueue(t *testing.T) {
	w := newWorld(t, 1)
	b := meridio(t, Config{}, 1)
	serve(t, w, b, QueueConfig{})
	second := NewEngine(b, QueueConfig{NetNS: int(w.ns)})
	err := second.Run(t.Context(), nil)
	if err == nil || !strings.Contains(err.Error(), "nfnetlink_queue") {
		t.Fatalf("a second engine on the queue: %v", err)
	}
}

// BenchmarkEngine is one queue, fed from this process: both share the
// machine's processors, so its packets per second are a lower bound.
func BenchmarkEngine(b *testing.B) {
	w := newWorld(b, 1)
	e := serve(b, w, meridio(b, Config{PromiscuousPing: true}, 47, 57, 66, 89), QueueConfig{Length: 4096})
	packets := traffic(rand.New(rand.NewPCG(7, 8)), 64)
	b.ReportAllocs()
	b.ResetTimer()
	sent := uint64(0)
	for sent < uint64(b.N) {
		w.send(packets...)
		sent += uint64(len(packets))
		for sent-e.Stats().Packets > 2048 {
			runtime.Gosched()
		}
	}
	await(b, "the last packets", func() bool { return e.Stats().Packets >= sent })
	s := e.Stats()
	b.ReportMetric(float64(s.Packets)/b.Elapsed().Seconds(), "packets/s")
	b.ReportMetric(float64(s.Packets)/float64(s.Batches), "packets/batch")
}
