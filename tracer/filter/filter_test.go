// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"encoding/binary"
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

func ethernetIPv4(src, dst string) []gopacket.SerializableLayer {
	return []gopacket.SerializableLayer{
		eth(macB, layers.EthernetTypeIPv4),
		&layers.IPv4{Version: 4, TTL: 64, SrcIP: net.ParseIP(src).To4(), DstIP: net.ParseIP(dst).To4(), Protocol: layers.IPProtocolUDP},
	}
}

func ethernetIPv6(src, dst string) []gopacket.SerializableLayer {
	return []gopacket.SerializableLayer{
		eth(macB, layers.EthernetTypeIPv6),
		&layers.IPv6{Version: 6, HopLimit: 64, SrcIP: net.ParseIP(src), DstIP: net.ParseIP(dst), NextHeader: layers.IPProtocolUDP},
	}
}

func udpTo(port uint16) gopacket.SerializableLayer {
	return &layers.UDP{SrcPort: 40000, DstPort: layers.UDPPort(port)}
}

func mustParse(t testing.TB, args ...string) *Filter {
	t.Helper()
	f, err := Parse(args)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		expr string
		pos  int
		msg  string
	}{
		{"10.0.0.1", 0, "needs a qualifier"},
		{"tcp 80", 4, "needs a qualifier"},
		{"tcp or 80", 7, "needs a qualifier"},
		{"host 1.2.3.4 and tcp or 5.6.7.8", 24, "needs a qualifier"},
		{"host", 4, "missing"},
		{"not", 3, "missing"},
		{"tcp and", 7, "missing"},
		{"()", 1, "not expected"},
		{"(tcp", 4, "closing bracket"},
		{"tcp)", 3, "not expected"},
		{"port (80 or 443", 15, "closing bracket"},
		{"port (80 or tcp)", 12, `write \tcp`},
		{"port 80 or (443 or udp)", 19, `write \udp`},
		{"host 1.2.3.256", 5, "not an IPv4 address"},
		{"host 1.2.3.4.5", 5, "names are not resolved"},
		{"host example.com", 5, "names are not resolved"},
		{"net 10/8", 6, "not expected"},
		{"net 10.1.0.0/8", 4, "outside its mask"},
		{"net 10.0.0.0/33", 13, "prefix length"},
		{"host 10.0.0.0/8", 5, "needs net"},
		{"net 2001::1/64", 4, "outside its prefix"},
		{"host 2001::/16", 5, "needs net"},
		{"ip host 2001::1", 8, "IPv6 address"},
		{"ip6 host 1.2.3.4", 9, "IPv4 address"},
		{"tcp host 1.2.3.4", 9, "IPv4 address"},
		{"ether host 1.2.3.4", 11, "IPv4 address"},
		{"host aa:bb:cc:dd:ee:ff", 5, "Ethernet address"},
		{"ether", 5, "needs host"},
		{"port 70000", 5, "above 65535"},
		{"port nosuchservice", 5, "not a service"},
		{"port 80-90", 5, "not a service"},
		{"portrange 80-", 12, "not expected"},
		{"portrange http", 10, "not a range"},
		{"udp port http", 9, "tcp port"},
		{"ip port 80", 0, "has no ports"},
		{"port 10.0.0.1", 5, "cannot follow port"},
		{"ip proto tcp", 9, `write \tcp`},
		{`ip proto \nosuch`, 9, "not a known protocol"},
		{"tcp proto 6", 0, "carries no protocol"},
		{"src tcp port 80", 4, `keyword`},
		{"arp broadcast", 0, "has no broadcast"},
		{"tcp multicast", 0, "has no multicast"},
		{"vlan 5000", 5, "above 4095"},
		{"vxlan 16777216", 6, "above 16777215"},
		{"less x", 5, "length"},
		{"ip[0:3] = 1", 5, "1, 2 or 4"},
		{"ip[0", 4, "closing ]"},
		{"ether[0:2]", 10, "comparison"},
		{"ip[0] / 0 = 1", 6, "division by zero"},
		{"ip[0] << 32 = 1", 6, "shift"},
		{"len = 5 or 6", 11, "needs a qualifier"},
		{"tcp $", 4, "unexpected character"},
		{"host 1::2::3", 5, "not an IPv6 address"},
		{"port 99999999999", 5, "malformed"},
		{"gateway x", 0, "not supported"},
		{"ip protochain 6", 3, "not supported"},
		{"mpls 5", 0, "not supported"},
		{"pppoes", 0, "not supported"},
		{"geneve", 0, "not supported"},
		{"inbound", 0, "not supported"},
		{"ifindex 2", 0, "not supported"},
		{"tcp and iso", 8, "not supported"},
		{"ether proto 0x809b", 12, "not supported"},
		{strings.Repeat("(", 200) + "tcp" + strings.Repeat(")", 200), 128, "nested"},
		{strings.Repeat("not ", 200) + "tcp", 512, "nested"},
		{"vxlan and vxlan and vxlan and vxlan and vxlan", 40, "tunnels"},
		{"host " + manyHosts(600), 0, "too large"},
	} {
		_, err := Parse([]string{c.expr})
		var e *Error
		if !errors.As(err, &e) {
			t.Errorf("%.60q: got %v, want an *Error", c.expr, err)
			continue
		}
		if e.Pos != c.pos || !strings.Contains(e.Msg, c.msg) {
			t.Errorf("%.60q: got %d %q, want %d %q", c.expr, e.Pos, e.Msg, c.pos, c.msg)
		}
		if strings.Contains(err.Error(), "\n") {
			t.Errorf("%.60q: the message has more than one line", c.expr)
		}
	}
}

func TestTuple(t *testing.T) {
	frames := map[string][]byte{
		"v4":      build(t, append(ethernetIPv4("10.0.0.1", "20.0.0.1"), udpTo(53))...),
		"v4other": build(t, append(ethernetIPv4("10.0.0.2", "20.0.0.1"), udpTo(54))...),
		"v6":      build(t, append(ethernetIPv6("2001:db8::1", "2001:db8::2"), udpTo(53))...),
		"arp": build(t, eth(bcast, layers.EthernetTypeARP), &layers.ARP{
			AddrType: 1, Protocol: 0x0800, HwAddressSize: 6, ProtAddressSize: 4, Operation: 1,
			SourceHwAddress: macA, SourceProtAddress: []byte{10, 0, 0, 1}, DstHwAddress: make([]byte, 6), DstProtAddress: []byte{20, 0, 0, 1},
		}),
	}
	for _, c := range []struct{ tuple, want string }{
		{"udp any any", "v4 v4other v6"},
		{"udp - -", "v4 v4other v6"},
		{"any any any", "v4 v4other v6"},
		{"tcp any any", ""},
		{"arp any any", "arp"},
		{"arp 10.0.0.1 any", "arp"},
		{"udp 10.0.0.1 20.0.0.1", "v4"},
		{"udp 20.0.0.1 10.0.0.1", ""},
		{"udp 10.0.0.1:40000 20.0.0.1:53", "v4"},
		{"udp 10.0.0.1:40001 20.0.0.1:53", ""},
		{"udp any 20.0.0.1:53", "v4"},
		{"udp any any:53", "v4 v6"},
		{"udp - :53", "v4 v6"},
		{"udp any any:domain", "v4 v6"},
		{"any any 20.0.0.1:54", "v4other"},
		{"any 10.0.0.1 any", "v4"},
		{"udp 10.0.0.0/24 any", "v4 v4other"},
		{"udp 10.0.0.0/24:40000 any:54", "v4other"},
		{"udp 2001:db8::1 any", "v6"},
		{"udp [2001:db8::1]:40000 [2001:db8::2]:53", "v6"},
		{"udp [2001:db8::1]:40000 [2001:db8::2]:any", "v6"},
		{"udp [2001:db8::/32] any", "v6"},
		{"ip 10.0.0.1 any", "v4"},
		{"ip6 any any", "v6"},
		{"icmp any any", ""},
	} {
		f, err := Parse(strings.Fields(c.tuple))
		if err != nil {
			t.Errorf("%q: %v", c.tuple, err)
			continue
		}
		for name, frame := range frames {
			want := false
			for _, w := range strings.Fields(c.want) {
				want = want || w == name
			}
			if got := f.Match(frame, len(frame)); got != want {
				t.Errorf("%q on %s: got %v", c.tuple, name, got)
			}
		}
	}
	for _, c := range []struct {
		tuple string
		pos   int
	}{
		{"tcp 10.0.0.300 any", 4},
		{"tcp any 10.0.0.1:99999", 8},
		{"tcp any 10.0.0.1:x", 8},
		{"icmp any 10.0.0.1:80", 9},
		{"icmp 2001:db8::1 any", 5},
		{"icmp6 10.0.0.1 any", 6},
		{"tcp [2001:db8::1 any", 4},
		{"tcp [2001:db8::1]80 any", 4},
		{"tcp 10.0.0.1/8 any", 4},
		{"tcp any example.com", 8},
	} {
		_, err := Parse(strings.Fields(c.tuple))
		var e *Error
		if !errors.As(err, &e) || e.Pos != c.pos {
			t.Errorf("%q: got %v, want an error at %d", c.tuple, err, c.pos)
		}
	}
}

// Unquoted expressions are expressions, also if they have three words.
func TestWordsAreJoined(t *testing.T) {
	frame := build(t, append(ethernetIPv4("10.0.0.1", "20.0.0.1"), udpTo(53))...)
	for _, args := range [][]string{{"udp", "port", "53"}, {"udp", "and", "dst", "port", "53"}, {"udp port 53"}, {}, {""}} {
		if f := mustParse(t, args...); !f.Match(frame, len(frame)) {
			t.Errorf("%q does not match", args)
		}
	}
}

func TestWithReply(t *testing.T) {
	request := build(t, append(ethernetIPv4("10.0.0.1", "20.0.0.1"), &layers.UDP{SrcPort: 40000, DstPort: 53})...)
	reply := build(t, append(ethernetIPv4("20.0.0.1", "10.0.0.1"), &layers.UDP{SrcPort: 53, DstPort: 40000})...)
	other := build(t, append(ethernetIPv4("20.0.0.1", "10.0.0.1"), &layers.UDP{SrcPort: 54, DstPort: 40000})...)
	tagged := append(append(append([]byte{}, request[:12]...), 0x81, 0, 0, 5), request[12:]...)
	for _, c := range []struct {
		args                           []string
		request, reply, other, inAVLAN bool
	}{
		{[]string{"udp", "any", "20.0.0.1:53"}, true, true, false, false},
		{[]string{"udp and dst port 53"}, true, true, false, false},
		{[]string{"port 53"}, true, true, false, false},
		{[]string{"src net 10.0.0.0/8 and udp[2:2] = 53"}, true, false, false, false}, // byte tests stay
		{[]string{"ether src 02:00:00:00:00:01 and dst port 53"}, true, false, false, false},
		{[]string{"vlan and dst port 53"}, false, false, false, true},
		{[]string{"not dst host 20.0.0.1"}, true, true, true, true}, // either direction
	} {
		f := mustParse(t, c.args...).WithReply()
		for _, m := range []struct {
			name  string
			frame []byte
			want  bool
		}{{"request", request, c.request}, {"reply", reply, c.reply}, {"other", other, c.other}, {"tagged", tagged, c.inAVLAN}} {
			if got := f.Match(m.frame, len(m.frame)); got != m.want {
				t.Errorf("%q with reply on the %s: got %v", c.args, m.name, got)
			}
		}
		if g := f.WithReply(); g != f {
			t.Errorf("%q: a second WithReply is another filter", c.args)
		}
	}
}

// Debian's tcpdump does not know vxlan: what it must select is written here.
func TestVXLAN(t *testing.T) {
	inner := build(t, append(ethernetIPv4("10.0.0.1", "20.0.0.1"), udpTo(53))...)
	header := func(flags byte, vni uint32) gopacket.Payload {
		h := binary.BigEndian.AppendUint32([]byte{flags, 0, 0, 0}, vni<<8)
		return append(h, inner...)
	}
	over4 := build(t, append(ethernetIPv4("192.168.0.1", "192.168.0.2"), udpTo(4789), header(8, 7))...)
	over6 := build(t, append(ethernetIPv6("fd00::1", "fd00::2"), udpTo(4789), header(8, 7))...)
	noFlag := build(t, append(ethernetIPv4("192.168.0.1", "192.168.0.2"), udpTo(4789), header(0, 7))...)
	wrongPort := build(t, append(ethernetIPv4("192.168.0.1", "192.168.0.2"), udpTo(4790), header(8, 7))...)
	taggedOver4 := append(append(append([]byte{}, over4[:12]...), 0x81, 0, 0, 5), over4[12:]...)
	frames := map[string][]byte{"over4": over4, "over6": over6, "noFlag": noFlag, "wrongPort": wrongPort, "tagged": taggedOver4, "inner": inner}
	for _, c := range []struct{ expr, want string }{
		{"vxlan", "over4 over6"},
		{"vxlan 7", "over4 over6"},
		{"vxlan 8", ""},
		{"vxlan and host 10.0.0.1", "over4 over6"},
		{"vxlan and host 192.168.0.1", ""},
		{"host 192.168.0.1 and vxlan and host 10.0.0.1", "over4"},
		{"vxlan 7 and udp dst port 53", "over4 over6"},
		{"vxlan and port 4789", ""},
		{"vxlan and ip[16:4] = 0x14000001 and udp[2:2] = 53", "over4 over6"},
		{"vxlan and ip6", ""},
		{"vxlan and ether src 02:00:00:00:00:01", "over4 over6"},
		{"vlan and vxlan and port 53", "tagged"},
		{"vxlan and vlan", ""},
		{"not vxlan", "noFlag wrongPort tagged inner"},
		// Where no tunnel matched, what follows looks at the outer frame.
		{"vxlan or port 53", "over4 over6 inner"},
	} {
		f := mustParse(t, c.expr)
		for name, frame := range frames {
			want := false
			for _, w := range strings.Fields(c.want) {
				want = want || w == name
			}
			if got := f.Match(frame, len(frame)); got != want {
				t.Errorf("%q on %s: got %v", c.expr, name, got)
			}
		}
	}
}

// Tests of the link header are false in filter_l3, whatever is around them.
func TestNetworkOnly(t *testing.T) {
	runnable(t)
	frame := build(t, append(ethernetIPv4("10.0.0.1", "20.0.0.1"), udpTo(53))...)
	for _, c := range []struct {
		expr string
		want bool
	}{
		{"ether src 02:00:00:00:00:01", false},
		{"not ether src 02:00:00:00:00:01", true},
		{"ether multicast or port 53", true},
		{"ether[0] = 2", false},
		{"ether[0] != 2", false},
		{"not ether[0] = 2", true},
		{"ether proto 0x0800", true},
		{"vlan", false},
		{"len = 60", true}, // as padded, with the link header
		{"udp port 53", true},
	} {
		coll := loadFilter(t, mustParse(t, c.expr))
		if got := runCopy(t, coll, "main_l3", frame, 0x0800, uint32(len(frame))); got != c.want {
			t.Errorf("%q: got %v", c.expr, got)
		}
	}
}

// A large filter must pass the verifier, alone and with its replies.
func TestFortyHosts(t *testing.T) {
	runnable(t)
	f := mustParse(t, fortyHosts())
	for _, f := range []*Filter{f, f.WithReply(), mustParse(t, "("+fortyHosts()+") and port 5000").WithReply(), mustParse(t, "vlan and vxlan and ("+fortyHosts()+")")} {
		coll := loadFilter(t, f)
		hit := build(t, append(ethernetIPv4("1.2.3.4", "10.0.39.40"), udpTo(5000))...)
		miss := build(t, append(ethernetIPv4("1.2.3.4", "10.0.39.41"), udpTo(5000))...)
		for _, frame := range [][]byte{hit, miss} {
			got := runSKB(t, coll.Programs["main_tc"], frame, 0)
			if want := f.Match(frame, len(frame)); got != want {
				t.Errorf("%.40q: got %v, want %v", f, got, want)
			}
		}
	}
}
