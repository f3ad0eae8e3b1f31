// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// allTrace is every bit.
const allTrace = TraceFlows<<1 - 1

func TestParseTraceSelection(t *testing.T) {
	for in, want := range map[string]TraceMask{
		"flows": 64, "log,packet": 3, "log,packet,frag,flow-conf,sctp,target,flows": allTrace,
	} {
		if got, err := ParseTraceSelection(in); err != nil || got != want {
			t.Errorf("%s: %#x, %v; want %#x", in, got, err, want)
		}
	}
	for _, in := range []string{"", "flow", "flows,", "flows, log"} {
		if _, err := ParseTraceSelection(in); err == nil {
			t.Errorf("%q: no error", in)
		}
	}
}

// traceOf is what a client with mask gets for the packets.
func traceOf(b *Balancer, mask TraceMask, packets ...[]byte) string {
	c := b.attachTrace(mask)
	defer b.detachTrace(c)
	var p Packet
	for _, l3 := range packets {
		b.Decide(l3, &p)
	}
	return string(b.trace.take(c, nil))
}

// The fragments that are given back are told before the one that freed them.
func TestTraceOfInjectedFragments(t *testing.T) {
	var fail error
	w := newFragWorld(t, func(c *FragmentConfig) { c.Inject = func([]byte) error { return fail } })
	f := fragmented(src4, vip4, protoUDP, 1, 1400, udpPayload(1, 5001, 3000))
	const kept, first = "Fragment stored\n", "First fragment\n"
	want := kept + kept + fmt.Sprintf("Frag injected, len=%d, rc=%[1]d\nFrag injected, len=%d, rc=%[2]d\n", len(f[2]), len(f[1])) + first
	if got := traceOf(w.Balancer, TraceFrag, f[2], f[1], f[0]); got != want {
		t.Errorf("got %q\nwant %q", got, want)
	}
	f, fail = fragmented(src4, vip4, protoUDP, 2, 1400, udpPayload(1, 5001, 2000)), errors.New("device is down")
	want = kept + fmt.Sprintf("Frag injected, len=%d, rc=-1\n", len(f[1])) + first
	if got := traceOf(w.Balancer, TraceFrag, f[1], f[0]); got != want {
		t.Errorf("got %q\nwant %q", got, want)
	}
}

// The texts are nfqlb's.
func TestTraceOfPackets(t *testing.T) {
	src := netip.MustParseAddr("200.100.0.1")
	src6 := netip.MustParseAddr("2000::1")
	b := meridio(t, Config{PromiscuousPing: true}, 57)
	empty, err := NewTable(7, 1, []int{-1})
	if err != nil {
		t.Fatal(err)
	}
	full := b.load
	b.load = func(name string) (*Table, error) {
		if name == "empty" {
			return empty, nil
		}
		return full(name)
	}
	for _, f := range []FlowSpec{
		{Name: "gone", Target: "empty", Dests: []string{"10.0.0.2/32"}},
		{Name: "s", Target: "tshm-stream-a", Protocols: []string{"sctp"}, DPorts: []string{"6000"}, UDPEncap: 9899},
	} {
		if err := b.SetFlow(f); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.SetTraceFlow(FlowSpec{Name: "t", Srcs: []string{"200.100.0.0/24", "2000::/64"}}); err != nil {
		t.Fatal(err)
	}
	tcp := wire(ipv4(src, vip4, protoTCP, 1, 0, ports(42000, 5000), make([]byte, 8)))
	first := wire(ipv4(src, vip4, protoTCP, 1, 0x2000, ports(42000, 5000), make([]byte, 8)))
	later := wire(ipv4(src, vip4, protoTCP, 1, 3, make([]byte, 24)))
	encap := wire(ipv4(src, vip4, protoUDP, 1, 0, ports(1, 9899)[:8], ports(7, 6000)))
	noPort := wire(ipv4(src, vip4, protoUDP, 1, 0, ports(1, 9898)))
	none := wire(ipv4(src, netip.MustParseAddr("10.0.0.2"), protoTCP, 1, 0, ports(1, 2)))
	fragNeeded := wire(ipv4(src, vip4, protoICMP, 1, 0, []byte{3, 4, 0, 0, 0, 0, 5, 20}, ipv4(vip4, src, protoTCP, 1, 0, ports(5000, 42000))))
	tooBig := wire(ipv6(src6, vip6, protoICMPv6, []byte{2, 0, 0, 0, 0, 0, 5, 0}, ipv6(vip6, src6, protoTCP, ports(5000, 42000))))
	for _, c := range []struct {
		name string
		mask TraceMask
		l3   []byte
		want string
	}{
		{"tcp", TraceFlows, tcp, "\nMatch for trace-flow: t\nproto=tcp, len=40, ::ffff:200.100.0.1 42000 -> ::ffff:10.0.0.1 5000\ntarget=tshm-stream-a, fwmark=5058\n"},
		{"cut tcp", TraceFlows, tcp[:24], "\nMatch for trace-flow: t\nproto=tcp, len=40, ::ffff:200.100.0.1 42000 -> ::ffff:10.0.0.1 5000\ntarget=tshm-stream-a, fwmark=5058\n"},
		{"tcp, packet", TracePacket, tcp, "Using LB; tshm-stream-a\nPacket; proto=6, len=40, fwmark=5058\n"},
		{"tcp, sctp", TraceSCTP, tcp, ""},
		{"other source", TraceFlows, wire(ipv4(src4, vip4, protoTCP, 1, 0, ports(42000, 5000))), ""},
		{"no flow", TraceFlows, noPort, "\nMatch for trace-flow: t\nproto=udp, len=32, ::ffff:200.100.0.1 1 -> ::ffff:10.0.0.1 9898\nNO target, fwmark=-1\n"},
		{"no flow, packet", TracePacket, noPort, "Failed flowLookup\n"},
		{"no server", TraceFlows, none, "\nMatch for trace-flow: t\nproto=tcp, len=32, ::ffff:200.100.0.1 1 -> ::ffff:10.0.0.2 2\nNO servers, target=empty, fwmark=-1\n"},
		{"no server, packet", TracePacket, none, ""},
		{"echo", TraceFlows, wire(ipv4(src, vip4, protoICMP, 1, 0, echo(8, 0x1234))), "\nMatch for trace-flow: t\nICMP_ECHO: id=4660, seq=1\nproto=icmp, len=28, ::ffff:200.100.0.1 0 -> ::ffff:10.0.0.1 0\ntarget=tshm-stream-a, fwmark=5058\n"},
		{"echo reply", TraceFlows, wire(ipv4(src, vip4, protoICMP, 1, 0, echo(0, 0x1234))), "\nMatch for trace-flow: t\nICMP 0, 0\nproto=icmp, len=28, ::ffff:200.100.0.1 0 -> ::ffff:10.0.0.1 0\ntarget=tshm-stream-a, fwmark=5058\n"},
		{"echo v6", TraceFlows, wire(ipv6(src6, vip6, protoICMPv6, echo(128, 0x1234))), "\nMatch for trace-flow: t\nICMP6_ECHO_REQUEST: id=4660, seq=1\nproto=icmp6, len=48, 2000::1 0 -> 1000::1:a00:1 0\ntarget=tshm-stream-a, fwmark=5058\n"},
		{"frag needed", TraceFlows, fragNeeded, "\nMatch for trace-flow: t\nICMP_DEST_UNREACH/FRAG_NEEDED: mtu=1300\nproto=tcp, len=60, ::ffff:200.100.0.1 42000 -> ::ffff:10.0.0.1 5000\ntarget=tshm-stream-a, fwmark=5058\n"},
		{"too big", TraceFlows, tooBig, "\nMatch for trace-flow: t\nICMP6_PACKET_TOO_BIG: mtu=1280\nproto=tcp, len=100, 2000::1 42000 -> 1000::1:a00:1 5000\ntarget=tshm-stream-a, fwmark=5058\n"},
		{"encapsulated", TraceFlows, encap, "\nMatch for trace-flow: t\nproto=udp, len=40, ::ffff:200.100.0.1 1 -> ::ffff:10.0.0.1 9899\nudpencap=9899\ntarget=tshm-stream-a, fwmark=5058\n"},
		{"encapsulated, sctp", TraceSCTP, encap, "Udp encapsulated sctp packet on port 9899\nUsing LB; tshm-stream-a\nPacket; proto=132, len=40, fwmark=5058\n"},
		{"first fragment", TraceFrag, first, "First fragment\n"},
		{"first fragment, flows", TraceFlows, first, "\nMatch for trace-flow: t\nproto=tcp, len=40, ::ffff:200.100.0.1 42000 -> ::ffff:10.0.0.1 5000\ntarget=tshm-stream-a, fwmark=5058\n"},
		{"later fragment", allTrace, later, "Fragment dropped\n"},
		{"unreadable", TracePacket, []byte{0x45}, "Packet cannot be read, len=1\n"},
		{"nothing", TraceTarget, tcp, ""},
	} {
		if got := traceOf(b, c.mask, c.l3); got != c.want {
			t.Errorf("%s:\n got %q\nwant %q", c.name, got, c.want)
		}
	}
	if n := b.TraceFlows("t")[0].MatchesCount; n != 11 {
		t.Errorf("the trace-flow matched %d packets", n)
	}
}

func TestTraceOfFragmentDecisions(t *testing.T) {
	p := &Packet{Kind: FirstFragment}
	l3 := wire(ipv4(src4, vip4, protoTCP, 1, 0x2000, ports(1, 2)))
	b := meridio(t, Config{}, 57)
	c := b.attachTrace(allTrace)
	for _, f := range []struct {
		kind Kind
		d    Decision
		want string
	}{
		{FirstFragment, Decision{Index: 3, Mark: 9, Accept: true, Why: OtherBalancer}, "Fragment to LB tier. fw=9\n"},
		{LaterFragment, Decision{Index: 3, Mark: 9, Accept: true, Why: OtherBalancer}, "Fragment to LB tier. fw=9\n"},
		{LaterFragment, Decision{Index: -1, Mark: -1, Why: FragmentKept}, "Fragment stored\n"},
		{LaterFragment, Decision{Index: 3, Mark: 5058, Accept: true}, "Handle non-first frag locally fwmark=5058\n"},
		{LaterFragment, Decision{Index: -1, Mark: -1, Why: NoFragmentRoom}, "Fragment dropped\n"},
		{FirstFragment, Decision{Index: -1, Mark: -1, Why: NoFragmentRoom}, "First fragment\nFAILED: Handle first fragment\nFailed flowLookup\n"},
	} {
		p.Kind = f.kind
		b.tracePacket(allTrace, l3, p, &f.d)
		if got := string(b.trace.take(c, nil)); got != f.want {
			t.Errorf("%+v: %q, want %q", f, got, f.want)
		}
	}
}

func TestTraceOfConfiguration(t *testing.T) {
	b := controlled(t)
	c := b.attachTrace(TraceTarget | TraceFlowConf)
	ctx := t.Context()
	if err := SetFlow(ctx, FlowSpec{Name: "a", Target: "t"}); err != nil {
		t.Fatal(err)
	}
	if err := SetFlow(ctx, FlowSpec{Name: "b", Target: "nosuch"}); err == nil {
		t.Fatal("no error")
	}
	if err := DeleteFlow(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	b.TraceLine([]byte("not asked for\n"))
	const want = "Creating LB; t\nwriteReply [OK]\n" +
		"Creating LB; nosuch\nMap shm failed; nosuch\nwriteReply [FAIL: target nosuch: no such table]\n" +
		"Delete load-balancer; t\nwriteReply [OK]\n"
	if got := string(b.trace.take(c, nil)); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestTraceFlowCommands(t *testing.T) {
	b := controlled(t)
	ctx := t.Context()
	spec := FlowSpec{Name: "a", Protocols: []string{"tcp"}, DPorts: []string{"80"}}
	if err := SetTraceFlow(ctx, spec); err != nil {
		t.Fatal(err)
	}
	if err := SetTraceFlow(ctx, FlowSpec{Name: "b"}); err != nil {
		t.Fatal(err)
	}
	traceOf(b, TraceFlows, wire(ipv4(src4, dst4, protoTCP, 1, 0, ports(1, 80))))
	if err := SetTraceFlow(ctx, spec); err != nil { // keeps its count
		t.Fatal(err)
	}
	const a = "{\n  \"name\": \"a\",\n  \"priority\": 0,\n  \"protocols\": [ \"tcp\" ],\n  \"dports\": [\n    \"80\"\n  ],\n  \"matches_count\": 1\n}"
	for _, c := range []struct {
		cmd  Command
		want string
	}{
		{Command{Action: "trace-list", Flow: FlowSpec{Name: "a"}}, a},
		{Command{Action: "trace-list"}, "[" + a + ",\n{\n  \"name\": \"b\",\n  \"priority\": 0,\n  \"matches_count\": 0\n}]\n"},
		{Command{Action: "trace-list-names"}, "[\n  \"a\",\n  \"b\"\n]\n"},
		{Command{Action: "list-names"}, "[]\n"},
		{Command{Action: "trace-list", Flow: FlowSpec{Name: "nosuch"}}, ""},
		{Command{Action: "trace-set", Flow: FlowSpec{Name: "x", Dests: []string{"10.0.0.1"}}}, "FAIL: dsts: \"10.0.0.1\" has no prefix length; write 10.0.0.1/32 or /128 for one address\x00"},
		{Command{Action: "trace-set", Flow: FlowSpec{Name: "x", Protocols: []string{"sctp"}, UDPEncap: 1}}, "FAIL: udpencap is not for a trace-flow\x00"},
		{Command{Action: "trace-set"}, "FAIL: the flow has no name\x00"},
		{Command{Action: "trace-delete"}, "FAIL: no name\x00"},
		{Command{Action: "trace-delete", Flow: FlowSpec{Name: "nosuch"}}, "OK\x00"},
		{Command{Action: "trace-delete", Flow: FlowSpec{Name: "a"}}, "OK\x00"},
		{Command{Action: "trace-list-names"}, "[\n  \"b\"\n]\n"},
	} {
		got, err := Do(ctx, &c.cmd)
		if err != nil || string(got) != c.want {
			t.Errorf("%+v:\n got %q, %v\nwant %q", c.cmd, got, err, c.want)
		}
	}
	if err := DeleteTraceFlow(ctx, "b"); err != nil || b.trace.flows.state.Load() != nil {
		t.Errorf("after the last deletion: %v, %v", err, b.TraceFlows(""))
	}
}

// Without a client tracing is one load, with one it still allocates nothing.
func TestTraceAllocatesNothing(t *testing.T) {
	b := meridio(t, Config{}, 57)
	if err := b.SetTraceFlow(FlowSpec{Name: "t"}); err != nil {
		t.Fatal(err)
	}
	l3 := wire(ipv4(src4, vip4, protoTCP, 1, 0, ports(42000, 5000)))
	var p Packet
	for _, mask := range []TraceMask{0, TraceLog, allTrace} {
		c := b.attachTrace(mask)
		buf := make([]byte, 0, traceBuffer)
		for range 2 {
			for range 10_000 {
				b.Decide(l3, &p)
			}
			buf = b.trace.take(c, buf) // both buffers have their size then
		}
		if n := testing.AllocsPerRun(1000, func() { b.Decide(l3, &p) }); n != 0 {
			t.Errorf("mask %#x: %v allocations for a packet", mask, n)
		}
		b.detachTrace(c)
	}
}

func BenchmarkTrace(b *testing.B) {
	for _, c := range []struct {
		name string
		mask TraceMask
	}{{"nobody", 0}, {"log", TraceLog}, {"flows", TraceFlows}, {"all", allTrace}} {
		b.Run(c.name, func(b *testing.B) {
			lb := meridio(b, Config{}, 57)
			if err := lb.SetTraceFlow(FlowSpec{Name: "t"}); err != nil {
				b.Fatal(err)
			}
			l3 := wire(ipv4(src4, vip4, protoTCP, 1, 0, ports(42000, 5000)))
			var p Packet
			if c.mask != 0 {
				client := lb.attachTrace(c.mask)
				defer lb.detachTrace(client)
			}
			b.ReportAllocs()
			for b.Loop() {
				lb.Decide(l3, &p)
			}
		})
	}
}

func FuzzTracePacket(f *testing.F) {
	f.Add([]byte(wire(ipv4(src4, vip4, protoTCP, 1, 0, ports(42000, 5000)))))
	f.Add([]byte(wire(ipv6(netip.MustParseAddr("2000::1"), vip6, protoICMPv6, []byte{2, 0, 0, 0, 0, 0, 5, 0}))))
	f.Add([]byte{0x60})
	f.Add([]byte{})
	b := meridio(f, Config{PromiscuousPing: true}, 57)
	if err := b.SetFlow(FlowSpec{Name: "s", Target: "t", Protocols: []string{"sctp"}, UDPEncap: 9899}); err != nil {
		f.Fatal(err)
	}
	if err := b.SetTraceFlow(FlowSpec{Name: "t"}); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, l3 []byte) {
		got := traceOf(b, allTrace, l3)
		if strings.Count(got, "\n") < 1 || !strings.HasSuffix(got, "\n") {
			t.Fatalf("%q is no line", got)
		}
	})
}

// Whatever is requested, the balancer answers, and its list can be read.
func FuzzTraceRequests(f *testing.F) {
	f.Add([]byte("action:trace-set\nname:a\ndsts:10.0.0.1/32\ndports:1-2\nprotocols:tcp\nmatch:tcp[0:1]=1\neoc:\n"))
	f.Add([]byte("action:trace-delete\nname:a\neoc:\n"))
	f.Add([]byte("action:trace-list\neoc:\n"))
	f.Add([]byte("action:trace-list-names\neoc:\n"))
	f.Add([]byte("action:trace-\neoc:\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		cmd, err := ReadCommand(bytes.NewReader(in))
		if err != nil {
			return
		}
		b := NewBalancer(Config{}, func(string) (*Table, error) { return nil, ErrNoFlow })
		before := len(b.TraceFlows(""))
		answer := b.answer(cmd)
		if bytes.HasPrefix(answer, []byte("FAIL")) && len(b.TraceFlows("")) != before {
			t.Fatalf("a failed request changed something: %q", answer)
		}
		flows, err := ParseFlows(b.answer(&Command{Action: "trace-list"}))
		if err != nil || len(flows) != len(b.TraceFlows("")) {
			t.Fatalf("list: %v, %v", flows, err)
		}
	})
}

func FuzzParseTraceConfig(f *testing.F) {
	f.Add(TraceConfig{LogNotice, allTrace}.encode())
	f.Add([]byte("short"))
	f.Fuzz(func(t *testing.T, in []byte) {
		c, err := parseTraceConfig(in)
		if err == nil && !bytes.Equal(c.encode(), in[:traceConfigSize]) {
			t.Fatalf("%v became %v", in, c)
		}
	})
}

func FuzzParseTraceSelection(f *testing.F) {
	f.Add("log,packet")
	f.Add(",")
	f.Fuzz(func(t *testing.T, in string) {
		mask, err := ParseTraceSelection(in)
		if err == nil && (mask == 0 || mask > allTrace) || err != nil && strings.Contains(fmt.Sprint(err), "\n") {
			t.Fatalf("%q: %#x, %v", in, mask, err)
		}
	})
}
