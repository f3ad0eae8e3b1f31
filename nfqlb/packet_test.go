// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"bytes"
	"encoding/hex"
	"errors"
	"net/netip"
	"testing"
)

// The golden packets' addresses; hashes and tails were printed by nfqlb's C.
var (
	src4, dst4 = netip.MustParseAddr("20.0.0.7"), netip.MustParseAddr("10.0.0.1")
	src6, dst6 = netip.MustParseAddr("2001::7"), netip.MustParseAddr("1000::1:a00:1")
)

func ports(sport, dport uint16) []byte {
	return append([]byte{byte(sport >> 8), byte(sport), byte(dport >> 8), byte(dport)}, 0, 0, 0, 0, 0, 0, 0, 0)
}

func echo(typ uint8, id uint16) []byte { return []byte{typ, 0, 0, 0, byte(id >> 8), byte(id), 0, 1} }

// ipv4 is a packet without options; frag is the fragment field.
func ipv4(src, dst netip.Addr, proto uint8, id, frag uint16, payload ...[]byte) []byte {
	b := make([]byte, 20)
	b[0], b[8], b[9] = 0x45, 64, proto
	b[4], b[5], b[6], b[7] = byte(id>>8), byte(id), byte(frag>>8), byte(frag)
	s, d := src.As4(), dst.As4()
	copy(b[12:], s[:])
	copy(b[16:], d[:])
	return join(append([][]byte{b}, payload...)...)
}

func ipv6(src, dst netip.Addr, next uint8, payload ...[]byte) []byte {
	b := make([]byte, 40)
	b[0], b[6], b[7] = 0x60, next, 64
	s, d := src.As16(), dst.As16()
	copy(b[8:], s[:])
	copy(b[24:], d[:])
	return join(append([][]byte{b}, payload...)...)
}

func join(parts ...[]byte) []byte {
	var b []byte
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

// ext6 is an extension header of 8·(n+1) bytes.
func ext6(next, n uint8) []byte {
	b := make([]byte, 8*(int(n)+1))
	b[0], b[1] = next, n
	return b
}

// frag6 is a fragment header; offset is in bytes.
func frag6(next uint8, offset uint16, more bool, id uint32) []byte {
	f := offset &^ 7
	if more {
		f |= 1
	}
	return []byte{next, 0, byte(f >> 8), byte(f), byte(id >> 24), byte(id >> 16), byte(id >> 8), byte(id)}
}

type golden struct {
	name     string
	packet   []byte
	udpencap uint16
	tail     string // of the key, hex
	hash0    uint32 // hash mode 0, or 0 if nobody noted it
	hash1    uint32
	kind     Kind
}

func goldens() []golden {
	frag := []byte{3, 4, 0, 0, 0, 0, 5, 20} // fragmentation needed, MTU 1300
	ptb := []byte{2, 0, 0, 0, 0, 0, 5, 20}
	sctpInUDP := join(ports(40000, 9899)[:8], ports(5000, 6000))
	return []golden{
		{"v4 TCP", ipv4(src4, dst4, 6, 1, 0, ports(40000, 5000)), 0, "000006009c401388", 2882910532, 2882910532, 0},
		{"v4 UDP", ipv4(src4, dst4, 17, 1, 0, ports(40000, 5000)), 0, "000011009c401388", 3313399855, 3313399855, 0},
		{"v4 SCTP", ipv4(src4, dst4, 132, 1, 0, ports(40000, 5000)), 0, "000084009c401388", 3519002754, 2092150236, 0},
		{"v4 echo", ipv4(src4, dst4, 1, 1, 0, echo(8, 0x1234)), 0, "1234010000000000", 3746209486, 3746209486, PlainICMP},
		{"v4 echo reply", ipv4(src4, dst4, 1, 1, 0, echo(0, 0x1234)), 0, "0000010000000000", 2681556936, 2681556936, PlainICMP},
		{"v4 GRE", ipv4(src4, dst4, 47, 1, 0), 0, "00002f0000000000", 186817718, 186817718, AddressesOnly},
		{"v4 later fragment", ipv4(src4, dst4, 17, 0xbeef, 185, ports(1, 2)), 0, "beef000000000000", 3556433492, 3556433492, LaterFragment},
		{"v4 first fragment", ipv4(src4, dst4, 17, 0xbeef, 0x2000, ports(40000, 5000)), 0, "000011009c401388", 3313399855, 3313399855, FirstFragment},
		{"v6 TCP", ipv6(src6, dst6, 6, ports(40000, 5000)), 0, "000006009c401388", 805216358, 805216358, 0},
		{"v6 UDP", ipv6(src6, dst6, 17, ports(40000, 5000)), 0, "000011009c401388", 1235705681, 1235705681, 0},
		{"v6 echo", ipv6(src6, dst6, 58, echo(128, 0x1234)), 0, "12343a0000000000", 3899232713, 3899232713, PlainICMP},
		{"v6 later fragment", ipv6(src6, dst6, 44, frag6(17, 1448, false, 0xdeadbeef), ports(1, 2)), 0, "deadbeef00000000", 0, 0, LaterFragment},
		{"v4 frag needed", ipv4(netip.MustParseAddr("9.9.9.9"), dst4, 1, 1, 0, frag, ipv4(dst4, src4, 6, 2, 0, ports(5000, 40000)[:8])), 0, "000006009c401388", 2882910532, 2882910532, ICMPError},
		{"v6 packet too big", ipv6(netip.MustParseAddr("9::9"), dst6, 58, ptb, ipv6(dst6, src6, 6, ports(5000, 40000))), 0, "000006009c401388", 805216358, 805216358, ICMPError},
		{"v4 SCTP in UDP", ipv4(src4, dst4, 17, 1, 0, sctpInUDP), 9899, "0000840013881770", 3514157901, 2087305383, Encapsulated},
		{"v4 SCTP in UDP quoted", ipv4(src4, dst4, 1, 1, 0, frag, ipv4(dst4, src4, 17, 2, 0, ports(9899, 40000)[:8], ports(6000, 5000))), 9899, "0000840013881770", 3514157901, 2087305383, ICMPError | Encapsulated},

		// nfqlb gets these wrong.
		{"v6 first fragment", ipv6(src6, dst6, 44, frag6(17, 0, true, 7), ports(40000, 5000)), 0, "000011009c401388", 1235705681, 1235705681, FirstFragment},
		{"v6 whole with fragment header", ipv6(src6, dst6, 44, frag6(17, 0, false, 7), ports(40000, 5000)), 0, "000011009c401388", 1235705681, 1235705681, 0},
		{"v6 first fragment behind options", ipv6(src6, dst6, 0, ext6(44, 0), frag6(60, 0, true, 7), ext6(17, 1), ports(40000, 5000)), 0, "000011009c401388", 1235705681, 1235705681, FirstFragment},
		{"v6 hop-by-hop of 8 bytes", ipv6(src6, dst6, 0, ext6(6, 0), ports(40000, 5000)), 0, "000006009c401388", 805216358, 805216358, 0},
		{"v6 options of 8 and 24 bytes", ipv6(src6, dst6, 0, ext6(60, 0), ext6(6, 2), ports(40000, 5000)), 0, "000006009c401388", 805216358, 805216358, 0},
		{"v6 quoted with options", ipv6(src6, dst6, 58, ptb, ipv6(dst6, src6, 60, ext6(6, 0), ports(5000, 40000))), 0, "000006009c401388", 805216358, 805216358, ICMPError},
		{"v4 ports end the packet", ipv4(src4, dst4, 17, 1, 0, ports(40000, 5000)[:4]), 0, "000011009c401388", 3313399855, 3313399855, 0},
		{"v6 ports end the packet", ipv6(src6, dst6, 6, ports(40000, 5000)[:4]), 0, "000006009c401388", 805216358, 805216358, 0},
	}
}

func TestParseGolden(t *testing.T) {
	for _, c := range goldens() {
		t.Run(c.name, func(t *testing.T) {
			var p Packet
			if err := Parse(c.packet, c.udpencap, &p); err != nil {
				t.Fatal(err)
			}
			if got := hex.EncodeToString(p.Key[32:]); got != c.tail {
				t.Errorf("key ends in %s, want %s", got, c.tail)
			}
			if p.Kind != c.kind {
				t.Errorf("kind %b, want %b", p.Kind, c.kind)
			}
			if c.hash0 == 0 {
				return
			}
			if got := p.Key.Hash(HashTuple); got != c.hash0 {
				t.Errorf("hash mode 0: %d, want %d", got, c.hash0)
			}
			if got := p.Key.Hash(HashSCTPPorts); got != c.hash1 {
				t.Errorf("hash mode 1: %d, want %d", got, c.hash1)
			}
		})
	}
}

func TestHashAddresses(t *testing.T) {
	k4 := MakeKey(src4, dst4, protoTCP, 0, 40000, 5000)
	k6 := MakeKey(src6, dst6, protoTCP, 0, 40000, 5000)
	if k4.HashAddresses() != 983232551 || k6.HashAddresses() != 690476361 {
		t.Fatalf("address hashes %d and %d, nfqlb has 983232551 and 690476361", k4.HashAddresses(), k6.HashAddresses())
	}
}

func FuzzHash(f *testing.F) {
	f.Add(make([]byte, 40))
	f.Add(bytes.Repeat([]byte{0xff}, 40))
	f.Fuzz(func(t *testing.T, b []byte) {
		want := uint32(5381)
		for _, c := range b {
			want = want*33 + uint32(c)
		}
		if got := djb2(5381, b); got != want {
			t.Fatalf("djb2 = %d, byte by byte %d", got, want)
		}
	})
}

func TestParseOptions(t *testing.T) {
	b := ipv4(src4, dst4, 6, 1, 0, make([]byte, 8), ports(40000, 5000))
	b[0] = 0x47 // two words of options
	var p Packet
	if err := Parse(b, 0, &p); err != nil || p.Key.DstPort() != 5000 || p.Key.Src() != src4 || p.Key.Dst() != dst4 {
		t.Fatalf("got %v → %v port %d, %v", p.Key.Src(), p.Key.Dst(), p.Key.DstPort(), err)
	}
}

func TestParseRefuses(t *testing.T) {
	unreach := []byte{3, 1, 0, 0, 0, 0, 0, 0}
	short := ipv4(src4, dst4, 6, 1, 0, ports(1, 2))
	short[0] = 0x44
	for _, c := range []struct {
		name   string
		packet []byte
		want   error
	}{
		{"empty", nil, ErrTruncated},
		{"zeroes", make([]byte, 19), ErrNotIP},
		{"cut v4 header", ipv4(src4, dst4, 6, 1, 0)[:19], ErrTruncated},
		{"cut v6 header", ipv6(src6, dst6, 6)[:39], ErrTruncated},
		{"IHL 4", short, ErrBadHeader},
		{"no ports", ipv4(src4, dst4, 6, 1, 0, []byte{1, 2, 3}), ErrTruncated},
		{"cut extension header", ipv6(src6, dst6, 0, []byte{6, 0, 0}), ErrTruncated},
		{"extension header past the end", ipv6(src6, dst6, 0, ext6(6, 200)[:16]), ErrTruncated},
		{"cut ICMP", ipv4(src4, dst4, 1, 1, 0, unreach[:7]), ErrTruncated},
		{"fragmented ICMP error", ipv4(src4, dst4, 1, 1, 0x2000, unreach, ipv4(dst4, src4, 6, 1, 0, ports(1, 2))), ErrFragmentedErr},
		{"quoted later fragment", ipv4(src4, dst4, 1, 1, 0, unreach, ipv4(dst4, src4, 6, 1, 100, ports(1, 2))), ErrQuotedFrag},
		{"not IP", []byte{0x50, 0, 0}, ErrNotIP},
	} {
		var p Packet
		if err := Parse(c.packet, 0, &p); !errors.Is(err, c.want) {
			t.Errorf("%s: error %v, want %v", c.name, err, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, c := range goldens() {
		f.Add(c.packet, c.udpencap)
	}
	f.Fuzz(func(t *testing.T, b []byte, udpencap uint16) {
		var p, cut Packet
		if err := Parse(b, udpencap, &p); err != nil {
			return
		}
		if p.l4 > len(b) && p.Kind&AddressesOnly == 0 {
			t.Fatalf("transport header at %d of %d bytes", p.l4, len(b))
		}
		// What a shorter copy of the packet shows, it shows the same.
		for n := range b {
			if err := Parse(b[:n], udpencap, &cut); err == nil && cut.Key != p.Key {
				t.Fatalf("key from %d of %d bytes differs", n, len(b))
			}
		}
	})
}
