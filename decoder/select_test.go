// SPDX-License-Identifier: Apache-2.0

package decoder_test

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"waymark/bpf"
	. "waymark/decoder"
)

// lines are journeys as JSON.
func lines(t *testing.T, js []*Journey) []string {
	t.Helper()
	var out bytes.Buffer
	w := NewJSONWriter(&out)
	for _, j := range js {
		must(t, w.Journey(j))
	}
	return strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
}

// someOfEach is a stream with a journey of nearly every outcome: 1 delivered, 2
// its reply forwarded, 3 dropped, 4 open and not complete.
func someOfEach(t *testing.T) *stream {
	s := newStream(t, newTrench())
	s.tcp(1, 0, client4, 40000, vip4, 5000, syn).request()
	s.tcp(2, 1_000_000, vip4, 5000, client4, 40000, synAck).replyToLB().out(nsLB, nsm1, 9*us)
	p := s.tcp(3, 2_000_000, client4, 40001, vip4, 5000, syn).requestToLB()
	p.drop(nsLB, nsm1, us, rNetfilterDrop, atHookSlow)
	late := s.tcp(4, 3_000_000, client6, 40002, vip6, 5000, syn)
	late.rec.Flags = 0
	late.in(nsLB, nsm1, 0)
	s.add(&Context{Time: base + 5_000_000_000, Clock: &Clock{}})
	return s
}

func ids(js []*Journey) []string {
	var ids []string
	for _, j := range js {
		ids = append(ids, strings.TrimPrefix(j.ID, "n1-"))
	}
	return ids
}

func TestOnly(t *testing.T) {
	for _, tt := range []struct {
		only []string
		want []string
	}{
		{nil, []string{"1", "2", "3", "4"}},
		{[]string{"delivered"}, []string{"1"}},
		{[]string{"forwarded"}, []string{"2"}},
		{[]string{"dropped"}, []string{"3"}},
		{[]string{"open"}, []string{"4"}},
		{[]string{"incomplete"}, []string{"4"}},
		{[]string{"consumed"}, nil},
		{[]string{"dropped", "incomplete", "delivered"}, []string{"1", "3", "4"}},
	} {
		if err := CheckOnly(tt.only); err != nil {
			t.Error(err)
		}
		if got := ids(someOfEach(t).run(Options{Only: tt.only})); !slices.Equal(got, tt.want) {
			t.Errorf("only %v: %v, want %v", tt.only, got, tt.want)
		}
	}
	if err := CheckOnly([]string{"dropped", "lost"}); err == nil || !strings.Contains(err.Error(), `"lost" is no outcome: choose from dropped, delivered`) {
		t.Error(err)
	}
}

// TestSelectedIsSomeOfAll: who selects gets the very lines that are printed
// without: names of flows, directions and the session's limit do not depend on
// what is left out.
func TestSelectedIsSomeOfAll(t *testing.T) {
	// Source and destination stand side by side in IPv4's header.
	reply := append(netip.MustParseAddr(vip4).AsSlice(), netip.MustParseAddr(client4).AsSlice()...)
	for _, limit := range []int{0, 2} {
		stream := func() *stream {
			s := someOfEach(t)
			s.items[0].(*Context).Session.Limit = limit
			return s
		}
		all := append(lines(t, stream().run(Options{})), "") // or nothing at all
		for _, o := range []Options{
			{Only: []string{"forwarded"}},
			{Only: []string{"dropped"}},
			{Mark: markT1, MarkMask: ^uint32(0)},
			{Match: func(p PacketBytes) bool { return bytes.Contains(p.Data, reply) }},
		} {
			for _, line := range lines(t, stream().run(o)) {
				if !slices.Contains(all, line) {
					t.Errorf("limit %d, %+v prints, other than without:\n%s", limit, o, line)
				}
			}
		}
	}
}

// TestMatchSeesEveryPacket: of a journey, as it was on the wire.
func TestMatchSeesEveryPacket(t *testing.T) {
	s := newStream(t, newTrench())
	p := s.tcp(1, 0, client4, 40000, "10.9.0.1", 80, syn).in(nsLB, nsm1, 0)
	plain := p.frame()
	p.rec.Flags |= bpf.FlagVLAN
	p.rec.VlanTci = 0x2064
	p.in(nsLB, nsm1, us)
	p.rec.Flags &^= bpf.FlagVLAN
	p.app = make([]byte, 1000)
	p.out(nsLB, lbToPX, us)
	big := p.frame()
	p.app = nil
	p.rec.Flags |= bpf.FlagL3
	p.rec.Hook, p.rec.TimeNs = uint16(bpf.HookKfreeSkb), p.now+1000
	s.add(p.rec.Encode(nil, plain[14:])) // without a link header
	p.rec.Hook, p.rec.TimeNs = uint16(bpf.HookKfreeSkbmem), p.now+2000
	s.add(p.rec.Encode(nil, nil)) // without bytes

	tagged := slices.Concat(plain[:12], []byte{0x81, 0, 0x20, 0x64}, plain[12:])
	want := []PacketBytes{
		{Data: plain, WireLen: len(plain)},
		{Data: tagged, WireLen: len(tagged)},
		{Data: big[:96], WireLen: len(big)},
		{Data: plain[14:], WireLen: len(plain) - 14, Network: true, EtherType: 0x0800},
	}
	for take := range len(want) + 1 { // which is taken, if any
		seen := 0
		js := s.run(Options{Match: func(got PacketBytes) bool {
			if w := want[seen]; !bytes.Equal(got.Data, w.Data) || got.WireLen != w.WireLen || got.Network != w.Network || got.EtherType != w.EtherType {
				t.Errorf("packet %d is %+v, want %+v", seen, got, w)
			}
			seen++
			return seen-1 == take
		}})
		if taken := take < len(want); taken != (len(js) == 1) || seen != min(take+1, len(want)) {
			t.Errorf("packet %d is taken: %d journeys after %d packets", take, len(js), seen)
		}
	}
}
