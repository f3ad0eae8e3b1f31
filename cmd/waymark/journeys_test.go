// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bytes"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"waymark/decoder"
	"waymark/scenarios"
)

var updateJourneys = flag.Bool("update-journeys", false, "write testdata/journeys of this kernel anew")

// journeyCase is something sent through a lab whose packets' ways are known.
type journeyCase struct {
	name    string
	traffic scenarios.Traffic
	send    func(*scenarios.World) error // instead of traffic
}

// ping is one echo request from the lab's client and its answer.
func ping(dst string) func(*scenarios.World) error {
	return func(w *scenarios.World) error {
		_, err := w.Ping(ctxBackground, netip.MustParseAddr(dst), 7)
		return err
	}
}

// TestJourneys holds what `trace --hooks all` prints, without its times, to one
// table of expected journeys for each lab and kernel: of TCP the first packet of
// each direction, of the rest every packet.
func TestJourneys(t *testing.T) {
	for _, lab := range []struct {
		name    string
		options scenarios.Options
		same    func(string) string // what the kernel chooses
		cases   []journeyCase
	}{
		{
			name: "meridio", options: scenarios.Options{Lab: "meridio"}, same: strings.Clone,
			cases: []journeyCase{
				{name: "path MTU error to the VIP", send: tellPathMTU}, // which nobody answers: not at the end
				{name: "TCP", traffic: scenarios.Traffic{Source: port(41000)}},
				{name: "TCP over IPv6", traffic: scenarios.Traffic{IPv6: true, Source: port(41001)}},
				{name: "UDP", traffic: scenarios.Traffic{UDP: true, Source: port(41002)}},
				{name: "UDP over IPv6", traffic: scenarios.Traffic{UDP: true, IPv6: true, Source: port(41003)}},
				{name: "fragments", traffic: scenarios.Traffic{UDP: true, Size: 2000, Source: port(41004)}},
				{name: "echo", send: ping("10.0.0.1")},
				{name: "echo over IPv6", send: ping("1000::1:a00:1")},
			},
		},
		{
			name: "vxlan", options: scenarios.Options{Lab: "meridio", External: "vxlan"}, same: strings.Clone,
			cases: []journeyCase{
				{name: "TCP", traffic: scenarios.Traffic{Source: port(41000)}},
				{name: "TCP over IPv6", traffic: scenarios.Traffic{IPv6: true, Source: port(41001)}},
				{name: "echo", send: ping("10.0.0.1")},
			},
		},
		{
			name: "ipvs", options: scenarios.Options{Lab: "ipvs"},
			// Which director and which realserver it is.
			same: strings.NewReplacer("-d2", "-d1", "-rs2", "-rs1", "-pod2", "-pod1",
				"10.131.153.102", "10.131.153.101", "fd00:131:153::102", "fd00:131:153::101", "192.168.10.2", "192.168.10.1", "10.131.153.73", "10.131.153.72").Replace,
			cases: []journeyCase{
				{name: "direct", traffic: scenarios.Traffic{To: "direct", Source: port(41000)}},
				{name: "direct over IPv6", traffic: scenarios.Traffic{To: "direct", IPv6: true, Source: port(41001)}},
				{name: "tunnel", traffic: scenarios.Traffic{To: "tunnel", Source: port(41002)}},
				{name: "masq, UDP, new connection", traffic: scenarios.Traffic{To: "masq", UDP: true, Source: port(41003)}},
				{name: "masq, UDP, existing connection", traffic: scenarios.Traffic{To: "masq", UDP: true, Source: port(41003)}},
				{name: "masq over IPv6", traffic: scenarios.Traffic{To: "masq", IPv6: true, Source: port(41004)}},
			},
		},
		{
			name: "cbr0", options: scenarios.Options{Lab: "cbr0"},
			// See detour: how long it is taken depends on when the pod last answered.
			same: func(s string) string {
				return regexp.MustCompile(`.* route: .* dev cbr0\n.*/cbr0 +leaves\n(.* through br_netfilter\n)`).ReplaceAllString(s, "$1")
			},
			cases: []journeyCase{
				{name: "pod to pod", traffic: scenarios.Traffic{To: "pod", Source: port(41000)}},
				{name: "pod to pod over IPv6", traffic: scenarios.Traffic{To: "pod", IPv6: true, Source: port(41001)}},
				{name: "to the internet, masquerade", traffic: scenarios.Traffic{To: "internet", Source: port(41002)}},
				{name: "hairpin", traffic: scenarios.Traffic{To: "hairpin", UDP: true, Source: port(41003)}},
				{name: "from outside", traffic: scenarios.Traffic{To: "inbound", Source: port(41004)}},
			},
		},
	} {
		t.Run(lab.name, func(t *testing.T) {
			w := labUpWith(t, lab.options)
			// The neighbours, the bridges and the flow caches know their way.
			for _, c := range lab.cases {
				c.traffic.Source = netip.AddrPort{}
				sendCase(t, w, c)
			}
			got := lab.same(journeysOf(t, w, lab.cases))
			golden := filepath.Join("testdata", "journeys", lab.name+"-"+kernelLine()+".txt")
			if *updateJourneys {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatalf("no table for this kernel: run this with -update-journeys on it: %v", err)
			}
			if got != string(want) {
				t.Errorf("%s:\n%s", golden, firstDifference(string(want), got))
			}
		})
	}
}

func port(p uint16) netip.AddrPort { return netip.AddrPortFrom(netip.Addr{}, p) }

func sendCase(t *testing.T, w *scenarios.World, c journeyCase) {
	t.Helper()
	if c.send != nil {
		if err := c.send(w); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		return
	}
	c.traffic.Timeout = 20 * time.Second
	sum, err := w.Send(ctxBackground, c.traffic, nil)
	if err != nil || sum.Failed > 0 {
		t.Fatalf("%s: %+v, %v", c.name, sum, err)
	}
}

// journeysOf traces the cases, one after the other, and returns what is printed of
// them without what differs from run to run.
func journeysOf(t *testing.T, w *scenarios.World, cases []journeyCase) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "journeys.pcapng")
	tr := start(t, append(append([]string{"record", "-w", file, "--hooks", "all"}, netnsFlags(w)...), "ip or ip6")...)
	ends := make([]decoder.WallTime, len(cases))
	for i, c := range cases {
		sendCase(t, w, c)
		ends[i] = decoder.WallTime(time.Now().UnixNano())
	}
	tr.stop(t)
	if !testing.Short() { // the host has time for it
		checkAnonymized(t, file)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []*decoder.Journey
	s := newStitcher(decoder.Options{Emit: func(j *decoder.Journey) { all = append(all, j) }})
	if _, err := decoder.Replay(f, s); err != nil {
		t.Fatal(err)
	}
	s.Flush()
	var out strings.Builder
	told := map[string]bool{} // what a tunnel carries looks all the same, and what is sent again
	for i, c := range cases {
		fmt.Fprintf(&out, "== %s\n", c.name)
		for ; len(all) > 0 && all[0].Start <= ends[i]; all = all[1:] {
			p := &all[0].Packet
			what := fmt.Sprint(p.Proto, p.Src, p.SPort, p.Dst, p.DPort, p.TCPFlags)
			if tellsWay(p) && !(told[what] && (p.Proto == "ipip" || p.Proto == "tcp")) {
				out.WriteString(timeless(t, all[0]))
			}
			told[what] = true
		}
	}
	return out.String()
}

// tellsWay leaves out the later packets of TCP connections, whose number differs,
// and what neighbours say to each other.
func tellsWay(p *decoder.Packet) bool {
	switch {
	case p.Proto == "igmp":
		return false
	case p.Proto == "tcp":
		return strings.HasPrefix(p.TCPFlags, "S")
	case p.Proto == "icmp6" && p.ICMPType != nil:
		return *p.ICMPType < 130 || *p.ICMPType > 143
	}
	return true
}

var (
	headTime  = regexp.MustCompile(`^\d\d:\d\d:\d\d\.\d+ `)
	hopTime   = regexp.MustCompile(`(?m)^ *\d+\.\dµs  `)
	journey1  = regexp.MustCompile(`  #\S+-(\d+)\n`)
	offset    = regexp.MustCompile(`\+0x[0-9a-f]+`)
	trailID   = regexp.MustCompile(`#\d+`)
	depth     = regexp.MustCompile(`\b\d+ of`)
	processID = regexp.MustCompile(`(waymark)\[\d+\]`)
	changing  = regexp.MustCompile(`\b(packet|pid|inode|queue|handle|after|waited|fragment) [0-9.]+(µs)?`)
)

// timeless is a journey as it is printed, without its times, places in functions,
// and numbers of packets, processes and rules.
func timeless(t *testing.T, j *decoder.Journey) string {
	t.Helper()
	var b bytes.Buffer
	if err := decoder.NewTextWriter(&b, decoder.TextOptions{}).Journey(j); err != nil {
		t.Fatal(err)
	}
	s := headTime.ReplaceAllString(b.String(), "")
	s = hopTime.ReplaceAllString(s, "  ")
	s = journey1.ReplaceAllString(s, "\n")
	s = offset.ReplaceAllString(s, "")
	copies := map[string]string{}
	s = trailID.ReplaceAllStringFunc(s, func(id string) string {
		if copies[id] == "" {
			copies[id] = fmt.Sprintf("#%d", len(copies)+1)
		}
		return copies[id]
	})
	s = depth.ReplaceAllString(s, "N of")
	s = processID.ReplaceAllString(s, "$1[N]")
	return changing.ReplaceAllString(s, "$1 N")
}

// firstDifference shows the first line that differs, with its surroundings.
func firstDifference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	n := 0
	for n < len(w) && n < len(g) && w[n] == g[n] {
		n++
	}
	part := func(lines []string) string {
		return strings.Join(lines[min(max(n-8, 0), len(lines)):min(n+6, len(lines))], "\n")
	}
	return fmt.Sprintf("from line %d on: want\n%s\ngot\n%s", n+1, part(w), part(g))
}

// tellPathMTU is a router between gateway and client: an answer of the service was
// too big for its next link (RFC 1191). The balancer has to find the target by the
// packet inside.
func tellPathMTU(w *scenarios.World) error {
	vip, client := net.IP{10, 0, 0, 1}, net.IP{200, 100, 0, 1}
	answer := &layers.IPv4{Version: 4, TTL: 60, Id: 4711, Flags: layers.IPv4DontFragment, Protocol: layers.IPProtocolTCP, SrcIP: vip, DstIP: client}
	segment := &layers.TCP{SrcPort: 5000, DstPort: 41000, Seq: 1, ACK: true}
	if err := segment.SetNetworkLayerForChecksum(answer); err != nil {
		return err
	}
	buf := gopacket.NewSerializeBuffer()
	opts := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(buf, opts,
		&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeDestinationUnreachable, layers.ICMPv4CodeFragmentationNeeded), Seq: 1300},
		answer, segment); err != nil {
		return err
	}
	return w.Inside("gw", func() error {
		c, err := net.ListenPacket("ip4:icmp", client.String())
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.WriteTo(buf.Bytes(), &net.IPAddr{IP: vip})
		return err
	})
}
