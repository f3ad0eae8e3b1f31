// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

func TestFragmentsOfADatagram(t *testing.T) {
	for _, c := range []struct{ src, dst string }{
		{"200.100.0.1:40000", "10.0.0.1:5000"},
		{"[200:100::1]:40000", "[1000::1:a00:1]:5000"},
	} {
		src, dst := netip.MustParseAddrPort(c.src), netip.MustParseAddrPort(c.dst)
		payload := bytes.Repeat([]byte("waymark!"), 3000/8+1)[:2993]
		var datagram []byte
		fragments := fragmentsOf(src, dst, payload)
		for i, f := range fragments {
			at, more := 0, false
			var data []byte
			if src.Addr().Is4() {
				p := gopacket.NewPacket(f, layers.LayerTypeIPv4, gopacket.NoCopy).Layer(layers.LayerTypeIPv4).(*layers.IPv4)
				at, more, data = int(p.FragOffset)*8, p.Flags&layers.IPv4MoreFragments != 0, p.Payload
				if p.Id != 40000 || p.Protocol != layers.IPProtocolUDP {
					t.Errorf("fragment %d: %+v", i, p)
				}
			} else {
				p := gopacket.NewPacket(f, layers.LayerTypeIPv6, gopacket.NoCopy).Layer(layers.LayerTypeIPv6Fragment).(*layers.IPv6Fragment)
				at, more, data = int(p.FragmentOffset)*8, p.MoreFragments, p.Payload
				if p.Identification != 40000 || p.NextHeader != layers.IPProtocolUDP {
					t.Errorf("fragment %d: %+v", i, p)
				}
			}
			if at != len(datagram) || more != (i < len(fragments)-1) {
				t.Errorf("fragment %d is at %d of %d, more: %v", i, at, len(datagram), more)
			}
			datagram = append(datagram, data...)
		}
		if len(fragments) != 3 || !bytes.Equal(datagram[udpHeaderLen:], payload) {
			t.Errorf("%d fragments of %d bytes", len(fragments), len(datagram))
		}
		// A sum over the datagram with its checksum is that of one whose own is 0.
		if sum := udpChecksum(src.Addr(), dst.Addr(), datagram); sum != 0 && sum != 0xffff {
			t.Errorf("%s: the checksum is wrong by %#x", src, sum)
		}
	}
	for want, traffic := range map[string]Traffic{
		"UDP":          {ReverseFragments: true, Size: 4000},
		"one fragment": {ReverseFragments: true, UDP: true},
		"":             {ReverseFragments: true, UDP: true, Size: 4000},
	} {
		_, _, err := meridio.service.complete(traffic)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%+v: %v, want %q", traffic, err, want)
		}
	}
}
