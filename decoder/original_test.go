// SPDX-License-Identifier: Apache-2.0

package decoder

import (
	"bytes"
	"errors"
	"net"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// packetOf serialises layers with right lengths and checksums.
func packetOf(t testing.TB, all ...gopacket.SerializableLayer) []byte {
	t.Helper()
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, all...); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// sendablePackets are whole packets with zeros as payload, by name.
func sendablePackets(t testing.TB) map[string][]byte {
	ip4 := func(p layers.IPProtocol) *layers.IPv4 {
		return &layers.IPv4{Version: 4, TTL: 64, Id: 7, Protocol: p, SrcIP: net.IP{200, 100, 0, 1}, DstIP: net.IP{10, 0, 0, 1}}
	}
	ip6 := func(p layers.IPProtocol) *layers.IPv6 {
		return &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: p, SrcIP: net.ParseIP("200:100::1"), DstIP: net.ParseIP("1000::1:a00:1")}
	}
	tcp := func(n gopacket.NetworkLayer) *layers.TCP {
		l := &layers.TCP{SrcPort: 40000, DstPort: 5000, Seq: 1, SYN: true, Options: []layers.TCPOption{{OptionType: 2, OptionLength: 4, OptionData: []byte{5, 180}}}}
		_ = l.SetNetworkLayerForChecksum(n)
		return l
	}
	udp := func(n gopacket.NetworkLayer) *layers.UDP {
		l := &layers.UDP{SrcPort: 40000, DstPort: 5000}
		_ = l.SetNetworkLayerForChecksum(n)
		return l
	}
	tcp4, tcp6, udp4, udp6, icmp6 := ip4(6), ip6(6), ip4(17), ip6(17), ip6(58)
	options := ip4(17)
	options.Options = []layers.IPv4Option{{OptionType: 1}, {OptionType: 1}, {OptionType: 1}, {OptionType: 0}}
	echo6 := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(128, 0)}
	_ = echo6.SetNetworkLayerForChecksum(icmp6)
	zeros := gopacket.Payload(make([]byte, 101))
	return map[string][]byte{
		"tcp4": packetOf(t, tcp4, tcp(tcp4)), "tcp6": packetOf(t, tcp6, tcp(tcp6)),
		"udp4": packetOf(t, udp4, udp(udp4), zeros), "udp6": packetOf(t, udp6, udp(udp6), zeros),
		"options": packetOf(t, options, udp(options), zeros),
		"icmp4":   packetOf(t, ip4(1), &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(8, 0), Id: 1, Seq: 2}, zeros),
		"icmp6":   packetOf(t, icmp6, echo6, gopacket.Payload([]byte{0, 1, 0, 2}), zeros),
		"sctp":    packetOf(t, ip4(132), zeros),
	}
}

// TestOriginalIsMadeWhole: whatever the recording cut off and however far its
// checksums were, it is the packet that was sent.
func TestOriginalIsMadeWhole(t *testing.T) {
	for name, want := range sendablePackets(t) {
		for _, cut := range []int{len(want), len(want) - 1, 60, 48} {
			p := bytes.Clone(want[:min(cut, len(want))])
			if p[0]>>4 == 4 {
				p[10], p[11] = 1, 2
			}
			head := map[byte]int{4: int(p[0]&15) * 4, 6: 40}[p[0]>>4]
			if at, ok := map[string]int{"tcp4": 16, "tcp6": 16, "udp4": 6, "udp6": 6, "options": 6, "icmp4": 2, "icmp6": 2}[name]; ok && len(p) > head+at+1 {
				p[head+at], p[head+at+1] = 3, 4
			}
			got, err := (&Original{Packet: p}).Whole()
			if errors.Is(err, errCutHeader) && (name == "tcp4" || name == "tcp6") && cut < len(want) {
				continue
			}
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s of %d bytes: %v\n%x, want\n%x", name, len(p), err, got, want)
			}
		}
		// Padding of a short frame is none of the packet's.
		if got, err := (&Original{Packet: append(bytes.Clone(want), 0xff, 0xff)}).Whole(); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s with padding: %v, %x", name, err, got)
		}
	}
}

func TestOriginalCannotBeMadeWhole(t *testing.T) {
	whole := sendablePackets(t)
	fragment := bytes.Clone(whole["udp4"])
	fragment[6] = 0x20 // more fragments
	if got, err := (&Original{Packet: fragment}).Whole(); err != nil || !bytes.Equal(got[20:], fragment[20:]) {
		t.Errorf("a whole fragment: %v", err)
	}
	jumbo := bytes.Clone(whole["udp6"])
	jumbo[4], jumbo[5] = 0, 0
	for name, tt := range map[string]struct {
		packet []byte
		want   error
	}{
		"nothing":          {nil, errCutHeader},
		"half a header":    {whole["tcp4"][:19], errCutHeader},
		"half of TCP":      {whole["tcp4"][:39], errCutHeader},
		"half of TCP over": {whole["tcp6"][:50], errCutHeader},
		"half a fragment":  {fragment[:60], errCutFragment},
		"jumbo":            {jumbo, errTooLong},
		"no IP":            {[]byte{0x50, 0, 0, 0}, nil},
	} {
		if got, err := (&Original{Packet: tt.packet}).Whole(); err == nil || tt.want != nil && !errors.Is(err, tt.want) {
			t.Errorf("%s: %x, %v; want %v", name, got, err, tt.want)
		}
	}
}

func FuzzOriginalWhole(f *testing.F) {
	for _, p := range sendablePackets(f) {
		f.Add(p)
		f.Add(p[:30])
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		before := bytes.Clone(p)
		got, err := (&Original{Packet: p}).Whole()
		if !bytes.Equal(p, before) {
			t.Error("the recording's bytes were changed")
		}
		if err == nil && (len(got) < 20 || len(got) > 65535+40 || got[0] != p[0]) {
			t.Errorf("%d bytes of %d: %x", len(got), len(p), got)
		}
	})
}
