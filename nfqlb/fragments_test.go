// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"
)

// fragmented is the packet with payload behind the IP header in fragments of
// size bytes each.
func fragmented(src, dst netip.Addr, proto uint8, id uint32, size int, payload []byte) (out [][]byte) {
	for at := 0; at < len(payload); at += size {
		end := min(at+size, len(payload))
		more := end < len(payload)
		if src.Is4() {
			frag := uint16(at / 8)
			if more {
				frag |= 0x2000
			}
			out = append(out, wire(ipv4(src, dst, proto, uint16(id), frag, payload[at:end])))
			continue
		}
		out = append(out, wire(ipv6(src, dst, extFragment, frag6(proto, uint16(at), more, id), payload[at:end])))
	}
	return out
}

// fragWorld is a balancer with a clock that stands still and a list for what
// it gives back to the kernel.
type fragWorld struct {
	*Balancer
	t        testing.TB
	now      time.Duration
	injected [][]byte
}

func newFragWorld(t testing.TB, change func(*FragmentConfig)) *fragWorld {
	w := &fragWorld{Balancer: meridio(t, Config{}, 47, 57, 66, 89), t: t}
	c := DefaultFragments()
	c.now = func() time.Duration { return w.now }
	c.Inject = func(p []byte) error {
		w.injected = append(w.injected, bytes.Clone(p))
		return nil
	}
	if change != nil {
		change(&c)
	}
	if err := w.TrackFragments(c); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *fragWorld) send(packet []byte) Decision {
	var p Packet
	return w.Decide(packet, &p)
}

// expect sends packets and wants the same decision for each.
func (w *fragWorld) expect(mark int, why Reason, packets ...[]byte) {
	w.t.Helper()
	for i, raw := range packets {
		if d := w.send(raw); d.Mark != mark || d.Why != why || d.Accept != (mark >= 0) {
			w.t.Fatalf("packet %d: %+v (%s), want mark %d and %q", i, d, d.Why, mark, why)
		}
	}
}

// expectInjected wants exactly these packets to have been given back since.
func (w *fragWorld) expectInjected(packets ...[]byte) {
	w.t.Helper()
	if !slices.EqualFunc(w.injected, packets, bytes.Equal) {
		w.t.Fatalf("given back:\n%x\nwant\n%x", w.injected, packets)
	}
	w.injected = nil
}

// markOf is what the whole packet gets.
func (w *fragWorld) markOf(src, dst netip.Addr, proto uint8, payload []byte) int {
	var p Packet
	var whole []byte
	if src.Is4() {
		whole = ipv4(src, dst, proto, 0, 0, payload)
	} else {
		whole = ipv6(src, dst, proto, payload)
	}
	d := Decide(w.state.Load(), whole, &p)
	return d.Mark
}

// checkEmpty lets everything expire and looks for what was not freed.
func (w *fragWorld) checkEmpty() {
	w.t.Helper()
	w.now += w.frags.config.TTL
	s := w.FragStats()
	if s.Active != 0 || s.BucketsUsed != 0 || s.Collisions != 0 {
		w.t.Fatalf("still in use: %+v", s)
	}
	f := w.frags
	count := func(i int32, next func(int32) int32) (n int) {
		for ; i != none; i = next(i) {
			n++
		}
		return n
	}
	if n := count(f.free, func(i int32) int32 { return f.entries[i].next }); n != len(f.entries) {
		w.t.Fatalf("%d of %d entries are free", n, len(f.entries))
	}
	if n := count(f.store.free, func(i int32) int32 { return f.store.items[i].next }); n != len(f.store.items) {
		w.t.Fatalf("%d of %d packet places are free", n, len(f.store.items))
	}
	if len(f.holes.free) != len(f.holes.all) {
		w.t.Fatalf("%d of %d lists of holes are free", len(f.holes.free), len(f.holes.all))
	}
	if f.oldest != none || f.newest != none {
		w.t.Fatal("the list by age is not empty")
	}
}

func udpPayload(sport, dport uint16, n int) []byte {
	b := make([]byte, n)
	copy(b, ports(sport, dport)[:4])
	binary.BigEndian.PutUint16(b[4:], uint16(n))
	for i := 8; i < n; i++ {
		b[i] = byte(i)
	}
	return b
}

var fragFamilies = []struct {
	name     string
	src, dst netip.Addr
}{{"v4", src4, dst4}, {"v6", src6, dst6}}

func TestFragmentOrders(t *testing.T) {
	for _, family := range fragFamilies {
		t.Run(family.name, func(t *testing.T) {
			id := uint32(0x1000)
			datagram := func(w *fragWorld) ([][]byte, int) {
				id++
				payload := udpPayload(uint16(id), 5001, 4000)
				return fragmented(family.src, family.dst, protoUDP, id, 1400, payload), w.markOf(family.src, family.dst, protoUDP, payload)
			}
			t.Run("in order", func(t *testing.T) {
				w := newFragWorld(t, nil)
				f, mark := datagram(w)
				w.expect(mark, Decided, f...)
				w.expectInjected()
				// As in nfqlb, a flow counts the packets that were compared with it.
				if n := w.Flows("")[0].MatchesCount; n != 1 {
					t.Errorf("the flow counts %d matches", n)
				}
				w.checkEmpty()
			})
			t.Run("reversed", func(t *testing.T) {
				w := newFragWorld(t, nil)
				f, mark := datagram(w)
				w.expect(-1, FragmentKept, f[2], f[1])
				w.expect(mark, Decided, f[0])
				w.expectInjected(f[2], f[1])
				w.expect(mark, Decided, f[2], f[1]) // from the tun device
				if s := w.FragStats(); s.FragsAllocated != 2 || s.FragsDiscarded != 0 || s.Inserts != 1 {
					t.Errorf("%+v", s)
				}
				w.checkEmpty()
			})
			t.Run("reversed without tun", func(t *testing.T) {
				w := newFragWorld(t, func(c *FragmentConfig) { c.Inject = nil })
				f, mark := datagram(w)
				w.expect(-1, LaterOfFirst, f[2], f[1])
				w.expect(mark, Decided, f[0], f[1])
				if s := w.FragStats(); s.FragsMax != 0 || s.Inserts != 1 {
					t.Errorf("%+v", s)
				}
				w.checkEmpty()
			})
			t.Run("duplicated", func(t *testing.T) { // nfqlb drops the second first one
				w := newFragWorld(t, nil)
				f, mark := datagram(w)
				w.expect(mark, Decided, f[0], f[0], f[1], f[1], f[0], f[2], f[2], f[0])
				w.expectInjected()
				w.checkEmpty()
			})
			t.Run("interleaved", func(t *testing.T) {
				w := newFragWorld(t, nil)
				a, markA := datagram(w)
				b, markB := datagram(w)
				for markB == markA {
					b, markB = datagram(w)
				}
				w.expect(markA, Decided, a[0])
				w.expect(-1, FragmentKept, b[1])
				w.expect(markA, Decided, a[1])
				w.expect(markB, Decided, b[0])
				w.expectInjected(b[1])
				w.expect(markA, Decided, a[2])
				w.expect(markB, Decided, b[1], b[2])
				w.checkEmpty()
			})
			t.Run("first lost", func(t *testing.T) {
				w := newFragWorld(t, nil)
				f, mark := datagram(w)
				w.expect(-1, FragmentKept, f[1], f[2])
				w.now += 200 * time.Millisecond
				w.expect(mark, Decided, f[0]) // too late
				w.expectInjected()
				if s := w.FragStats(); s.FragsDiscarded != 2 || s.ObjGC != 1 {
					t.Errorf("%+v", s)
				}
				w.checkEmpty()
			})
			t.Run("expired", func(t *testing.T) {
				w := newFragWorld(t, func(c *FragmentConfig) { c.Inject = nil })
				f, mark := datagram(w)
				w.expect(mark, Decided, f[0])
				w.now += 199 * time.Millisecond
				w.expect(mark, Decided, f[1])
				w.now += 199 * time.Millisecond // the time runs from the last one
				w.expect(mark, Decided, f[2])
				w.now += 200 * time.Millisecond
				w.expect(-1, LaterOfFirst, f[2])
			})
			t.Run("first dropped", func(t *testing.T) {
				w := newFragWorld(t, nil)
				f := fragmented(family.src, family.dst, protoUDP, 7, 1400, udpPayload(1, 81, 4000))
				w.expect(-1, FragmentKept, f[1])
				w.expect(-1, NoFlow, f[0], f[1], f[2])
				w.expectInjected()
				w.checkEmpty()
			})
			t.Run("target change", func(t *testing.T) { // one packet goes to one target
				w := newFragWorld(t, nil)
				f, mark := datagram(w)
				w.expect(mark, Decided, f[0])
				for _, target := range w.targets {
					target.SetTable(table(t, 9973, 100, 1))
				}
				w.expect(mark, Decided, f[1])
				w.checkEmpty()
			})
			t.Run("reassembled", func(t *testing.T) {
				w := newFragWorld(t, func(c *FragmentConfig) { c.Reassembler = 1 })
				f, mark := datagram(w)
				w.expect(mark, Decided, f[0], f[2], f[2], f[1])
				if s := w.FragStats(); s.ReAssembled != 1 || s.Active != 0 {
					t.Errorf("%+v", s)
				}
				f, mark = datagram(w)
				w.expect(-1, FragmentKept, f[2], f[1])
				w.expect(mark, Decided, f[0], f[2], f[1])
				if s := w.FragStats(); s.ReAssembled != 2 || s.Active != 0 {
					t.Errorf("%+v", s)
				}
				w.checkEmpty()
			})
		})
	}
}

// In any order, with copies, losses and pauses, each fragment gets what a plain
// model without limits says.
func TestFragmentsAsModel(t *testing.T) {
	type entry struct {
		first Decision
		seen  bool
		used  time.Duration
		kept  [][]byte
	}
	for round := range uint64(60) {
		r := rand.New(rand.NewPCG(round, 1))
		w := newFragWorld(t, func(c *FragmentConfig) {
			c.Stored, c.Reassembler, c.Size = 1000, 0, 1+r.IntN(20)
			if round%2 == 0 {
				c.Reassembler = 20
			}
		})
		var packets [][]byte
		for id := range uint32(30) {
			family := fragFamilies[r.IntN(2)]
			f := fragmented(family.src, family.dst, protoUDP, id, 8*(1+r.IntN(120)), udpPayload(uint16(r.Uint32()), uint16(5000+r.IntN(5)), 16+r.IntN(2000)))
			r.Shuffle(len(f), func(i, j int) { f[i], f[j] = f[j], f[i] })
			for _, p := range f {
				for range r.IntN(4) / 2 * r.IntN(3) { // lost or copied
					packets = append(packets, p)
				}
				packets = append(packets, p)
			}
		}
		window := 1 + r.IntN(len(packets))
		for at := 0; at < len(packets); at += window { // neighbours mix
			part := packets[at:min(at+window, len(packets))]
			r.Shuffle(len(part), func(i, j int) { part[i], part[j] = part[j], part[i] })
		}
		model := make(map[fragKey]*entry)
		for i, raw := range packets {
			w.now += time.Duration(r.IntN(20)*r.IntN(20)) * time.Millisecond / 2
			var p Packet
			whole := Decide(w.state.Load(), raw, &p)
			if p.Kind&(FirstFragment|LaterFragment) == 0 {
				continue // too small to have been split
			}
			k := makeFragKey(&p)
			e := model[k]
			if e == nil || w.now-e.used >= 200*time.Millisecond {
				e = new(entry)
				model[k] = e
			}
			e.used = w.now
			var back [][]byte
			want := Decision{Slot: -1, Index: -1, Mark: -1, Why: FragmentKept}
			switch {
			case p.Kind&FirstFragment != 0:
				want = whole
				if whole.Accept {
					back = e.kept
				}
				e.first, e.seen, e.kept = whole, true, nil
			case e.seen:
				want = e.first
			default:
				e.kept = append(e.kept, raw)
			}
			active := w.frags.stats.reAssembled
			got := w.send(raw)
			if w.frags.stats.reAssembled > active {
				delete(model, k)
			}
			if got != want {
				t.Fatalf("round %d packet %d: %+v, want %+v", round, i, got, want)
			}
			w.expectInjected(back...)
		}
		if w.frags.stats.rejectedInserts != 0 {
			t.Fatal("the table was too small for the test")
		}
		w.checkEmpty()
	}
}

// A first fragment, and any later one, allocates nothing.
func TestFragmentsAllocateNothing(t *testing.T) {
	w := newFragWorld(t, func(c *FragmentConfig) {
		c.Reassembler = 10
		c.Inject = func([]byte) error { return nil }
	})
	f := fragmented(src6, dst6, protoUDP, 1, 1400, udpPayload(1, 5001, 4000))
	var p Packet
	n := testing.AllocsPerRun(100, func() {
		w.now += time.Millisecond
		for _, i := range []int{1, 0, 1, 2, 2} {
			w.Decide(f[i], &p)
		}
		w.now += 200 * time.Millisecond
	})
	if n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

// Several queues share the table.
func TestFragmentsConcurrently(t *testing.T) {
	b := meridio(t, Config{}, 47, 57, 66, 89)
	c := DefaultFragments()
	c.Size, c.Buckets, c.Reassembler, c.TTL = 16, 16, 4, time.Millisecond
	c.Inject = func([]byte) error { return nil }
	if err := b.TrackFragments(c); err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	for g := range uint64(4) {
		wait.Go(func() {
			r := rand.New(rand.NewPCG(g, 2))
			var p Packet
			for range 3000 {
				// Few ids, so that the goroutines meet.
				f := fragmented(src4, dst4, protoUDP, r.Uint32N(8), 400, udpPayload(uint16(g), 5001, 2000))
				r.Shuffle(len(f), func(i, j int) { f[i], f[j] = f[j], f[i] })
				for _, packet := range f {
					b.Decide(packet, &p)
				}
			}
		})
	}
	wait.Wait()
	w := &fragWorld{Balancer: b, t: t}
	b.frags.config.now = func() time.Duration { return time.Hour + w.now }
	w.checkEmpty()
}

// FuzzFragments plays packets that the input describes against a small table,
// which must stay whole.
func FuzzFragments(f *testing.F) {
	f.Add([]byte{0x00, 0x10, 0x20, 0x01, 0x11}, uint8(3))
	f.Add([]byte{0x20, 0x10, 0x00, 0x10, 0x20, 0xff, 0x20}, uint8(0))
	f.Fuzz(func(t *testing.T, ops []byte, size uint8) {
		w := newFragWorld(t, func(c *FragmentConfig) {
			c.Size, c.Buckets, c.Stored, c.Reassembler = 1+int(size&3), int(size>>2&3), int(size>>4&3), int(size>>6&3)
		})
		for _, op := range ops {
			if op == 0xff {
				w.now += 100 * time.Millisecond
				continue
			}
			family := fragFamilies[op>>3&1]
			parts := fragmented(family.src, family.dst, protoUDP, uint32(op&7), 8, udpPayload(1, 5000+uint16(op&7), 32))
			d := w.send(parts[op>>4&3])
			if d.Accept != (d.Mark >= 0) {
				t.Fatalf("%+v", d)
			}
		}
		w.checkEmpty()
	})
}

// BenchmarkFragments is what a fragment costs whose first one was seen.
func BenchmarkFragments(b *testing.B) {
	w := newFragWorld(b, nil)
	for _, n := range []int{0, 1} {
		b.Run([]string{"first", "later"}[n], func(b *testing.B) {
			var all [][]byte
			var p Packet
			for id := range uint32(400) {
				f := fragmented(src4, dst4, protoUDP, id, 1400, udpPayload(uint16(id), 5001, 4000))
				w.Decide(f[0], &p)
				all = append(all, f[n])
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if d := w.Decide(all[i%len(all)], &p); !d.Accept {
					b.Fatal(fmt.Sprint(d.Why))
				}
			}
		})
	}
}
