// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"context"
	"maps"
	"math/rand/v2"
	"net/netip"
	"testing"
)

// attached runs a fast path for b on the world's device until the returned
// function is called.
func (w *world) attached(b *Balancer, c FastPathConfig) (f *FastPath, detach func()) {
	w.t.Helper()
	c.NetNS, c.LastQueue = int(w.ns), 3
	if c.Devices == nil {
		c.Devices = []string{"nsm-*"}
	}
	f = fastPathFor(w.t, b, c)
	return f, f.running(w.t)
}

// running runs f until the returned function is called.
func (f *FastPath) running(t testing.TB) (detach func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- f.Run(ctx, func() { close(ready) }) }()
	stopped := false
	detach = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(detach)
	select {
	case <-ready:
	case err := <-done:
		stopped = true
		t.Fatal(err)
	}
	return detach
}

// Real packets of all kinds get the same marks through NFQUEUE alone, and with
// the fast path before it, as the reference says.
func TestFastPathMarksRealPackets(t *testing.T) {
	n := packetCount(t) / len(fastSetups())
	for _, setup := range fastSetups() {
		t.Run(setup.name, func(t *testing.T) {
			for _, fast := range []bool{false, true} {
				name := "queue alone"
				if fast {
					name = "fast path and queue"
				}
				t.Run(name, func(t *testing.T) { realPackets(t, &setup, n, fast) })
			}
		})
	}
}

func realPackets(t *testing.T, setup *fastSetup, n int, fast bool) {
	w := newWorld(t, 4)
	b, ref := setup.start(t)
	e := serve(t, w, b, QueueConfig{First: 0, Last: 3, Length: 4096})
	fastPackets := func() uint64 { return 0 }
	if fast {
		f, _ := w.attached(b, FastPathConfig{})
		fastPackets = func() uint64 { s := f.Stats(); return s.Placed + s.Marked }
	}
	r := rand.New(rand.NewPCG(3, 26))
	want := make(map[int]int)
	const burst = 250 // what the device's backlog holds
	var seen uint64   // packets that the engine or the fast path decide
	for sent := 0; sent < n; sent += burst {
		var packets [][]byte
		for range burst {
			p := anyPacket(r)
			packets = append(packets, p)
			kept := received(p)
			if kept == nil || !toVIP(kept) {
				continue
			}
			seen++
			if mark, _ := ref.decide(kept); mark >= 0 {
				want[mark]++
			}
		}
		w.send(packets...)
		await(t, "the packets to be decided", func() bool { return e.Stats().Packets+fastPackets() >= seen })
	}
	await(t, "the packets behind the queue", func() bool { return maps.Equal(w.counted(), want) || total(w.counted()) > total(want) })
	if got := w.counted(); !maps.Equal(got, want) {
		t.Fatalf("packets by mark\n got %v\nwant %v", got, want)
	}
	if fast && fastPackets() < seen/10 {
		t.Errorf("of %d packets only %d were decided by the fast path", seen, fastPackets())
	}
	t.Logf("%d packets: %d through the queue, %d by the fast path, marks %v", seen, e.Stats().Packets, fastPackets(), want)
	// Both are counted as the balancer counts.
	counted := 0
	for _, n := range b.Stats().Reasons {
		counted += int(n)
	}
	if decided := e.Stats().Packets + fastPackets(); counted != int(decided) {
		t.Errorf("%d packets decided, %d counted: %v", decided, counted, b.Stats().Reasons)
	}
}

// toVIP tells whether the world's rules queue the packet.
func toVIP(l3 []byte) bool {
	if l3[0]>>4 == 4 {
		return netip.AddrFrom4([4]byte(l3[16:20])) == vip4
	}
	return netip.AddrFrom16([16]byte(l3[24:40])) == vip6
}

func total(m map[int]int) (n int) {
	for _, v := range m {
		n += v
	}
	return n
}
