// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// plainVIP is an address that is routed to target i without a balancer.
func plainVIP(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 1, byte(i)}) }

// TestFastPathRates measures the fast path against forwarding without any
// balancer, interleaved. A generator on CPU 0 sends as fast as it can; the
// packets' whole way is done in its context; a counter at the target takes them.
// Compared are packets per second of CPU time, the sender's and the softirqs',
// which is the rate on a machine that does nothing else. `make bench` runs it.
//
// Plain forwarding is to as many targets and past the same routing rules, which
// are looked at in turn, but without the queue's rule. Shown beside: forwarding
// without any rules, and a program that sets a constant mark and does nothing
// else, which no fast path can beat.
func TestFastPathRates(t *testing.T) {
	if os.Getenv("WAYMARK_BENCH") == "" {
		t.Skip("a measurement: make bench runs it")
	}
	const rounds = 11
	const bytes = 128
	variants := []struct {
		name  string
		marks int
		mode  ratedMode
		base  int
		least float64 // of the rate of base
	}{
		0: {"plain forwarding to 4, no rules", 4, ratedNoRules, 0, 0},
		1: {"plain forwarding to 4", 4, ratedPlain, 0, 0},
		2: {"a constant mark and the queue's rule", 4, ratedConstant, 1, 0},
		3: {"fast path, 4 targets", 4, ratedFast, 1, 0.95},
		4: {"redirect, 4 targets", 4, ratedRedirect, 1, 1.2},
		5: {"plain forwarding to 100", 100, ratedPlain, 0, 0},
		6: {"fast path, 100 targets", 100, ratedFast, 5, 0.95},
		7: {"redirect, 100 targets", 100, ratedRedirect, 4, 0.95},
	}
	worlds := make([]*ratedWorld, len(variants))
	for i, v := range variants {
		worlds[i] = newRatedWorld(t, v.marks, v.mode)
	}
	rate, cpu := make([][]float64, len(variants)), make([][]float64, len(variants))
	for round := range rounds {
		for k := range variants {
			i := (k + round) % len(variants)
			v := variants[i]
			dst := func(int) netip.Addr { return vip4 }
			if v.mode <= ratedPlain {
				dst = func(flow int) netip.Addr { return plainVIP(flow % v.marks) }
			}
			pps, ns := worlds[i].measure(dst, bytes, 300*time.Millisecond)
			rate[i] = append(rate[i], pps)
			cpu[i] = append(cpu[i], ns)
		}
	}
	paired := func(i, base int, combine func(a, b float64) float64) float64 {
		out := make([]float64, rounds)
		for r := range out {
			out[r] = combine(cpu[i][r], cpu[base][r])
		}
		return middle(out)
	}
	for i, v := range variants {
		ratio := paired(i, v.base, func(a, b float64) float64 { return b / a })
		more := paired(i, v.base, func(a, b float64) float64 { return a - b })
		t.Logf("%-36s %5.0f kpps by the clock, %5.0f by CPU time: %.3f of %q, %+.0f ns of CPU each", v.name,
			middle(rate[i])/1e3, 1e6/middle(cpu[i]), ratio, variants[v.base].name, more)
		if ratio < v.least {
			t.Errorf("%s: %.3f of %s, want %.2f", v.name, ratio, variants[v.base].name, v.least)
		}
		if v.mode == ratedFast && more > 150 {
			t.Errorf("%s takes %.0f ns of CPU more than %s, want 150", v.name, more, variants[v.base].name)
		}
	}
}

// BenchmarkFastPath is the program alone, by the number of targets and flows.
func BenchmarkFastPath(b *testing.B) {
	for _, c := range []struct{ targets, flows int }{{1, 1}, {100, 1}, {100, 100}, {100, 2000}} {
		b.Run(fmt.Sprintf("targets=%d/flows=%d", c.targets, c.flows), func(b *testing.B) {
			f := fastPathFor(b, manyTargets(b, c.targets, c.flows), FastPathConfig{})
			frame := join(make([]byte, 12), []byte{8, 0}, udp(7, false))
			b.ResetTimer()
			_, took, err := f.program.Benchmark(frame, b.N, b.ResetTimer)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(took.Nanoseconds()), "ns/packet")
		})
	}
}

// manyTargets is a balancer of a VIP with targets 5001 and up, and flows of which
// the last one is the packets'.
func manyTargets(t testing.TB, targets, flows int) *Balancer {
	t.Helper()
	active := make([]int, max(targets, 1))
	for i := range active {
		active[i] = 5001 + i
	}
	table, err := NewTable(9973, len(active), active)
	if err != nil {
		t.Fatal(err)
	}
	b := NewBalancer(Config{}, func(string) (*Table, error) { return table, nil })
	for i := range flows {
		f := FlowSpec{Name: fmt.Sprint("f", i), Priority: flows - i, Target: "t", Dests: []string{"10.0.0.1/32"}, DPorts: []string{fmt.Sprint(5000 + (flows - 1 - i))}}
		if err := b.SetFlow(f); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// ratedWorld is a path world with a counter at its one target, which has as many
// addresses as there are marks.
type ratedWorld struct {
	*pathWorld
	counter *ebpf.Map
}

type ratedMode int

const (
	ratedNoRules ratedMode = iota // for marks
	ratedPlain
	ratedConstant // a TC program marks all packets alike
	ratedFast
	ratedRedirect
)

func newRatedWorld(t *testing.T, marks int, mode ratedMode) *ratedWorld {
	t.Helper()
	queues := uint16(0)
	if mode > ratedPlain {
		queues = 1
	}
	w := &ratedWorld{pathWorld: newPathWorld(t, 1, queues)}
	out, err := w.lb.LinkByName("load-balan-0")
	w.must(err)
	first, err := w.lb.NeighList(out.Attrs().Index, netlink.FAMILY_V4)
	w.must(err)
	mac := first[slices.IndexFunc(first, func(n netlink.Neigh) bool { return n.State == netlink.NUD_PERMANENT })].HardwareAddr
	via := func(i int) net.IP { return net.IPv4(172, 16, 0, byte(2+i)).To4() }
	for i := range marks {
		if i > 0 {
			w.must(w.lb.NeighSet(&netlink.Neigh{LinkIndex: out.Attrs().Index, Family: netlink.FAMILY_V4, State: netlink.NUD_PERMANENT, IP: via(i), HardwareAddr: mac}))
			w.must(w.lb.RouteAdd(&netlink.Route{Family: netlink.FAMILY_V4, LinkIndex: out.Attrs().Index, Gw: via(i), Table: w.mark(i)}))
		}
		w.must(w.lb.RouteAdd(&netlink.Route{LinkIndex: out.Attrs().Index, Gw: via(i), Dst: netlink.NewIPNet(plainVIP(i).AsSlice())}))
		rule := netlink.NewRule()
		rule.Family, rule.Mark, rule.Table, rule.Priority = netlink.FAMILY_V4, uint32(w.mark(i)), w.mark(i), 99
		switch {
		case mode == ratedNoRules && i == 0:
			w.must(w.lb.RuleDel(rule))
		case mode != ratedNoRules && i > 0:
			w.must(w.lb.RuleAdd(rule))
		}
	}
	w.count()
	w.must(unix.SetsockoptInt(w.client, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1))
	switch mode {
	case ratedConstant:
		w.markAll()
	case ratedFast, ratedRedirect:
		redirect := mode == ratedRedirect
		f, _ := w.attached(manyTargets(t, marks, 1), FastPathConfig{Redirect: redirect})
		w.send(udp(1, false))
		if s := f.Stats(); s.Placed != 1 || redirect != (s.Redirected == 1) {
			t.Fatalf("the fast path does not work: %+v", s)
		}
	}
	return w
}

// markAll gives all packets the first target's mark.
func (w *ratedWorld) markAll() {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
		asm.Mov.Imm(asm.R2, int32(w.mark(0))),
		asm.StoreMem(asm.R1, 8, asm.R2, asm.Word), // __sk_buff.mark
		asm.Mov.Imm(asm.R0, -1),
		asm.Return(),
	}})
	w.must(err)
	w.t.Cleanup(func() { prog.Close() })
	in, err := w.lb.LinkByName("nsm-1")
	w.must(err)
	f := &FastPath{b: new(Balancer), program: prog, entry: prog, links: make(map[link.Link]bool), config: FastPathConfig{NetNS: int(w.ns), LastQueue: 3}}
	d, err := f.attach(w.lb, in.Attrs())
	w.must(err)
	w.t.Cleanup(func() { w.must(f.detach(w.lb, d)) })
	w.must(f.passMarked())
}

// count takes the packets out at the target.
func (w *ratedWorld) count() {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	w.must(err)
	w.t.Cleanup(func() { m.Close() })
	w.counter = m
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
		asm.StoreImm(asm.RFP, -4, 0, asm.Word),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.LoadMapPtr(asm.R1, m.FD()),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "out"),
		asm.LoadMem(asm.R1, asm.R0, 0, asm.DWord),
		asm.Add.Imm(asm.R1, 1),
		asm.StoreMem(asm.R0, 0, asm.R1, asm.DWord),
		asm.Mov.Imm(asm.R0, 4).WithSymbol("out"), // TC_ACT_STOLEN: taken, and no drop
		asm.Return(),
	}})
	w.must(err)
	w.t.Cleanup(func() { prog.Close() })
	h := w.handleAt(w.targets[0].ns)
	l, err := h.LinkByName("nsc")
	w.must(err)
	w.must(h.QdiscAdd(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}))
	w.must(h.FilterAdd(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: l.Attrs().Index, Parent: netlink.HANDLE_MIN_INGRESS, Handle: 1, Priority: 1, Protocol: unix.ETH_P_IP},
		Fd:          prog.FD(), Name: "count", DirectAction: true,
	}))
}

// measure sends frames of 256 flows for d and returns how many arrived per
// second and what CPU time each took, in the sender and in softirqs beside it.
func (w *ratedWorld) measure(dst func(flow int) netip.Addr, bytes int, d time.Duration) (pps, ns float64) {
	const flows, batch = 256, 32
	frames := make([][]byte, flows)
	for i := range frames {
		p := udp(i, false)
		p = join(p, make([]byte, bytes-14-len(p)))
		copy(p[16:20], dst(i).AsSlice())
		frames[i] = join(w.mac, []byte{2, 0, 0, 0, 0, 1, 8, 0}, lengths(p))
	}
	var msgs [batch]mmsghdr
	var iovs [batch]unix.Iovec
	to := unix.RawSockaddrLinklayer{Family: unix.AF_PACKET, Ifindex: int32(w.ifidx), Halen: 6}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // the thread stays pinned, so it ends here
		var cpu unix.CPUSet
		cpu.Set(0)
		_ = unix.SchedSetaffinity(0, &cpu)
		start, before, used := time.Now(), sumCPUs(w.counter, 0), cpuTimes()
		for i := 0; time.Since(start) < d; {
			for k := range msgs {
				f := frames[i%flows]
				i++
				iovs[k].Base = &f[0]
				iovs[k].SetLen(len(f))
				h := &msgs[k].hdr
				h.Iov, h.Name, h.Namelen = &iovs[k], (*byte)(unsafe.Pointer(&to)), unix.SizeofSockaddrLinklayer
				h.SetIovlen(1)
			}
			_, _, _ = unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(w.client), uintptr(unsafe.Pointer(&msgs[0])), batch, 0, 0, 0)
		}
		n := float64(sumCPUs(w.counter, 0) - before)
		pps, ns = n/time.Since(start).Seconds(), float64(cpuTimes()-used)/n
	}()
	<-done
	return pps, ns
}

// cpuTimes is the CPU time of this thread and of ksoftirqd, ns.
func cpuTimes() (ns uint64) {
	ns = schedstat("/proc/thread-self/schedstat")
	for _, pid := range ksoftirqds() {
		ns += schedstat("/proc/" + pid + "/schedstat")
	}
	return ns
}

func schedstat(path string) uint64 {
	raw, err := os.ReadFile(path)
	fields := strings.Fields(string(raw))
	if err != nil || len(fields) == 0 {
		return 0
	}
	n, _ := strconv.ParseUint(fields[0], 10, 64)
	return n
}

// ksoftirqds are the process ids of the softirq threads.
func ksoftirqds() (pids []string) {
	for pid := 2; pid < 200; pid++ {
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err == nil && strings.HasPrefix(string(name), "ksoftirqd/") {
			pids = append(pids, strconv.Itoa(pid))
		}
	}
	return pids
}

func middle(v []float64) float64 {
	s := slices.Clone(v)
	slices.Sort(s)
	return s[len(s)/2]
}
