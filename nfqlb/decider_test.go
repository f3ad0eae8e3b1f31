// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"math/rand/v2"
	"testing"

	"waymark/decoder"
)

func recorded() *decoder.Balancer {
	active := make([]int, 100)
	for i := range active {
		active[i] = -1
	}
	for _, i := range []int{47, 57, 66} {
		active[i] = 5001 + i
	}
	return &decoder.Balancer{
		Name: "nfqlb", PromiscuousPing: true,
		Flows: []decoder.BalancerFlow{
			{Name: "a", Priority: 1, Protocols: []string{"tcp", "udp"}, Dests: []string{"::ffff:10.0.0.1/128", "1000::1:a00:1/128"}, DPorts: []string{"5000-5003"}, Target: "t"},
			{Name: "gone", Dests: []string{"::ffff:10.0.0.9/128"}, Target: "deleted"},
			{Name: "#x", Target: "NULL"},
		},
		Tables: []decoder.BalancerTable{{Name: "t", M: 9973, N: 100, Active: active}},
	}
}

func TestDeciderExplains(t *testing.T) {
	b := recorded()
	var d Decider
	hash := func(dport uint16) uint32 {
		k := MakeKey(src4, dst4, protoTCP, 0, 40000, dport)
		return k.Hash(HashTuple)
	}
	unreach := []byte{3, 4, 0, 0, 0, 0, 5, 20}
	for _, c := range []struct {
		name   string
		packet decoder.LBPacket
		want   decoder.LBDecision
	}{
		{
			"nfqlb's fwmark by tuple",
			decoder.LBPacket{Src: src4, Dst: dst4, SPort: 40000, DPort: 5000, Proto: 6},
			decoder.LBDecision{Flow: "a", Hash: 2882910532, Index: 5449, Target: 66, Mark: 5067, Accept: true},
		},
		{
			"by snapshot",
			decoder.LBPacket{L3: ipv4(src4, dst4, 6, 1, 0, ports(40000, 5000))},
			decoder.LBDecision{Flow: "a", Hash: 2882910532, Index: 5449, Target: 66, Mark: 5067, Accept: true},
		},
		{
			"ICMP error by snapshot",
			decoder.LBPacket{Src: src4, Dst: dst4, Proto: 1, ICMPType: 3, L3: ipv4(vip4, dst4, 1, 1, 0, unreach, ipv4(dst4, src4, 6, 1, 0, ports(5000, 40000)))},
			decoder.LBDecision{Flow: "a", Hash: 2882910532, Index: 5449, Target: 66, Mark: 5067, Accept: true},
		},
		{
			"ICMP error without snapshot",
			decoder.LBPacket{Src: src4, Dst: dst4, Proto: 1, ICMPType: 3},
			decoder.LBDecision{Index: -1, Target: -1, Mark: -1, Why: "packet cannot be read"},
		},
		{
			"no flow",
			decoder.LBPacket{Src: src4, Dst: dst4, SPort: 40000, DPort: 6000, Proto: 6},
			decoder.LBDecision{Index: -1, Target: -1, Mark: -1, Why: "no flow matches", Hash: hash(6000)},
		},
		{
			"later fragment",
			decoder.LBPacket{Src: src4, Dst: dst4, Proto: 17, FragLater: true, FragID: 1},
			decoder.LBDecision{Index: -1, Target: -1, Mark: -1, Why: LaterOfFirst.String()},
		},
		{
			"later fragment by snapshot",
			decoder.LBPacket{L3: ipv4(src4, dst4, 17, 1, 185, ports(40000, 5000))},
			decoder.LBDecision{Index: -1, Target: -1, Mark: -1, Why: LaterOfFirst.String()},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := d.Decide(b, &c.packet); got != c.want {
				t.Fatalf("\n got %+v\nwant %+v", got, c.want)
			}
		})
	}
	if got := d.Decide(b, &decoder.LBPacket{Src: src4, Dst: dst4.Next(), Proto: 6}); got.Why != "address is not a VIP" {
		t.Errorf("not a VIP: %+v", got)
	}
	nine := dst4
	for range 8 {
		nine = nine.Next()
	}
	if got := d.Decide(b, &decoder.LBPacket{Src: src4, Dst: nine, Proto: 6}); got.Flow != "gone" || got.Why != "target table unknown" {
		t.Errorf("deleted table: %+v", got)
	}
}

// From tuples the decider says what the engine decides from bytes.
func TestDeciderAgreesWithDecide(t *testing.T) {
	b := recorded()
	var d Decider
	s, err := d.state(b)
	if err != nil {
		t.Fatal(err)
	}
	for _, raw := range traffic(rand.New(rand.NewPCG(5, 6)), 500) {
		var p Packet
		want := Decide(s, raw, &p)
		if p.Kind&ICMPError != 0 {
			continue // needs the snapshot
		}
		packet := decoder.LBPacket{
			Src: p.Key.Src(), Dst: p.Key.Dst(), SPort: p.Key.SrcPort(), DPort: p.Key.DstPort(), Proto: uint8(p.Key.Proto()),
		}
		if p.Kind&PlainICMP != 0 {
			packet.ICMPType = raw[p.l4]
			packet.ICMPID = uint16(raw[p.l4+4])<<8 | uint16(raw[p.l4+5])
		}
		got := d.Decide(b, &packet)
		if got.Mark != want.Mark || got.Hash != want.Hash || got.Flow != want.Flow() || got.Accept != want.Accept {
			t.Fatalf("%x\n tuple: %+v\n bytes: %+v", raw, got, want)
		}
	}
}

func TestDeciderTellsBadState(t *testing.T) {
	var d Decider
	b := recorded()
	b.Tables[0].M = 1000
	if got := d.Decide(b, &decoder.LBPacket{Src: src4, Dst: dst4, Proto: 6}); got.Accept || got.Why == "" {
		t.Fatalf("%+v", got)
	}
}

func BenchmarkDecider(b *testing.B) {
	state := recorded()
	var d Decider
	p := decoder.LBPacket{Src: src4, Dst: dst4, SPort: 40000, DPort: 5000, Proto: 6}
	b.ReportAllocs()
	for b.Loop() {
		d.Decide(state, &p)
	}
}
