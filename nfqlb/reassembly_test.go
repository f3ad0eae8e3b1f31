// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"math/rand/v2"
	"testing"
)

func TestExtentOf(t *testing.T) {
	for _, c := range []struct {
		name   string
		packet []byte
		want   extent
		ok     bool
	}{
		{"v4 first", wire(ipv4(src4, dst4, protoUDP, 1, 0x2000, make([]byte, 80))), extent{0, 80, false}, true},
		{"v4 middle", wire(ipv4(src4, dst4, protoUDP, 1, 0x2000|10, make([]byte, 80))), extent{80, 160, false}, true},
		{"v4 last", wire(ipv4(src4, dst4, protoUDP, 1, 20, make([]byte, 7))), extent{160, 167, true}, true},
		{"v4 whole", wire(ipv4(src4, dst4, protoUDP, 1, 0, make([]byte, 7))), extent{}, false},
		{"v4 without payload", wire(ipv4(src4, dst4, protoUDP, 1, 20)), extent{}, false},
		{"v6 first", wire(ipv6(src6, dst6, 44, frag6(17, 0, true, 1), make([]byte, 80))), extent{0, 80, false}, true},
		{"v6 last behind options", wire(ipv6(src6, dst6, 0, ext6(44, 1), frag6(17, 800, false, 1), make([]byte, 9))), extent{800, 809, true}, true},
		{"v6 whole", wire(ipv6(src6, dst6, protoUDP, make([]byte, 80))), extent{}, false},
		{"v6 cut", ipv6(src6, dst6, 44, []byte{17, 0}), extent{}, false},
		{"nothing", nil, extent{}, false},
	} {
		got, ok := extentOf(c.packet)
		if ok != c.ok || ok && got != c.want {
			t.Errorf("%s: %+v %v, want %+v %v", c.name, got, ok, c.want, c.ok)
		}
	}
}

// The holes are gone exactly when every byte was there, whatever the order,
// copies and overlaps.
func TestHolesFill(t *testing.T) {
	followed := 0
	for round := range uint64(2000) {
		r := rand.New(rand.NewPCG(round, 3))
		size := 8 * (1 + r.IntN(60))
		var parts []extent
		for at := 0; at < size; {
			end := min(at+8*(1+r.IntN(6)), size)
			parts = append(parts, extent{at, end, end == size})
			if r.IntN(4) == 0 { // one that overlaps
				parts = append(parts, extent{max(0, at-8), end, end == size})
			}
			at = end
		}
		parts = append(parts, parts[r.IntN(len(parts))])
		r.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })

		var h holes
		h.reset()
		seen, final := make([]bool, size), false
		for i, x := range parts {
			for j := x.first; j < x.end; j++ {
				seen[j] = true
			}
			final = final || x.final
			missing := !final
			for _, s := range seen {
				missing = missing || !s
			}
			done := h.fill(x)
			if h.n < 0 {
				break // more holes than it follows
			}
			if done == missing {
				t.Fatalf("round %d: after %+v of %+v: done %v", round, parts[:i+1], parts, done)
			}
			if done {
				followed++
				break
			}
		}
	}
	if followed < 1900 {
		t.Errorf("only %d of 2000 packets were followed to their end", followed)
	}
}

func FuzzExtentOf(f *testing.F) {
	for _, c := range goldens() {
		f.Add(c.packet)
	}
	f.Add(wire(ipv6(src6, dst6, 44, frag6(17, 80, true, 1), make([]byte, 8))))
	f.Add(wire(ipv4(src4, dst4, protoUDP, 1, 0x2001, make([]byte, 8))))
	f.Add(wire(ipv6(src6, dst6, 44, frag6(44, 0, true, 1), frag6(17, 80, true, 1), make([]byte, 8))))
	f.Fuzz(func(t *testing.T, b []byte) {
		x, ok := extentOf(b)
		if !ok {
			return
		}
		if x.first < 0 || x.end <= x.first || x.end >= openEnd {
			t.Fatalf("%+v", x)
		}
		var h holes
		h.reset()
		if h.fill(x) != (x.first == 0 && x.final) {
			t.Fatalf("%+v alone", x)
		}
		// The other way round does not hold: behind a first fragment's header
		// there may be another fragment header.
		var p Packet
		if err := Parse(b, 0, &p); err == nil && x.first > 0 && p.Kind != LaterFragment {
			t.Fatalf("%+v, but parsed as %b", x, p.Kind)
		}
	})
}

func FuzzPacketLength(f *testing.F) {
	for _, c := range goldens() {
		f.Add(c.packet)
	}
	store := newFragStore(1, 1500)
	f.Fuzz(func(t *testing.T, b []byte) {
		at := store.put(b)
		if at == none {
			return
		}
		if p := store.packet(at); len(p) > len(b) || string(p) != string(b[:len(p)]) {
			t.Fatalf("kept %x of %x", p, b)
		}
		store.release(at)
	})
}
