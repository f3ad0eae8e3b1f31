// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"net/netip"
	"slices"
	"testing"
)

// Fragments go to the balancer that their addresses choose.
func TestFragmentTier(t *testing.T) {
	b := meridio(t, Config{}, 47, 57, 66, 89)
	shared := &Shared{OwnFWMark: 203, M: 397, N: 10, Active: []int{201, 202, 203, -1, -1, -1, -1, -1, -1, -1}}
	if err := b.UseTier("nfqlbLb", func(string) (*Shared, error) { return shared, nil }); err != nil {
		t.Fatal(err)
	}
	if err := b.TrackFragments(DefaultFragments()); err != nil {
		t.Fatal(err)
	}
	if got := b.Targets(); !slices.Equal(got, []string{"nfqlbLb", "tshm-stream-a"}) {
		t.Fatalf("tables that are watched: %v", got)
	}
	tab, err := shared.Table()
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[int]int)
	for i := range 50 {
		src := netip.AddrFrom4([4]byte{20, 0, 1, byte(i)})
		payload := udpPayload(uint16(i), 5001, 2000)
		k := MakeKey(src, dst4, 0, 0, 0, 0)
		_, _, lb := tab.Lookup(k.HashAddresses())
		seen[lb]++
		var p Packet
		direct := Decide(b.state.Load(), ipv4(src, dst4, protoUDP, 0, 0, payload), &p)
		for j, raw := range fragmented(src, dst4, protoUDP, 5, 1400, payload) {
			d := b.Decide(raw, &p)
			switch {
			case !d.Accept:
				t.Fatalf("fragment %d dropped: %s", j, d.Why)
			case lb != 203 && (d.Mark != lb || d.Why != OtherBalancer || d.Flow() != ""):
				t.Fatalf("fragment %d: %+v, want the balancer %d", j, d, lb)
			case lb == 203 && d != direct:
				t.Fatalf("fragment %d: %+v, want %+v", j, d, direct)
			}
		}
		// What is no fragment is nobody else's.
		if d := b.Decide(wire(ipv4(src, dst4, protoUDP, 0, 0, payload)), &p); d != direct {
			t.Fatalf("whole packet: %+v, want %+v", d, direct)
		}
	}
	if len(seen) != 3 {
		t.Fatalf("the addresses show too little: %v", seen)
	}

	// The other balancers go, and it learns that.
	shared = &Shared{OwnFWMark: 203, M: 397, N: 10, Active: []int{-1, -1, 203, -1, -1, -1, -1, -1, -1, -1}}
	if changed, err := b.Reload("nfqlbLb"); !changed || err != nil {
		t.Fatal(changed, err)
	}
	if changed, err := b.Reload("nfqlbLb"); changed || err != nil {
		t.Fatal(changed, err)
	}
	for i := range 50 {
		var p Packet
		src := netip.AddrFrom4([4]byte{20, 0, 1, byte(i)})
		if d := b.Decide(fragmented(src, dst4, protoUDP, 6, 1400, udpPayload(1, 5001, 2000))[0], &p); d.Why != Decided {
			t.Fatalf("%+v", d)
		}
	}
}
