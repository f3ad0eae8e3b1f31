// SPDX-License-Identifier: Apache-2.0

// The packets filters are compared on: every header combination the language
// can tell apart, and each of them cut at every header boundary.

package filter

import (
	"encoding/binary"
	"net"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

type packet struct {
	data []byte
	wire int // length before it was cut
}

var (
	macA  = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	macB  = net.HardwareAddr{2, 0, 0, 0, 0, 2}
	bcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	mcast = net.HardwareAddr{1, 0, 0x5e, 0, 0, 5}
)

func build(t testing.TB, ls ...gopacket.SerializableLayer) []byte {
	t.Helper()
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true}, ls...); err != nil {
		t.Fatal(err)
	}
	return append([]byte(nil), b.Bytes()...)
}

func eth(dst net.HardwareAddr, typ layers.EthernetType) *layers.Ethernet {
	return &layers.Ethernet{SrcMAC: macA, DstMAC: dst, EthernetType: typ}
}

func tag(id uint16, typ layers.EthernetType) *layers.Dot1Q {
	return &layers.Dot1Q{VLANIdentifier: id, Priority: 3, Type: typ}
}

// transports are what goes behind an IP header, with the protocol number.
func transports() []struct {
	proto layers.IPProtocol
	ls    []gopacket.SerializableLayer
} {
	type tr = struct {
		proto layers.IPProtocol
		ls    []gopacket.SerializableLayer
	}
	pay := gopacket.Payload("0123456789abcdefghijklmnop")
	out := []tr{
		{layers.IPProtocolTCP, []gopacket.SerializableLayer{&layers.TCP{
			SrcPort: 40000, DstPort: 5000, SYN: true, Window: 1000,
			Options: []layers.TCPOption{{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: []byte{5, 0xb4}}},
		}}},
		{layers.IPProtocolTCP, []gopacket.SerializableLayer{&layers.TCP{SrcPort: 5000, DstPort: 40000, SYN: true, ACK: true}}},
		{layers.IPProtocolTCP, []gopacket.SerializableLayer{&layers.TCP{SrcPort: 80, DstPort: 1024, ACK: true, PSH: true}, pay}},
		{layers.IPProtocolTCP, []gopacket.SerializableLayer{&layers.TCP{SrcPort: 1024, DstPort: 443, RST: true}}},
		{layers.IPProtocolUDP, []gopacket.SerializableLayer{&layers.UDP{SrcPort: 53, DstPort: 5353}, pay}},
		{layers.IPProtocolUDP, []gopacket.SerializableLayer{&layers.UDP{SrcPort: 1234, DstPort: 80}, gopacket.Payload{1, 2, 3, 4}}},
		{layers.IPProtocolSCTP, []gopacket.SerializableLayer{&layers.SCTP{SrcPort: 5000, DstPort: 80, VerificationTag: 1}, &layers.SCTPInit{SCTPChunk: layers.SCTPChunk{Type: layers.SCTPChunkTypeInit, Length: 20}}}},
		{47, []gopacket.SerializableLayer{gopacket.Payload{0, 0, 8, 0, 0x45}}},
		{layers.IPProtocolIGMP, []gopacket.SerializableLayer{gopacket.Payload{0x16, 0, 0, 0, 224, 0, 0, 5}}},
	}
	return out
}

func packets(t testing.TB) []packet {
	var full [][]byte
	add := func(ls ...gopacket.SerializableLayer) { full = append(full, build(t, ls...)) }

	a4, b4 := net.IPv4(10, 0, 0, 1).To4(), net.IPv4(20, 0, 0, 1).To4()
	a6, b6 := net.ParseIP("2001:db8::1"), net.ParseIP("2001:db8:1::2")
	links := []func(layers.EthernetType) []gopacket.SerializableLayer{
		func(t layers.EthernetType) []gopacket.SerializableLayer {
			return []gopacket.SerializableLayer{eth(macB, t)}
		},
		func(t layers.EthernetType) []gopacket.SerializableLayer {
			return []gopacket.SerializableLayer{eth(macB, 0x8100), tag(5, t)}
		},
		func(t layers.EthernetType) []gopacket.SerializableLayer {
			return []gopacket.SerializableLayer{eth(macB, 0x88a8), tag(100, 0x8100), tag(5, t)}
		},
	}
	for _, link := range links {
		with := func(typ layers.EthernetType, ls ...gopacket.SerializableLayer) { add(append(link(typ), ls...)...) }
		for i, tr := range transports() {
			src, dst, src6, dst6 := a4, b4, a6, b6
			if i%2 == 1 {
				src, dst, src6, dst6 = b4, a4, b6, a6
			}
			v4 := func(edit func(*layers.IPv4)) {
				h := &layers.IPv4{Version: 4, TTL: 64, Id: 4711, SrcIP: src, DstIP: dst, Protocol: tr.proto}
				edit(h)
				with(layers.EthernetTypeIPv4, append([]gopacket.SerializableLayer{h}, tr.ls...)...)
			}
			v4(func(*layers.IPv4) {})
			v4(func(h *layers.IPv4) {
				h.Options = []layers.IPv4Option{{OptionType: 148, OptionLength: 4, OptionData: []byte{0, 0}}}
			})
			v4(func(h *layers.IPv4) { h.Flags = layers.IPv4MoreFragments })
			v4(func(h *layers.IPv4) { h.FragOffset = 100 })
			v4(func(h *layers.IPv4) { h.TOS = 0x48; h.Flags = layers.IPv4DontFragment })
			h6 := func(next layers.IPProtocol) *layers.IPv6 {
				return &layers.IPv6{Version: 6, HopLimit: 64, SrcIP: src6, DstIP: dst6, NextHeader: next}
			}
			with(layers.EthernetTypeIPv6, append([]gopacket.SerializableLayer{h6(tr.proto)}, tr.ls...)...)
			for _, frag := range []uint16{0x0001, 0x0100} { // first, later
				raw := []byte{byte(tr.proto), 0, byte(frag >> 8), byte(frag), 0, 0, 0, 1}
				with(layers.EthernetTypeIPv6, h6(44), gopacket.Payload(append(raw, body(t, tr.ls)...)))
			}
			hop := []byte{byte(tr.proto), 0, 1, 4, 0, 0, 0, 0}
			with(layers.EthernetTypeIPv6, h6(0), gopacket.Payload(append(hop, body(t, tr.ls)...)))
		}
		inner := build(t, &layers.IPv4{Version: 4, TTL: 64, SrcIP: a4, DstIP: b4, Protocol: layers.IPProtocolTCP}, &layers.TCP{SrcPort: 40000, DstPort: 5000})
		for _, tc := range [][2]uint8{{8, 0}, {0, 0}, {3, 3}, {3, 4}, {5, 0}, {11, 0}} {
			with(layers.EthernetTypeIPv4, &layers.IPv4{Version: 4, TTL: 64, SrcIP: b4, DstIP: a4, Protocol: layers.IPProtocolICMPv4},
				&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(tc[0], tc[1]), Id: 7, Seq: 1}, gopacket.Payload(inner))
		}
		for _, typ := range []uint8{1, 2, 3, 128, 129, 133, 134, 135, 136} {
			with(layers.EthernetTypeIPv6, &layers.IPv6{Version: 6, HopLimit: 255, SrcIP: a6, DstIP: net.ParseIP("ff02::1"), NextHeader: layers.IPProtocolICMPv6},
				gopacket.Payload(append([]byte{typ, 0, 0, 0, 0, 0, 0, 0}, a6...)))
		}
		for _, typ := range []layers.EthernetType{layers.EthernetTypeARP, 0x8035} {
			with(typ, &layers.ARP{
				AddrType: 1, Protocol: 0x0800, HwAddressSize: 6, ProtAddressSize: 4, Operation: 1,
				SourceHwAddress: macA, SourceProtAddress: a4, DstHwAddress: make([]byte, 6), DstProtAddress: b4,
			})
		}
		for _, vni := range []uint32{5, 6} {
			frame := build(t, eth(macB, layers.EthernetTypeIPv4), &layers.IPv4{Version: 4, TTL: 64, SrcIP: a4, DstIP: b4, Protocol: layers.IPProtocolTCP},
				&layers.TCP{SrcPort: 40000, DstPort: 5000, SYN: true})
			vx := &layers.VXLAN{ValidIDFlag: true, VNI: vni}
			with(layers.EthernetTypeIPv4, &layers.IPv4{Version: 4, TTL: 64, SrcIP: net.IPv4(192, 168, 0, 1).To4(), DstIP: net.IPv4(192, 168, 0, 2).To4(), Protocol: layers.IPProtocolUDP},
				&layers.UDP{SrcPort: 33333, DstPort: 4789}, vx, gopacket.Payload(frame))
			with(layers.EthernetTypeIPv6, &layers.IPv6{Version: 6, HopLimit: 64, SrcIP: b6, DstIP: a6, NextHeader: layers.IPProtocolUDP},
				&layers.UDP{SrcPort: 33333, DstPort: 4789}, vx, gopacket.Payload(frame))
		}
	}
	udp := &layers.UDP{SrcPort: 1, DstPort: 2}
	add(eth(bcast, layers.EthernetTypeIPv4), &layers.IPv4{Version: 4, TTL: 1, SrcIP: a4, DstIP: net.IPv4bcast.To4(), Protocol: layers.IPProtocolUDP}, udp)
	add(eth(bcast, layers.EthernetTypeIPv4), &layers.IPv4{Version: 4, TTL: 1, SrcIP: net.IPv4zero.To4(), DstIP: net.IPv4zero.To4(), Protocol: layers.IPProtocolUDP}, udp)
	add(eth(mcast, layers.EthernetTypeIPv4), &layers.IPv4{Version: 4, TTL: 1, SrcIP: a4, DstIP: net.IPv4(224, 0, 0, 5).To4(), Protocol: layers.IPProtocolUDP}, udp)
	for _, typ := range []layers.EthernetType{0x0806, 0x6004, 0x88cc, 0x9000, 0x9100, 0x8847} {
		add(eth(macB, typ), gopacket.Payload(make([]byte, 50)))
	}
	for _, sap := range []byte{0x42, 0xfe, 0xf0, 0xaa} {
		f := build(t, eth(bcast, 0x0800), gopacket.Payload([]byte{sap, sap, 3, 0, 0, 0, 8, 0, 0x45, 0, 0, 0}))
		binary.BigEndian.PutUint16(f[12:], 12)
		full = append(full, f)
	}
	big := make([]byte, 400)
	for i := range big {
		big[i] = byte(i * 7)
	}
	add(eth(macB, layers.EthernetTypeIPv4), &layers.IPv4{Version: 4, TTL: 3, SrcIP: net.IPv4(172, 16, 1, 6).To4(), DstIP: net.IPv4(172, 16, 1, 255).To4(), Protocol: layers.IPProtocolUDP},
		&layers.UDP{SrcPort: 9, DstPort: 33434}, gopacket.Payload(big))

	var out []packet
	for i, f := range full {
		out = append(out, packet{f, len(f)})
		// Cut at header boundaries and in the middle of fields; half of the
		// cuts as if captured with a snap length.
		for j, n := range []int{14, 15, 18, 20, 23, 24, 28, 30, 34, 36, 38, 42, 46, 54, 55, 58, 62, 66, 70} {
			if n < len(f) && (i+j)%3 == 0 {
				p := packet{f[:n], n}
				if (i+j)%2 == 0 {
					p.wire = len(f)
				}
				out = append(out, p)
			}
		}
	}
	return out
}

func body(t testing.TB, ls []gopacket.SerializableLayer) []byte { return build(t, ls...) }
