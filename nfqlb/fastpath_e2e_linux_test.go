// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"context"
	"testing"
)

func pathFlow(target string) FlowSpec {
	return FlowSpec{
		Name: "a", Target: target, Protocols: []string{"udp"}, DPorts: []string{"5000"},
		Dests: []string{vip4.String() + "/32", vip6.String() + "/128"},
	}
}

// shared makes the world's table, with all targets active, and a balancer that
// follows it.
func (w *pathWorld) shared(t testing.TB) (b *Balancer, dir, name string) {
	t.Helper()
	name = "tshm-stream-a"
	dir = t.TempDir()
	w.must(InitShared(dir, name, 0, 997, 32))
	for i := range w.targets {
		w.must(ActivateAt(dir, name, i, w.mark(i)))
	}
	b = NewBalancer(Config{}, func(name string) (*Table, error) { return LoadTable(dir, name) })
	w.must(b.SetFlow(pathFlow(name)))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.WatchShared(ctx, dir, nil) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return b, dir, name
}

// With the fast path all packets arrive and none goes through the queue; without
// it all go through the queue, and still arrive.
func TestFastPathEndToEnd(t *testing.T) {
	for _, redirect := range []bool{false, true} {
		name := "mark"
		if redirect {
			name = "redirect"
		}
		t.Run(name, func(t *testing.T) {
			w := newPathWorld(t, 2, 1)
			w.listen()
			b, _, _ := w.shared(t)
			e := serve(t, w.world, b, QueueConfig{})
			f, detach := w.attached(b, FastPathConfig{Redirect: redirect})
			const n = 500
			send := func(from int) {
				for k := from; k < from+n; k += 50 {
					for i := k; i < k+50; i++ {
						w.send(udp(i, i%2 == 1))
					}
					await(t, "the packets to arrive", func() bool { return w.received() >= uint64(k+50) })
				}
			}
			send(0)
			if s := f.Stats(); e.Stats().Packets != 0 || s.Placed < n || redirect != (s.Redirected >= n) {
				t.Errorf("with the fast path %d packets went through the queue: %+v", e.Stats().Packets, s)
			}
			if w.targets[0].received.Load() == 0 || w.targets[1].received.Load() == 0 {
				t.Errorf("one target got nothing")
			}
			flows := b.Flows("")
			if flows[0].MatchesCount < n {
				t.Errorf("the flow counts %d of %d packets", flows[0].MatchesCount, n)
			}
			detach()
			send(n)
			if got := e.Stats().Packets; got != n {
				t.Errorf("without the fast path %d of %d packets went through the queue", got, n)
			}
			if rules, err := queueRules(w.nft(), 0, 3); err != nil || len(rules) != 2 || rules[0].pass != nil {
				t.Errorf("rules after the end: %v, %v", rules, err)
			}
		})
	}
}

// No packet is lost while targets come and go, and none goes to a target after
// it went.
func TestFastPathTargetChangesLoseNothing(t *testing.T) {
	w := newPathWorld(t, 3, 1)
	w.listen()
	b, dir, name := w.shared(t)
	e := serve(t, w.world, b, QueueConfig{})
	f, _ := w.attached(b, FastPathConfig{})
	const rounds, burst = 40, 100
	sent, changes := 0, 0
	for round := range rounds {
		gone := round%2 == 0
		// The change happens under way: half of the packets are before it or at it.
		changed := make(chan error, 1)
		go func() {
			mark := -1
			if !gone {
				mark = w.mark(2)
			}
			changed <- ActivateAt(dir, name, 2, mark)
		}()
		for range burst {
			w.send(udp(sent, sent%2 == 1))
			sent++
		}
		w.must(<-changed)
		await(t, "the change", func() bool {
			_, _, mark := b.state.Load().flows[0].target.Table().Lookup(0)
			return mark >= 0 && (b.state.Load().flows[0].target.Table().active[2] < 0) == gone
		})
		b.Stats() // waits for the change in the kernel
		changes++
		await(t, "the packets", func() bool { return w.received() >= uint64(sent) })
		before := w.targets[2].received.Load()
		for range burst {
			w.send(udp(sent, sent%2 == 1))
			sent++
		}
		await(t, "the packets", func() bool { return w.received() >= uint64(sent) })
		if got := w.targets[2].received.Load() - before; gone != (got == 0) {
			t.Fatalf("target gone: %v, it got %d packets after the change", gone, got)
		}
	}
	if got := w.received(); got != uint64(sent) || e.Stats().Packets != 0 {
		t.Errorf("of %d packets %d arrived, %d through the queue: %+v", sent, got, e.Stats().Packets, f.Stats())
	}
	t.Logf("%d packets, %d target changes, none lost", sent, changes)
}

// While somebody traces packets they go through the queue, where they are seen.
func TestFastPathGivesWayToTracing(t *testing.T) {
	w := newPathWorld(t, 1, 1)
	w.listen()
	b, _, _ := w.shared(t)
	e := serve(t, w.world, b, QueueConfig{})
	w.attached(b, FastPathConfig{})
	w.send(udp(1, false))
	await(t, "a packet", func() bool { return w.received() == 1 })
	c := b.attachTrace(TracePacket)
	w.send(udp(2, false))
	await(t, "a traced packet", func() bool { return w.received() == 2 })
	if got := e.Stats().Packets; got != 1 || len(b.trace.take(c, nil)) == 0 {
		t.Errorf("%d packets through the queue, want the traced one", got)
	}
	b.detachTrace(c)
	w.send(udp(3, false))
	await(t, "a packet after tracing", func() bool { return w.received() == 3 })
	if got := e.Stats().Packets; got != 1 {
		t.Errorf("%d packets through the queue after tracing", got)
	}
}
