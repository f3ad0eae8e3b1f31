// SPDX-License-Identifier: Apache-2.0

package decoder

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"waymark/bpf"
	"waymark/decoder/pcapng"
)

// secret is application data: it must not be in what is kept.
var secret = gopacket.Payload(bytes.Repeat([]byte("SECRET! "), 5))

// Addresses of the packets: none of them is anybody's but theirs.
var (
	macA, macB = net.HardwareAddr{0x00, 0x1b, 0x21, 0xaa, 0xbb, 0x01}, net.HardwareAddr{0x00, 0x1b, 0x21, 0xaa, 0xbb, 0x02}
	ipA, ipB   = net.IP{198, 51, 100, 77}, net.IP{203, 0, 113, 88}
	ip6A, ip6B = net.ParseIP("2001:db8:77::1234:77"), net.ParseIP("2001:db8:88::1234:88")
)

// redactCase is a packet and how many bytes of it are kept: headers, and with
// other addresses.
type redactCase struct {
	name           string
	frame          []byte
	kept, keptAnon int
}

// serialized makes a frame of layers with lengths and checksums.
func serialized(t testing.TB, all ...gopacket.SerializableLayer) []byte {
	t.Helper()
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, all...); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func redactCases(t testing.TB) []redactCase {
	frame := func(all ...gopacket.SerializableLayer) []byte { return serialized(t, all...) }
	type layer = gopacket.SerializableLayer
	eth := func(typ layers.EthernetType) layer {
		return &layers.Ethernet{SrcMAC: macA, DstMAC: macB, EthernetType: typ}
	}
	ip := func(proto layers.IPProtocol) *layers.IPv4 {
		return &layers.IPv4{Version: 4, TTL: 64, Id: 7, Protocol: proto, SrcIP: ipA, DstIP: ipB}
	}
	ip6 := func(proto layers.IPProtocol) *layers.IPv6 {
		return &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: proto, SrcIP: ip6A, DstIP: ip6B}
	}
	tcp := func(n gopacket.NetworkLayer, options ...layers.TCPOption) layer {
		l := &layers.TCP{SrcPort: 40000, DstPort: 5000, Seq: 9, SYN: true, Window: 100, Options: options}
		_ = l.SetNetworkLayerForChecksum(n)
		return l
	}
	udp := func(n gopacket.NetworkLayer, port layers.UDPPort) layer {
		l := &layers.UDP{SrcPort: 40000, DstPort: port}
		_ = l.SetNetworkLayerForChecksum(n)
		return l
	}
	icmp6 := func(n *layers.IPv6, typ uint8) layer {
		l := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(typ, 0)}
		_ = l.SetNetworkLayerForChecksum(n)
		return l
	}
	v4, v6 := layers.EthernetTypeIPv4, layers.EthernetTypeIPv6
	with := func(l *layers.IPv4, change func(*layers.IPv4)) *layers.IPv4 { change(l); return l }
	raw := func(b ...byte) layer { return gopacket.Payload(b) }
	t4, u4, u6, t6 := ip(layers.IPProtocolTCP), ip(layers.IPProtocolUDP), ip6(layers.IPProtocolUDP), ip6(layers.IPProtocolTCP)
	i6 := ip6(layers.IPProtocolICMPv6)
	quoted := frame(t4, tcp(t4), secret)
	quoted6 := frame(u6, udp(u6, 53), secret)
	inner := frame(eth(v4), u4, udp(u4, 53), secret)
	mss := layers.TCPOption{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: []byte{5, 0xb4}}
	toa := layers.TCPOption{OptionType: 254, OptionLength: 8, OptionData: append([]byte{1, 2}, ipA.To4()...)}
	neighbour := append(append(append(make([]byte, 4), ip6B...), 1, 1), macA...)
	unknownOption := append(append([]byte{25, 3, 0, 0, 0, 0, 0, 9}, ip6A...), 0)[:24]
	fragment := func(proto byte, offset uint16) layer {
		return raw(proto, 0, byte(offset>>8), byte(offset), 0, 0, 0, 9)
	}
	options6 := func(next byte, b ...byte) layer { return raw(append([]byte{next, 0}, b...)...) }
	noChecksum := frame(eth(v4), u4, udp(u4, 53), secret)
	clear(noChecksum[40:42])
	padded := append(frame(eth(v4), t4, tcp(t4)), "SECRET"...)
	return []redactCase{
		{"tcp", frame(eth(v4), t4, tcp(t4), secret), 54, 54},
		{"tcp without data", frame(eth(v4), t4, tcp(t4)), 54, 54},
		{"ethernet padding", padded, 54, 54},
		{"tcp options", frame(eth(v4), t4, tcp(t4, mss, toa), secret), 66, 66},
		{"tcp, IPv6", frame(eth(v6), t6, tcp(t6), secret), 74, 74},
		{"udp", frame(eth(v4), u4, udp(u4, 53), secret), 42, 42},
		{"udp without checksum", noChecksum, 42, 42},
		{"udp without data", frame(eth(v4), u4, udp(u4, 53)), 42, 42},
		{"udp, IPv6", frame(eth(v6), u6, udp(u6, 53), secret), 62, 62},
		{"vlan", frame(eth(layers.EthernetTypeDot1Q), &layers.Dot1Q{VLANIdentifier: 100, Type: v4}, t4, tcp(t4), secret), 58, 58},
		{"sctp", frame(eth(v4), ip(layers.IPProtocolSCTP), raw(0x9c, 0x40, 0x13, 0x88, 1, 2, 3, 4, 5, 6, 7, 8), secret), 46, 46},
		{"sctp in udp", frame(eth(v4), u4, udp(u4, portSCTP), raw(0x9c, 0x40, 0x13, 0x88, 1, 2, 3, 4, 5, 6, 7, 8), secret), 54, 54},
		{"unknown protocol", frame(eth(v4), ip(112), raw(ipA.To4()...), secret), 34, 34},
		{"unknown EtherType", frame(eth(0x88cc), raw(macA...), secret), 14, 14},
		{"802.3", append(append([]byte{1, 0x80, 0xc2, 0, 0, 0}, macA...), append([]byte{0, 40}, secret...)...), 14, 14},
		{"arp", frame(eth(layers.EthernetTypeARP), &layers.ARP{
			AddrType: layers.LinkTypeEthernet, Protocol: v4, HwAddressSize: 6, ProtAddressSize: 4, Operation: 1,
			SourceHwAddress: macA, SourceProtAddress: ipA.To4(), DstHwAddress: macB, DstProtAddress: ipB.To4(),
		}, gopacket.Payload(make([]byte, 18))), 42, 42},
		{"icmp echo", frame(eth(v4), ip(layers.IPProtocolICMPv4), &layers.ICMPv4{TypeCode: 8 << 8, Id: 7, Seq: 1}, secret), 42, 42},
		{"icmp error", frame(eth(v4), ip(layers.IPProtocolICMPv4), &layers.ICMPv4{TypeCode: 3<<8 | 1}, gopacket.Payload(quoted)), 82, 82},
		{"icmp error that quotes 8 bytes", frame(eth(v4), ip(layers.IPProtocolICMPv4), &layers.ICMPv4{TypeCode: 3<<8 | 1}, gopacket.Payload(quoted[:28])), 70, 70},
		{"icmp redirect", frame(eth(v4), ip(layers.IPProtocolICMPv4), &layers.ICMPv4{TypeCode: 5 << 8, Id: binary.BigEndian.Uint16(ipB.To4()), Seq: binary.BigEndian.Uint16(ipB.To4()[2:])}, gopacket.Payload(quoted)), 82, 82},
		{"icmp6 echo", frame(eth(v6), i6, icmp6(i6, 128), raw(0, 7, 0, 1), secret), 62, 62},
		{"icmp6 error", frame(eth(v6), i6, icmp6(i6, 1), raw(0, 0, 0, 0), gopacket.Payload(quoted6)), 110, 110},
		{"neighbour solicitation", frame(eth(v6), i6, icmp6(i6, 135), gopacket.Payload(neighbour)), 86, 86},
		{"router advertisement with DNS", frame(eth(v6), i6, icmp6(i6, 134), raw(make([]byte, 12)...), gopacket.Payload(unknownOption)), 70, 70},
		{"mld report", frame(eth(v6), i6, icmp6(i6, 131), raw(append(make([]byte, 4), net.ParseIP("ff02::1:ff34:0077")...)...)), 78, 78},
		{"igmp report", frame(eth(v4), ip(layers.IPProtocolIGMP), raw(0x16, 0, 0xf8, 0xfa, 239, 1, 2, 3), secret), 42, 42},
		{"first fragment", frame(eth(v4), with(ip(layers.IPProtocolUDP), func(l *layers.IPv4) { l.Flags = layers.IPv4MoreFragments }), udp(u4, 53), secret), 42, 42},
		{"later fragment", frame(eth(v4), with(ip(layers.IPProtocolUDP), func(l *layers.IPv4) { l.FragOffset = 5 }), secret), 34, 34},
		{"later fragment, IPv6", frame(eth(v6), ip6(layers.IPProtocolIPv6Fragment), fragment(17, 80), secret), 62, 62},
		{"first fragment, IPv6", frame(eth(v6), ip6(layers.IPProtocolIPv6Fragment), fragment(17, 1), udp(u6, 53), secret), 70, 70},
		{"IPv4 options", frame(eth(v4), with(ip(layers.IPProtocolTCP), func(l *layers.IPv4) {
			l.Options = []layers.IPv4Option{{OptionType: 7, OptionLength: 7, OptionData: append([]byte{8}, ipA.To4()...)}}
		}), tcp(t4), secret), 62, 34},
		{"hop-by-hop, padding", frame(eth(v6), ip6(0), options6(6, 1, 4, 0, 0, 0, 0), tcp(t6), secret), 82, 82},
		{"destination option unknown", frame(eth(v6), ip6(60), options6(6, 0x1e, 4, 198, 51, 100, 77), tcp(t6), secret), 82, 54},
		{"routing header", frame(eth(v6), ip6(43), raw(append([]byte{6, 2, 0, 0, 0, 0, 0, 0}, ip6A...)...), tcp(t6), secret), 98, 54},
		{"esp", frame(eth(v4), ip(layers.IPProtocolESP), raw(0, 0, 0, 7, 0, 0, 0, 1), secret), 42, 42},
		{"ah", frame(eth(v4), ip(layers.IPProtocolAH), raw(6, 1, 0, 0, 0, 0, 0, 7, 0, 0, 0, 1), tcp(t4), secret), 66, 66},
		{"ipip", frame(eth(v4), ip(layers.IPProtocolIPv4), t4, tcp(t4), secret), 74, 74},
		{"6in4", frame(eth(v4), ip(layers.IPProtocolIPv6), t6, tcp(t6), secret), 94, 94},
		{"gre", frame(eth(v4), ip(layers.IPProtocolGRE), &layers.GRE{Protocol: v4, KeyPresent: true, Key: 9, ChecksumPresent: true}, t4, tcp(t4), secret), 86, 86},
		{"gre with a frame", frame(eth(v4), ip(layers.IPProtocolGRE), &layers.GRE{Protocol: layers.EthernetTypeTransparentEthernetBridging}, gopacket.Payload(inner)), 80, 80},
		{"vxlan", frame(eth(v4), u4, udp(u4, 4789), &layers.VXLAN{ValidIDFlag: true, VNI: 9}, gopacket.Payload(inner)), 92, 92},
		{"no vxlan", frame(eth(v4), u4, udp(u4, 4789), secret), 42, 42},
		{"geneve", frame(eth(v6), u6, udp(u6, 6081), raw(0, 0, 0x65, 0x58, 0, 0, 9, 0), gopacket.Payload(inner)), 112, 112},
		{"geneve with options", frame(eth(v6), u6, udp(u6, 6081), raw(1, 0, 0x65, 0x58, 0, 0, 9, 0, 198, 51, 100, 77), gopacket.Payload(inner)), 116, 70},
		{"tunnels without end", frame(eth(v4), ip(4), ip(4), ip(4), ip(4), ip(4), ip(4), t4, tcp(t4), secret), 14 + 5*20, 14 + 5*20},
		{"version that is none", append(frame(eth(v6)), secret...), 14, 14},
	}
}

// redactRecord is the record of a frame.
func redactRecord(frame, snapshot []byte) []byte {
	r := bpf.Record{TimeNs: testBoot, Trail: 42, Netns: testNS, Ifindex: 7, Hook: uint16(bpf.HookTCIngress), Len: uint32(len(frame)), Flags: bpf.FlagStart}
	r.L3Proto = be16(frame[12:])
	return r.Encode(nil, snapshot)
}

// redacted is what a Redactor makes of a raw record: the record and its snapshot.
func redacted(t testing.TB, raw []byte, p Payload, a *Anonymizer) (bpf.Record, []byte) {
	t.Helper()
	var got tape
	r, err := NewRedactor(&got, p, a)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Record(raw); err != nil || len(got.items) != 1 {
		t.Fatalf("%d records, %v", len(got.items), err)
	}
	var rec bpf.Record
	snapshot, err := rec.Decode(got.items[0].([]byte))
	if err != nil {
		t.Fatal(err)
	}
	return rec, snapshot
}

func TestHeadersAlone(t *testing.T) {
	for _, c := range redactCases(t) {
		t.Run(c.name, func(t *testing.T) {
			raw := redactRecord(c.frame, c.frame)
			rec, snapshot := redacted(t, raw, PayloadHeaders, nil)
			if len(snapshot) != c.kept || !bytes.Equal(snapshot, c.frame[:len(snapshot)]) {
				t.Errorf("%d bytes are kept, want %d:\n% x", len(snapshot), c.kept, snapshot)
			}
			if bytes.Contains(snapshot, []byte("SECRET")) {
				t.Error("application data is kept")
			}
			if rec.Len != uint32(len(c.frame)) {
				t.Errorf("length on the wire %d, was %d", rec.Len, len(c.frame))
			}
			// However short the snapshot is, no more is kept, and never anything else.
			for n := range len(c.frame) {
				_, snapshot := redacted(t, redactRecord(c.frame, c.frame[:n]), PayloadHeaders, nil)
				if len(snapshot) > min(n, c.kept) || !bytes.HasPrefix(c.frame, snapshot) {
					t.Fatalf("of %d bytes %d are kept, want at most %d", n, len(snapshot), c.kept)
				}
			}
			if _, snapshot := redacted(t, raw, PayloadFull, nil); !bytes.Equal(snapshot, c.frame) {
				t.Error("full is not all")
			}
			if rec, snapshot := redacted(t, raw, PayloadOff, nil); len(snapshot) != 0 || rec.Len != uint32(len(c.frame)) {
				t.Errorf("off keeps %d bytes", len(snapshot))
			}
		})
	}
}

// originals are all addresses of redactCases, as bytes.
func originals() (all [][]byte) {
	for _, a := range []net.IP{ipA.To4(), ipB.To4(), ip6A, ip6B} {
		all = append(all, a)
	}
	return append(all, macA, macB)
}

func TestAnonymizedPackets(t *testing.T) {
	a := anonymizer(t)
	for _, c := range redactCases(t) {
		t.Run(c.name, func(t *testing.T) {
			if bytes.Contains(c.frame, []byte{239, 1, 2, 3}) == (c.name != "igmp report") {
				t.Fatal("the case has no group")
			}
			_, snapshot := redacted(t, redactRecord(c.frame, c.frame), PayloadHeaders, a)
			if len(snapshot) != c.keptAnon {
				t.Errorf("%d bytes are kept, want %d:\n% x", len(snapshot), c.keptAnon, snapshot)
			}
			for n := range len(c.frame) + 1 {
				_, snapshot := redacted(t, redactRecord(c.frame, c.frame[:n]), PayloadHeaders, a)
				if bytes.Contains(snapshot, []byte("SECRET")) {
					t.Fatalf("of %d bytes application data is kept", n)
				}
				for _, o := range append(originals(), []byte{239, 1, 2, 3}, []byte{0x34, 0, 0x77}, []byte{198, 51, 100, 77}) {
					if bytes.Contains(snapshot, o) {
						t.Fatalf("of %d bytes % x is kept:\n% x", n, o, snapshot)
					}
				}
			}
		})
	}
}

// Packets whose checksums the kernel leaves to the network card: those that are
// whole get one.
func TestAnonymizedPartialChecksums(t *testing.T) {
	for _, c := range redactCases(t) {
		at := map[string]int{"tcp": 50, "tcp without data": 50, "tcp, IPv6": 70, "udp without data": 40}[c.name]
		if at == 0 {
			continue
		}
		frame := bytes.Clone(c.frame)
		pseudo := sum16(frame[26:34])
		if be16(frame[12:]) == etherIPv6 {
			pseudo = sum16(frame[22:54])
		}
		l4 := 34
		proto := frame[23]
		if be16(frame[12:]) == etherIPv6 {
			l4, proto = 54, frame[20]
		}
		binary.BigEndian.PutUint16(frame[at:], uint16(fold(pseudo+uint32(proto)+uint32(len(frame)-l4))))
		_, snapshot := redacted(t, redactRecord(frame, frame), PayloadHeaders, anonymizer(t))
		_, want := redacted(t, redactRecord(c.frame, c.frame), PayloadHeaders, anonymizer(t))
		whole := len(snapshot) == len(frame)
		if whole && !bytes.Equal(snapshot, want) {
			t.Errorf("%s: checksum %x, want %x", c.name, snapshot[at:at+2], want[at:at+2])
		}
		if !whole && bytes.Equal(snapshot, want) {
			t.Errorf("%s: a checksum of what is not there", c.name)
		}
	}
}

// recordRedacted is a recording of the cases behind a Redactor.
func recordRedacted(t testing.TB, p Payload, a *Anonymizer) []byte {
	t.Helper()
	var out bytes.Buffer
	rec := NewRecorder(&out, RecorderOptions{NoBytes: p == PayloadOff})
	r, err := NewRedactor(rec, p, a)
	if err != nil {
		t.Fatal(err)
	}
	items := journeyItems()[:3]
	for _, c := range redactCases(t) {
		items = append(items, redactRecord(c.frame, c.frame))
	}
	feed(t, r, items)
	if err := rec.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// Wireshark finds nothing wrong with packets that were cut or have other addresses:
// the checksums that were right are right.
func TestToolsOnRedacted(t *testing.T) {
	cases := redactCases(t)
	args := []string{"-T", "fields", "-E", "separator=|", "-e", "frame.len", "-e", "_ws.malformed"}
	for _, proto := range []string{"ip", "tcp", "udp"} {
		args = append(args, "-o", proto+".check_checksum:TRUE")
	}
	for _, proto := range []string{"ip", "tcp", "udp", "icmp", "icmpv6", "igmp"} {
		args = append(args, "-e", proto+".checksum.status")
	}
	for _, p := range []Payload{PayloadHeaders, PayloadOff} {
		for _, a := range []*Anonymizer{nil, anonymizer(t)} {
			path := onDisk(t, recordRedacted(t, p, a))
			good := 0
			for i, line := range strings.Split(strings.TrimSpace(tool(t, "tshark", append([]string{"-r", path}, args...)...)), "\n") {
				what := fmt.Sprintf("%s, payload %d, other addresses %v", cases[i].name, p, a != nil)
				fields := strings.Split(line, "|")
				if fields[0] != fmt.Sprint(len(cases[i].frame)) || fields[1] != "" {
					t.Errorf("%s: length on the wire %s, want %d; malformed %q", what, fields[0], len(cases[i].frame), fields[1])
				}
				status := strings.Join(fields[2:], ",")
				if strings.Contains(status, "0") {
					t.Errorf("%s: a bad checksum: %s", what, status)
				}
				good += strings.Count(status, "1")
			}
			if p == PayloadHeaders && good < len(cases) {
				t.Errorf("%d checksums are good", good)
			}
		}
	}
}

// PayloadOff leaves packets that can be seen, without a byte.
func TestRecordingWithoutBytes(t *testing.T) {
	file := recordRedacted(t, PayloadOff, nil)
	r, n := pcapng.NewReader(bytes.NewReader(file)), 0
	for {
		b, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if p := b.Packet; p != nil {
			if len(p.Data) != 0 || p.OrigLen == 0 || len(p.Comments) != 1 || !p.HasID {
				t.Errorf("packet %+v", p)
			}
			n++
		}
	}
	if want := len(redactCases(t)); n != want {
		t.Errorf("%d packets, want %d", n, want)
	}
	var got tape
	if result, err := Replay(bytes.NewReader(file), &got); err != nil || int(result.Records) != n {
		t.Errorf("%+v, %v", result, err)
	}
}

// TestAnonymizedHookParts: what a hook adds has other addresses, and what is of a
// hook that is not known is cleared.
func TestAnonymizedHookParts(t *testing.T) {
	a := anonymizer(t)
	addr4 := func(ip net.IP) (b [16]byte) { copy(b[:], ip.To4()); return b }
	other4 := func(ip net.IP) (b [16]byte) {
		to := a.addr4([4]byte(ip.To4()))
		copy(b[:], to[:])
		return b
	}
	ipvs := bpf.IPVSExt{Af: 2, Daf: 10, Caddr: addr4(ipA), Vaddr: addr4(ipB), Daddr: [16]byte(ip6A), Cport: 7}
	ipvsWant := ipvs
	ipvsWant.Caddr, ipvsWant.Vaddr, ipvsWant.Daddr = other4(ipA), other4(ipB), a.addr16([16]byte(ip6A))
	nat := bpf.NATExt{Addr: [16]byte(ipA.To16()), Port: 9}
	natWant := nat
	natWant.Addr = a.addr16(nat.Addr)
	sock := bpf.SocketExt{Af: 2, Laddr: addr4(ipA), Raddr: addr4(ipB), Lport: 3}
	sockWant := sock
	sockWant.Laddr, sockWant.Raddr = other4(ipA), other4(ipB)
	redirect := bpf.ICMPExt{Type: 5, Info: binary.LittleEndian.Uint32(ipA.To4())}
	redirectWant := redirect
	redirectWant.Info = binary.LittleEndian.Uint32(func() []byte { x := other4(ipA); return x[:4] }())
	chain := bpf.NetfilterExt{Rule: 5}
	copy(chain.Table[:], "from-198.51.100.77")
	copy(chain.Chain[:], "input")
	chainWant := chain
	chainWant.Table = [32]byte{}
	copy(chainWant.Table[:], "from-"+a.Text("198.51.100.77"))
	queue := bpf.EncodeExt(bpf.QueueExt{Queue: 3, PacketId: 9})
	for name, c := range map[string]struct {
		hook      bpf.Hook
		ext, want []byte
	}{
		"ipvs":    {bpf.HookIPVSForward, bpf.EncodeExt(ipvs), bpf.EncodeExt(ipvsWant)},
		"nat":     {bpf.HookNAT, bpf.EncodeExt(nat), bpf.EncodeExt(natWant)},
		"socket":  {bpf.HookSocketReceive, bpf.EncodeExt(sock), bpf.EncodeExt(sockWant)},
		"icmp":    {bpf.HookSocketICMP, bpf.EncodeExt(redirect), bpf.EncodeExt(redirectWant)},
		"chain":   {bpf.HookNFTChain, bpf.EncodeExt(chain), bpf.EncodeExt(chainWant)},
		"queue":   {bpf.HookQueueEnter, queue, queue},
		"short":   {bpf.HookNAT, []byte{1, 2}, []byte{0, 0}},
		"unknown": {31, []byte{198, 51, 100, 77}, []byte{0, 0, 0, 0}},
	} {
		r := bpf.Record{Hook: uint16(c.hook), IpVersion: 4, Src: [16]byte(ipA.To16()), Dst: [16]byte(ipB.To16())}
		var got tape
		red, _ := NewRedactor(&got, PayloadHeaders, a)
		if err := red.Record(r.Encode(c.ext, nil)); err != nil {
			t.Fatal(err)
		}
		raw := got.items[0].([]byte)
		if !bytes.Equal(raw[bpf.RecordSize:], c.want) {
			t.Errorf("%s:\n% x\nwant\n% x", name, raw[bpf.RecordSize:], c.want)
		}
		var rec bpf.Record
		_, _ = rec.Decode(raw)
		if rec.SrcAddr() != a.Addr(netip.AddrFrom4([4]byte(ipA.To4()))) {
			t.Errorf("%s: source %s", name, rec.SrcAddr())
		}
	}
	// Every hook is known: one that is added says here what it has.
	for h := range bpf.HookMax {
		long := make([]byte, 512)
		known := a.ext(&bpf.Record{Hook: uint16(h)}, long)
		named := !strings.HasPrefix(string(newRecordedNames().appendSentence(nil, &bpf.Record{Hook: uint16(h)}, nil, "")), "hook ")
		silent := h == bpf.HookKfreeSkb || h == bpf.HookConnect || h == bpf.HookConsumeSkb || h == bpf.HookKfreeSkbmem || h == bpf.HookSkbClone || h == bpf.HookSkbSegment ||
			h == bpf.HookTCIngress || h == bpf.HookTCEgress || h == bpf.HookSocketReject
		if named && !known && !silent {
			t.Errorf("what hook %d adds is cleared: does it have addresses?", h)
		}
	}
}

func TestRedactorRefuses(t *testing.T) {
	if _, err := NewRedactor(&tape{}, PayloadFull, anonymizer(t)); err == nil {
		t.Error("addresses in payload were accepted")
	}
	if _, err := ParsePayload("some"); err == nil || !strings.Contains(err.Error(), "off, headers or full") {
		t.Error(err)
	}
	for _, p := range []Payload{PayloadOff, PayloadHeaders, PayloadFull} {
		if got, err := ParsePayload([]string{"headers", "off", "full"}[p]); err != nil || got != p {
			t.Error(p, got, err)
		}
	}
	var got tape
	r, _ := NewRedactor(&got, PayloadHeaders, nil)
	if err := r.Record([]byte("short")); err != nil || len(got.items) != 0 {
		t.Errorf("%d records, %v", len(got.items), err)
	}
}

// The first bytes of a datagram are in the record itself.
func TestRedactorClearsDatagramBytes(t *testing.T) {
	for _, p := range []Payload{PayloadOff, PayloadHeaders} {
		r := bpf.Record{Proto: protoUDP, Seq: 0x53454352}
		if rec, _ := redacted(t, r.Encode(nil, nil), p, nil); rec.Seq != 0 {
			t.Errorf("payload %d: %x", p, rec.Seq)
		}
		r.Proto = protoTCP
		if rec, _ := redacted(t, r.Encode(nil, nil), p, nil); rec.Seq == 0 {
			t.Error("a sequence number was cleared")
		}
	}
}

// A port that a balancer takes for SCTP in UDP is one.
func TestRedactorKeepsWhatTheBalancerReads(t *testing.T) {
	var got tape
	r, _ := NewRedactor(&got, PayloadHeaders, nil)
	feed(t, r, []any{&Context{Balancer: &Balancer{Flows: []BalancerFlow{{UDPEncap: 5555}}}}})
	var frame []byte
	for _, c := range redactCases(t) {
		if c.name == "sctp in udp" {
			frame = bytes.Clone(c.frame)
		}
	}
	binary.BigEndian.PutUint16(frame[36:], 5555)
	feed(t, r, []any{redactRecord(frame, frame)})
	var rec bpf.Record
	if snapshot, _ := rec.Decode(got.items[1].([]byte)); len(snapshot) != 54 {
		t.Errorf("%d bytes are kept, want 54", len(snapshot))
	}
}

func TestRedactorAllocatesNothing(t *testing.T) {
	var n nowhere
	for _, a := range []*Anonymizer{nil, anonymizer(t)} {
		r, _ := NewRedactor(&n, PayloadHeaders, a)
		for _, c := range redactCases(t) {
			raw := redactRecord(c.frame, c.frame)
			if n := testing.AllocsPerRun(100, func() { _ = r.Record(raw) }); n != 0 {
				t.Errorf("%s, other addresses %v: %v allocations", c.name, a != nil, n)
			}
		}
	}
}

// FuzzRedactor: whatever a packet is, no more of it is kept than there was, headers
// alone are its first bytes, and other addresses change no length.
func FuzzRedactor(f *testing.F) {
	for _, c := range redactCases(f) {
		f.Add(c.frame, uint16(bpf.HookTCIngress), false, []byte(nil))
	}
	f.Add([]byte{0x45}, uint16(bpf.HookNAT), true, bpf.EncodeExt(bpf.NATExt{}))
	a := anonymizer(f)
	f.Fuzz(func(t *testing.T, frame []byte, hook uint16, l3 bool, ext []byte) {
		if len(frame) > 0xffff || len(ext) > 0xffff {
			return
		}
		r := bpf.Record{Hook: hook, L3Proto: etherIPv4}
		if len(frame) >= 14 {
			r.L3Proto = be16(frame[12:])
		}
		if l3 {
			r.Flags = bpf.FlagL3
		}
		raw := r.Encode(ext, frame)
		_, plain := redacted(t, raw, PayloadHeaders, nil)
		rec, other := redacted(t, raw, PayloadHeaders, a)
		if !bytes.HasPrefix(frame, plain) || len(other) > len(plain) || int(rec.ExtLen) != len(ext) {
			t.Fatalf("of %d bytes %d and %d are kept", len(frame), len(plain), len(other))
		}
	})
}

func BenchmarkRedactor(b *testing.B) {
	for _, anonymize := range []bool{false, true} {
		b.Run(fmt.Sprintf("anonymize=%v", anonymize), func(b *testing.B) {
			var n nowhere
			var a *Anonymizer
			if anonymize {
				a = anonymizer(b)
			}
			r, _ := NewRedactor(&n, PayloadHeaders, a)
			raw := redactRecord(redactCases(b)[0].frame, redactCases(b)[0].frame)
			b.ReportAllocs()
			for b.Loop() {
				_ = r.Record(raw)
			}
		})
	}
}
