// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"errors"
	"testing"
	"time"
	"unsafe"
)

// What does not fit is dropped and counted, and never more than was taken at
// the start.
func TestFragmentRoom(t *testing.T) {
	payload := udpPayload(1, 5001, 4000)
	datagram := func(id uint32) [][]byte { return fragmented(src4, dst4, protoUDP, id, 1400, payload) }
	t.Run("buckets", func(t *testing.T) {
		w := newFragWorld(t, func(c *FragmentConfig) { c.Size, c.Buckets = 1, 2 })
		mark := w.markOf(src4, dst4, protoUDP, payload)
		for id := range uint32(3) {
			w.expect(mark, Decided, datagram(id)[0])
		}
		w.expect(-1, NoFragmentRoom, datagram(3)[0], datagram(3)[1])
		s := w.FragStats()
		if s.BucketsUsed != 2 || s.Collisions != 2 || s.RejectedInserts != 2 || s.Active != 3 {
			t.Errorf("%+v", s)
		}
		w.expect(mark, Decided, datagram(1)[1]) // the others are not hurt
		w.now += 200 * time.Millisecond
		w.expect(mark, Decided, datagram(3)...)
		w.checkEmpty()
	})
	t.Run("packets", func(t *testing.T) {
		w := newFragWorld(t, func(c *FragmentConfig) { c.Stored = 3 })
		mark := w.markOf(src4, dst4, protoUDP, payload)
		a, b := datagram(1), datagram(2)
		w.expect(-1, FragmentKept, a[1], a[2], b[1])
		// b has lost one: what is kept of it makes room.
		w.expect(-1, NoFragmentRoom, b[2], b[1])
		w.expect(-1, FragmentKept, datagram(3)[1])
		w.expect(mark, Decided, a[0], b[0])
		w.expectInjected(a[1], a[2])
		w.expect(mark, Decided, b[1])
		if s := w.FragStats(); s.FragsAllocated != 4 || s.FragsDiscarded != 2 {
			t.Errorf("%+v", s)
		}
		w.checkEmpty()
	})
	t.Run("longer than the MTU", func(t *testing.T) {
		w := newFragWorld(t, func(c *FragmentConfig) { c.MTU = 1400 })
		w.expect(-1, NoFragmentRoom, datagram(1)[1])
		w.checkEmpty()
	})
	t.Run("cut", func(t *testing.T) {
		w := newFragWorld(t, nil)
		w.expect(-1, NoFragmentRoom, datagram(1)[1][:576])
		w.checkEmpty()
	})
	t.Run("inject fails", func(t *testing.T) {
		w := newFragWorld(t, func(c *FragmentConfig) { c.Inject = func([]byte) error { return errors.New("down") } })
		w.expect(-1, FragmentKept, datagram(1)[1])
		w.expect(w.markOf(src4, dst4, protoUDP, payload), Decided, datagram(1)[0])
		if s := w.FragStats(); s.FragsDiscarded != 1 {
			t.Errorf("%+v", s)
		}
		w.checkEmpty()
	})
}

func TestFragmentConfigCheck(t *testing.T) {
	for _, c := range []struct {
		want   string
		change func(*FragmentConfig)
	}{
		{"--mtu 575 is below 576", func(c *FragmentConfig) { c.MTU = 575 }},
		{"--mtu 65536 is above 65535", func(c *FragmentConfig) { c.MTU = 65536 }},
		{"--ft-size 0 is below 1", func(c *FragmentConfig) { c.Size = 0 }},
		{"--ft-buckets -1 is below 0", func(c *FragmentConfig) { c.Buckets = -1 }},
		{"--ft-frag -1 is below 0", func(c *FragmentConfig) { c.Stored = -1 }},
		{"--ft-ttl 0 is not within 1-60000 ms", func(c *FragmentConfig) { c.TTL = 0 }},
		{"--reassembler -1 is below 0", func(c *FragmentConfig) { c.Reassembler = -1 }},
		{"--ft-frag 65536 of --mtu 65535 bytes take 4095 MB; choose fewer", func(c *FragmentConfig) { c.Stored, c.MTU = 65536, 65535 }},
	} {
		config := DefaultFragments()
		c.change(&config)
		if err := config.Check(); err == nil || err.Error() != c.want {
			t.Errorf("%v, want %s", err, c.want)
		}
	}
}

func TestFragCountersLayout(t *testing.T) {
	w := newFragWorld(t, nil)
	w.send(fragmented(src4, dst4, protoUDP, 1, 1400, udpPayload(1, 5001, 4000))[1])
	c := w.frags.stats
	raw := unsafe.Slice((*byte)(unsafe.Pointer(c)), unsafe.Sizeof(*c))
	if len(raw) != FragStatsSize {
		t.Fatalf("%d bytes", len(raw))
	}
	got, err := ParseFragStats(raw)
	if err != nil || *got != *c.stats() {
		t.Fatalf("read as %+v, %v, want %+v", got, err, c.stats())
	}
	want := FragStats{
		Size: 500, TTLMillis: 200, Inserts: 1, Lookups: 1, MTU: 1500, BucketsMax: 500,
		FragsMax: 100, FragsAllocated: 1, Active: 1,
	}
	if *got != want {
		t.Fatalf("%+v, want %+v", got, want)
	}
}
