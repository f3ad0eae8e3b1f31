// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
)

// fastPathFor loads a fast path for b that is not attached to anything.
func fastPathFor(t testing.TB, b *Balancer, c FastPathConfig) *FastPath {
	t.Helper()
	if os.Geteuid() != 0 {
		unavailable(t, "needs root to load BPF programs")
	}
	if c.Log == nil {
		c.Log = func(message string, err error) {
			if err != nil {
				t.Errorf("%s: %v", message, err)
			}
		}
	}
	f, err := NewFastPath(b, c)
	if errors.Is(err, ebpf.ErrNotSupported) || errors.Is(err, os.ErrPermission) {
		unavailable(t, "%v", err)
	}
	if err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(f.Close)
	return f
}

// tcContext is the beginning of struct __sk_buff (linux/bpf.h).
type tcContext struct {
	Len, PktType, Mark uint32
	_                  [39]uint32
	_                  [24]byte
}

// run gives the packet to the program as a device would and returns its mark
// and verdict.
func (f *FastPath) run(t testing.TB, packet []byte) (mark uint32, verdict int32, out []byte) {
	t.Helper()
	proto := []byte{8, 0}
	if len(packet) > 0 && packet[0]>>4 == 6 {
		proto = []byte{0x86, 0xdd}
	}
	frame := join(make([]byte, 12), proto, packet)
	opts := ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+256), ContextOut: new(tcContext)}
	v, err := f.program.Run(&opts)
	if err != nil {
		t.Fatalf("run of %x: %v", frame, err)
	}
	return opts.ContextOut.(*tcContext).Mark, int32(v), opts.DataOut
}

// packetCount is how many packets the comparisons use: 100,000, unless every
// instruction is emulated.
func packetCount(t testing.TB) int {
	if testing.Short() {
		t.Log("10,000 packets instead of 100,000: this is a short run")
		return 10_000
	}
	return 100_000
}

// fastSetup is a balancer's configuration as the comparisons use it.
type fastSetup struct {
	name   string
	config Config
	flows  []FlowSpec
}

func fastSetups() []fastSetup {
	vips := []string{"10.0.0.1/32", "1000::1:a00:1/128"}
	many := []FlowSpec{{Name: "last", Target: "a", Dests: vips}}
	for i := range 300 {
		many = append(many, FlowSpec{
			Name: fmt.Sprintf("f%d", i), Priority: 1 + i%7, Target: "b", Dests: vips,
			Srcs: []string{fmt.Sprintf("200.100.%d.0/24", i%256)}, DPorts: []string{fmt.Sprint(4990 + i%20)},
		})
	}
	return []fastSetup{
		{"as Meridio runs it", Config{PromiscuousPing: true}, []FlowSpec{
			{Name: "m", Priority: 1, Target: "a", Protocols: []string{"tcp", "udp"}, Dests: vips, DPorts: []string{"5000-5003"}},
		}},
		{"everything", Config{HashMode: HashSCTPPorts, NoFlowMark: 77, NoTargetMark: 5090}, []FlowSpec{
			{Name: "bytes", Priority: 9, Target: "a", Protocols: []string{"tcp", "udp"}, Dests: vips, DPorts: []string{"5001"}, Match: []string{"tcp[8:1] = 1", "udp[6:2] & 0xff = 0"}},
			{Name: "encap", Priority: 8, Target: "b", Protocols: []string{"sctp"}, Dests: vips, DPorts: []string{"6000"}, UDPEncap: 9899},
			{Name: "sctp", Priority: 7, Target: "b", Protocols: []string{"sctp"}, Dests: vips},
			{Name: "sources", Priority: 6, Target: "a", Dests: []string{"10.0.0.0/30", "1000::/96"}, Srcs: []string{"200.100.0.0/16", "2000::/16"}, SPorts: []string{"1024-49999"}},
			{Name: "empty", Priority: 5, Target: "none", Protocols: []string{"tcp"}, Dests: vips, DPorts: []string{"80"}},
			{Name: "any", Priority: 4, Target: "b", Protocols: []string{"udp"}},
			{Name: "low", Priority: 1, Target: "a", Dests: vips, DPorts: []string{"5000-5002", "6000"}},
		}},
		{"pings through byte matches", Config{PromiscuousPing: true, NoFlowMark: 77}, []FlowSpec{
			{Name: "bytes", Priority: 9, Target: "b", Protocols: []string{"tcp"}, Dests: vips, Match: []string{"tcp[0:1] = 4"}},
			{Name: "encap", Priority: 10, Target: "a", Protocols: []string{"sctp"}, Dests: vips, UDPEncap: 9899},
		}},
		{"300 flows", Config{}, many},
	}
}

// start makes the balancer and its reference.
func (s *fastSetup) start(t testing.TB) (*Balancer, *reference) {
	t.Helper()
	const m = 997
	active := map[string][]int{"a": slices.Repeat([]int{-1}, 32), "b": slices.Repeat([]int{-1}, 32), "none": {-1}}
	active["a"][3], active["a"][9], active["a"][31] = 5048, 5058, 0
	active["b"][0], active["b"][1] = 5067, 5090
	b := NewBalancer(s.config, func(name string) (*Table, error) { return NewTable(m, len(active[name]), active[name]) })
	for _, f := range s.flows {
		if err := b.SetFlow(f); err != nil {
			t.Fatal(err)
		}
	}
	return b, &reference{config: s.config, flows: s.flows, active: active, m: m}
}

// The queue engine's decision, the fast path's and the reference's are the same
// for packets of all kinds, and the fast path leaves no plain packet to the
// queue.
func TestFastPathDecidesAsTheBalancer(t *testing.T) {
	n := packetCount(t)
	for _, setup := range fastSetups() {
		t.Run(setup.name, func(t *testing.T) {
			b, ref := setup.start(t)
			oracle, _ := setup.start(t)
			f := fastPathFor(t, b, FastPathConfig{})
			r := rand.New(rand.NewPCG(20, 26))
			marked, left := 0, 0
			for range n / len(fastSetups()) {
				packet := anyPacket(r)
				kept := received(packet)
				var p Packet
				d := oracle.Decide(kept, &p)
				want, flow := ref.decide(kept)
				got := -1
				if d.Accept {
					got = d.Mark
				}
				if kept != nil && (got != want || flow != d.Flow()) {
					t.Fatalf("%x\nbalancer: mark %d flow %q %v\nreference: mark %d flow %q", packet, got, d.Flow(), d.Why, want, flow)
				}
				if len(packet) < 20 || packet[0]>>4 == 6 && len(packet) < 40 {
					continue // a test run takes no less than a header; nor does the IP layer
				}
				mark, verdict, out := f.run(t, packet)
				if verdict != -1 || !bytes.Equal(out[14:], packet) {
					t.Fatalf("%x\nverdict %d, packet %x", packet, verdict, out[14:])
				}
				switch {
				case mark == 0:
					left++
					if kept != nil && want > 0 && plainPacket(kept) && ref.named(kept) && !ref.needsBytes(kept) {
						t.Fatalf("%x\nleft to the queue, which gives it mark %d", packet, want)
					}
				case kept == nil:
					// The IP layer drops it whatever its mark.
				case int(mark) != want:
					t.Fatalf("%x\nfast path: mark %d\nqueue: mark %d flow %q", packet, mark, want, flow)
				default:
					marked++
				}
			}
			t.Logf("%d marked, %d left to the queue: %+v", marked, left, f.Stats())
			if marked < n/len(fastSetups())/10 {
				t.Errorf("only %d packets marked: the traffic shows too little", marked)
			}
		})
	}
}

// plainPacket tells whether the fast path has to decide the packet itself.
func plainPacket(p []byte) bool {
	if p[0]>>4 == 4 {
		return p[0] == 0x45 && (int(p[6])<<8|int(p[7]))&0x3fff == 0 && plainTransport(p[9], p[20:], 1, []byte{3, 4, 5, 11})
	}
	return plainTransport(p[6], p[40:], 58, []byte{1, 2})
}

func plainTransport(proto uint8, l4 []byte, icmp uint8, errors []byte) bool {
	switch proto {
	case refTCP, refUDP, refSCTP:
		return len(l4) >= 4
	case icmp:
		return len(l4) >= 8 && !slices.Contains(errors, l4[0])
	}
	return false
}

// named tells whether a flow names the packet's destination.
func (r *reference) named(l3 []byte) bool {
	p := refParse(l3, 0)
	return slices.ContainsFunc(r.flows, func(f FlowSpec) bool { return len(f.Dests) > 0 && refContains(f.Dests, p.key[16:32]) })
}

// needsBytes tells whether the first flow for the packet, byte matches aside,
// has any, or is for encapsulated SCTP.
func (r *reference) needsBytes(l3 []byte) bool {
	p := refParse(l3, 0)
	proto := p.key[34]
	if r.config.PromiscuousPing && (proto == refICMP || proto == refICMP6) {
		return false
	}
	if !slices.ContainsFunc(r.flows, func(f FlowSpec) bool { return f.Match != nil || f.UDPEncap != 0 }) {
		return false
	}
	plain := reference{config: r.config, active: r.active, m: r.m, lookup: r.lookup}
	for _, f := range r.flows {
		f.Match = nil
		plain.flows = append(plain.flows, f)
	}
	if int(p.key[38])<<8|int(p.key[39]) == 9899 && proto == refUDP {
		return true
	}
	_, name := plain.decide(l3)
	return slices.ContainsFunc(r.flows, func(f FlowSpec) bool { return f.Name == name && f.Match != nil })
}
