// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/rs/zerolog"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"waymark/decoder"
	"waymark/scenarios"
	"waymark/tracer"
	"waymark/tracer/filter"
)

// variant is a way to trace, and what it is held to.
type variant struct {
	name   string
	groups []string // none: untraced
	filter []string
	least  float64 // of the untraced rate; 0: shown, not judged
}

// What a trace with the default hooks may take to begin and to end, in the
// machines of scenarios/vm.
const (
	attachLimit = 3 * time.Second
	detachLimit = time.Second
)

// TestOverhead measures what tracing costs: the rate of packets through the
// lab's load balancer with and without the tracer on its two devices,
// interleaved in one run. `make bench` runs it.
//
// A generator on CPU 0 sends frames into lb as fast as it can; a counter at
// the target takes them out there, so that no socket and no drop is measured.
func TestOverhead(t *testing.T) {
	if os.Getenv("WAYMARK_BENCH") == "" {
		t.Skip("a measurement: make bench runs it")
	}
	w := labUpFor(t)
	path := newForwarding(t, w, meridioWay)
	for _, way := range []struct {
		name string
		dst  netip.Addr
		held float64 // 0: not to the limits below
	}{
		{"forwarded by route", netip.MustParseAddr("172.16.1.6"), 1},
		// Here the balancer has a core to itself, which on two cores it must
		// share with the reader of the records: shown, not judged.
		{"through NFQUEUE and the balancer", netip.MustParseAddr("10.0.0.1"), 0},
	} {
		t.Run(way.name, func(t *testing.T) {
			path.compare(t, way.dst, w.Namespace("lb"), 11, 400*time.Millisecond, []variant{
				{"untraced", nil, nil, 0},
				{"armed, nothing matches (device, drop)", []string{"device", "drop"}, noMatch, 0.93 * way.held},
				{"armed, nothing matches (default hooks)", tracer.DefaultGroups, noMatch, 0},
				{"tracing every packet (device)", []string{"device"}, nil, 0.80 * way.held},
				{"tracing every packet (default hooks)", tracer.DefaultGroups, nil, 0},
			})
		})
	}
}

// TestOverheadIPVS is the same for a flood of datagrams through an IPVS director
// that rewrites them, with the default hooks in every namespace of the machine.
// `make bench` runs it in the machines of scenarios/vm: other kernels may have no
// IPVS.
func TestOverheadIPVS(t *testing.T) {
	if os.Getenv("WAYMARK_BENCH") == "" {
		t.Skip("a measurement: make bench runs it")
	}
	w := labUpWith(t, scenarios.Options{Lab: "ipvs"})
	limits := map[string][2]float64{"6.1": {0.70, 0.35}, "6.12": {0.80, 0.45}}[kernelLine()] // 6.1 has no kprobe.multi
	costs := newForwarding(t, w, ipvsWay).compare(t, netip.MustParseAddr("10.54.213.149"), "", 7, time.Second, []variant{
		{"untraced", nil, nil, 0},
		{"armed, nothing matches", tracer.DefaultGroups, noMatch, limits[0]},
		{"tracing every packet", tracer.DefaultGroups, []string{"udp"}, limits[1]},
	})
	var attach, detach []float64 // seconds
	for _, c := range costs {
		attach, detach = append(attach, c.Attach...), append(detach, c.Detach...)
	}
	t.Logf("attached in %.2f s (median of %d; quartiles %.2f %.2f), detached in %.2f s (quartiles %.2f %.2f)", median(attach), len(attach),
		quantile(attach, .25), quantile(attach, .75), median(detach), quantile(detach, .25), quantile(detach, .75))
	if median(attach) > attachLimit.Seconds() || median(detach) > detachLimit.Seconds() {
		t.Errorf("want at most %s and %s", attachLimit, detachLimit)
	}
}

var noMatch = []string{"tcp port 9 and host 203.0.113.9"}

// compare measures the variants in turn, the first of them untraced, for d in each
// round, and returns what each cost. Traced is namespace, "" is all.
func (p *forwarding) compare(t *testing.T, dst netip.Addr, namespace string, rounds int, d time.Duration, variants []variant) []tracerCost {
	t.Helper()
	rates := make([][]float64, len(variants))
	costs := make([]tracerCost, len(variants))
	for round := range rounds {
		for k := range variants {
			i := (k + round) % len(variants)
			v := variants[i]
			stop := func() tracerCost { return tracerCost{} }
			if v.groups != nil {
				stop = traceFor(t, namespace, v.groups, v.filter)
			}
			rates[i] = append(rates[i], p.measure(t, dst, d))
			costs[i].add(stop())
		}
	}
	for i, v := range variants {
		ratios := make([]float64, rounds)
		for r := range ratios {
			ratios[r] = rates[i][r] / rates[0][r]
		}
		kept := median(ratios)
		t.Logf("%-40s %7.1f kpps   %.3f of untraced (paired median; quartiles %.3f %.3f)",
			v.name, median(rates[i])/1e3, kept, quantile(ratios, .25), quantile(ratios, .75))
		if c := costs[i]; c.Records > 0 {
			t.Logf("%-40s %7.1f million records, %d lost, %.0f ns of the reader's CPU each", "", float64(c.Records)/1e6, c.Lost, float64(c.CPU)/float64(c.Records))
		}
		if kept < v.least {
			t.Errorf("%s keeps %.3f of the rate, want %.2f", v.name, kept, v.least)
		}
	}
	return costs
}

// tracerCost is what tracer processes did.
type tracerCost struct {
	Records, Lost, CPU uint64    // CPU: user and system, ns
	Attach, Detach     []float64 // seconds, of each process
}

func (c *tracerCost) add(d tracerCost) {
	c.Records += d.Records
	c.Lost += d.Lost
	c.CPU += d.CPU
	c.Attach, c.Detach = append(c.Attach, d.Attach...), append(c.Detach, d.Detach...)
}

// counting is a sink that only counts: decoding is measured elsewhere.
type counting struct{ records atomic.Uint64 }

func (c *counting) Record([]byte) error            { c.records.Add(1); return nil }
func (c *counting) Context(*decoder.Context) error { return nil }

// traceFor traces in a namespace, "" is all, until the returned function is called,
// which tells what that took. The tracer is a process of its own, as in life,
// so that neither its garbage nor its goroutines are the generator's.
func traceFor(t *testing.T, namespace string, groups, expr []string) func() tracerCost {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "WAYMARK_BENCH_TRACER="+strings.Join(groups, ","),
		"WAYMARK_BENCH_FILTER="+strings.Join(expr, " "), "WAYMARK_BENCH_NETNS="+namespace)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "ready" {
		t.Fatalf("the tracer did not start: %q", lines.Text())
	}
	return func() tracerCost {
		in.Close()
		var cost tracerCost
		if !lines.Scan() || json.Unmarshal(lines.Bytes(), &cost) != nil {
			t.Errorf("the tracer did not tell its cost: %q", lines.Text())
		}
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
		return cost
	}
}

// benchTracer is the tracer process of traceFor. It ends with its stdin.
func benchTracer(groups string) error {
	var expr []string
	if v := os.Getenv("WAYMARK_BENCH_FILTER"); v != "" {
		expr = []string{v}
	}
	f, err := filter.Parse(expr)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var namespaces []string
	if v := os.Getenv("WAYMARK_BENCH_NETNS"); v != "" {
		namespaces = []string{v}
	}
	began := time.Now()
	tr, err := tracer.Open(ctx, tracer.Options{
		Filter: f, Netns: namespaces, Groups: strings.Split(groups, ","),
		Sink: &counting{}, Log: zerolog.Nop(),
	})
	if err != nil {
		return err
	}
	defer tr.Close()
	cost := tracerCost{Attach: []float64{time.Since(began).Seconds()}}
	runtime.GC() // what loading left behind is not what tracing costs
	before := cpuTime()
	fmt.Println("ready")
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	if err := tr.Run(ctx); err != nil {
		return err
	}
	cost.Records, cost.Lost = tr.Totals()
	cost.CPU = cpuTime() - before
	ended := time.Now()
	tr.Close()
	cost.Detach = []float64{time.Since(ended).Seconds()}
	return json.NewEncoder(os.Stdout).Encode(cost)
}

// cpuTime is the CPU time of this process so far, in ns.
func cpuTime() uint64 {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return uint64(u.Utime.Nano() + u.Stime.Nano())
}

// nodeDevice is a device of a lab's node.
type nodeDevice struct{ node, dev string }

// floodWay is a way through a lab: where frames go in, the other end of that link,
// and where they are counted and taken out.
type floodWay struct {
	from, next nodeDevice
	counted    []nodeDevice
	src        net.IP
	port       layers.UDPPort
}

var (
	meridioWay = floodWay{
		nodeDevice{"gw", "ext0"},
		nodeDevice{"lb", "nsm-1"},
		[]nodeDevice{{"t1", "nsc"}, {"t2", "nsc"}, {"t3", "nsc"}},
		net.IP{200, 100, 0, 1},
		5001,
	}
	ipvsWay = floodWay{
		nodeDevice{"cl", "e0"},
		nodeDevice{"tor", "cl0"},
		[]nodeDevice{{"rs1", "po0"}, {"rs2", "po0"}},
		net.IP{198, 51, 100, 2},
		8014,
	}
)

// forwarding is the way the generator's frames take.
type forwarding struct {
	floodWay
	socket           int
	srcAddr, dstAddr net.HardwareAddr // of the first link's ends
	counter          *ebpf.Map
}

func newForwarding(t *testing.T, w *scenarios.World, way floodWay) *forwarding {
	p := &forwarding{floodWay: way}
	inside := func(node string, fn func() error) {
		t.Helper()
		if err := w.Inside(node, fn); err != nil {
			t.Fatal(err)
		}
	}
	inside(way.next.node, func() error {
		l, err := netlink.LinkByName(way.next.dev)
		if err != nil {
			return err
		}
		p.dstAddr = l.Attrs().HardwareAddr
		return nil
	})
	inside(way.from.node, func() error {
		l, err := netlink.LinkByName(way.from.dev)
		if err != nil {
			return err
		}
		p.srcAddr = l.Attrs().HardwareAddr
		if p.socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(p.socket, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1); err != nil {
			return err
		}
		return unix.Bind(p.socket, &unix.SockaddrLinklayer{Ifindex: l.Attrs().Index})
	})
	t.Cleanup(func() { unix.Close(p.socket) })

	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	p.counter = m
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
		asm.LoadMem(asm.R6, asm.R1, 16, asm.Word), // protocol: IPv4 only, the rest goes on
		asm.JNE.Imm(asm.R6, 0x0008, "pass"),
		asm.StoreImm(asm.RFP, -4, 0, asm.Word),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.LoadMapPtr(asm.R1, m.FD()),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "pass"),
		asm.LoadMem(asm.R1, asm.R0, 0, asm.DWord),
		asm.Add.Imm(asm.R1, 1),
		asm.StoreMem(asm.R0, 0, asm.R1, asm.DWord),
		asm.Mov.Imm(asm.R0, 4), // TC_ACT_STOLEN: taken, and not a drop
		asm.Return(),
		asm.Mov.Imm(asm.R0, -1).WithSymbol("pass"),
		asm.Return(),
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { prog.Close() })
	for _, at := range way.counted {
		inside(at.node, func() error {
			l, err := netlink.LinkByName(at.dev)
			if err != nil {
				return err
			}
			// cls_bpf: a tcx program has no verdict that takes a packet
			// without dropping it.
			if err := netlink.QdiscAdd(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
				LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
			}}); err != nil {
				return err
			}
			if err := netlink.FilterAdd(&netlink.BpfFilter{
				FilterAttrs: netlink.FilterAttrs{
					LinkIndex: l.Attrs().Index, Parent: netlink.HANDLE_MIN_INGRESS, Handle: 1, Priority: 1, Protocol: unix.ETH_P_ALL,
				},
				Fd: prog.FD(), Name: "count", DirectAction: true,
			}); err != nil {
				return err
			}
			return nil
		})
	}
	return p
}

func (p *forwarding) count() (n uint64) {
	var perCPU []uint64
	if p.counter.Lookup(uint32(0), &perCPU) == nil {
		for _, v := range perCPU {
			n += v
		}
	}
	return n
}

// measure sends as fast as it can for d and returns packets per second that
// arrived at the targets.
func (p *forwarding) measure(t *testing.T, dst netip.Addr, d time.Duration) float64 {
	t.Helper()
	const flows, batch = 256, 32
	frames := make([][]byte, flows)
	for i := range frames {
		frames[i] = p.frame(t, dst, i)
	}
	msgs := make([]mmsghdr, batch)
	iovs := make([]unix.Iovec, batch)
	done := make(chan float64)
	go func() {
		runtime.LockOSThread() // the thread stays pinned, so it ends here
		var cpu unix.CPUSet
		cpu.Set(0)
		_ = unix.SchedSetaffinity(0, &cpu)
		start, before := time.Now(), p.count()
		for i := 0; time.Since(start) < d; {
			for k := range msgs {
				f := frames[i%flows]
				i++
				iovs[k].Base = &f[0]
				iovs[k].SetLen(len(f))
				msgs[k].hdr.Iov, msgs[k].hdr.Iovlen = &iovs[k], 1
			}
			_, _, _ = unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(p.socket), uintptr(unsafe.Pointer(&msgs[0])), batch, 0, 0, 0)
		}
		took := time.Since(start)
		done <- float64(p.count()-before) / took.Seconds()
	}()
	return <-done
}

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
	_   [4]byte
}

// frame is a UDP packet of 128 bytes from flow i to dst.
func (p *forwarding) frame(t *testing.T, dst netip.Addr, i int) []byte {
	t.Helper()
	eth := &layers.Ethernet{SrcMAC: p.srcAddr, DstMAC: p.dstAddr, EthernetType: layers.EthernetTypeIPv4}
	ip := &layers.IPv4{
		Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, Id: uint16(i),
		SrcIP: p.src, DstIP: net.IP(dst.AsSlice()),
	}
	udp := &layers.UDP{SrcPort: layers.UDPPort(20000 + i), DstPort: p.port}
	_ = udp.SetNetworkLayerForChecksum(ip)
	payload := make([]byte, 128-14-20-8)
	binary.BigEndian.PutUint32(payload, uint32(i))
	buf := gopacket.NewSerializeBuffer()
	opts := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(buf, opts, eth, ip, udp, gopacket.Payload(payload)); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func median(v []float64) float64 { return quantile(v, .5) }

func quantile(v []float64, q float64) float64 {
	s := slices.Clone(v)
	slices.Sort(s)
	return s[int(q*float64(len(s)-1)+.5)]
}
