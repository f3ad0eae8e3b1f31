// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"
)

// The VIPs of Meridio's example trench.
var (
	vip4 = netip.MustParseAddr("10.0.0.1")
	vip6 = netip.MustParseAddr("1000::1:a00:1")
)

// wire makes a packet acceptable to the kernel's IP layer: lengths and IPv4
// checksum.
func wire(p []byte) []byte {
	if p[0]>>4 == 6 {
		binary.BigEndian.PutUint16(p[4:], uint16(len(p)-ipv6HeaderLen))
		return p
	}
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	p[10], p[11] = 0, 0
	var sum uint32
	for i := 0; i < ipv4HeaderLen; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(p[i:]))
	}
	sum = sum>>16 + sum&0xffff
	sum += sum >> 16
	binary.BigEndian.PutUint16(p[10:], ^uint16(sum))
	return p
}

// traffic is n packets of all kinds to the VIPs, most of which match.
func traffic(r *rand.Rand, n int) [][]byte {
	var out [][]byte
	for range n {
		client4 := netip.AddrFrom4([4]byte{200, 100, byte(r.Uint32()), byte(r.Uint32())})
		client6 := netip.AddrFrom16([16]byte{0x02, 0, 1, 0, 15: byte(r.Uint32())})
		p := ports(uint16(1024+r.IntN(60000)), uint16(5000+r.IntN(5)))
		id := uint16(r.Uint32())
		unreach := []byte{3, 4, 0, 0, 0, 0, 5, 20}
		back := join(p[2:4], p[0:2], p[4:8])
		switch r.IntN(8) {
		case 0:
			out = append(out, ipv4(client4, vip4, protoTCP, 1, 0, p, p))
		case 1:
			out = append(out, ipv4(client4, vip4, protoUDP, 1, 0, p))
		case 2:
			out = append(out, ipv4(client4, vip4, protoICMP, 1, 0, echo(8, id)))
		case 3:
			out = append(out, ipv4(client4, vip4, protoICMP, 1, 0, unreach, ipv4(vip4, client4, protoTCP, 1, 0, back)))
		case 4:
			out = append(out, ipv6(client6, vip6, protoTCP, p, p))
		case 5:
			out = append(out, ipv6(client6, vip6, protoUDP, p))
		case 6:
			out = append(out, ipv6(client6, vip6, protoICMPv6, echo(128, id)))
		case 7:
			out = append(out, ipv6(client6, vip6, protoICMPv6, []byte{2, 0, 0, 0, 0, 0, 5, 20}, ipv6(vip6, client6, protoUDP, back)))
		}
		wire(out[len(out)-1])
	}
	return out
}

// meridio is a balancer with the table and flow that Meridio's guide shows.
func meridio(t testing.TB, c Config, targets ...int) *Balancer {
	t.Helper()
	active := make([]int, 100)
	for i := range active {
		active[i] = -1
	}
	for _, i := range targets {
		active[i] = 5001 + i
	}
	tab, err := NewTable(9973, 100, active)
	if err != nil {
		t.Fatal(err)
	}
	b := NewBalancer(c, func(string) (*Table, error) { return tab, nil })
	err = b.SetFlow(FlowSpec{
		Name: "tshm-stream-a-flow-a", Priority: 1, Target: "tshm-stream-a", Protocols: []string{"tcp", "udp"},
		Dests: []string{"10.0.0.1/32", "1000::1:a00:1/128"}, DPorts: []string{"5000-5003"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}
