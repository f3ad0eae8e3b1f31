// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// The way that measured packets take: a client's device, the balancer's
// namespace with queue 0, a rule and a table for each mark, and a target's
// device, where a BPF program takes every packet out and notes how long it was
// on its way. No socket and no drop is so measured.
//
// The client sends from processor 0, where its packets are also queued; the
// balancer runs on processor 1, and carries its packets to the target. Both
// therefore do much of the kernel's work on their own time.

const (
	senderCPU, balancerCPU = 0, 1

	frameHeader  = 14
	stampOffset  = frameHeader + ipv4HeaderLen + udpHeaderLen // the payload
	latencyStep  = 250 * time.Nanosecond
	latencySteps = 1 << 14 // the last one has all that took longer
)

// comparePath is the way. Its table's targets are 47, 57, 66 and 89.
type comparePath struct {
	*world
	dir       string // of the shared table
	arrived   *ebpf.Map
	softirqds []int // pids
}

const compareTable = "compare"

func newComparePath(t testing.TB) *comparePath {
	t.Helper()
	if runtime.NumCPU() < 2 {
		unavailable(t, "the sender and the balancer need a processor each")
	}
	p := &comparePath{world: newWorld(t, 1), dir: sharedTable(t, compareTable, 47, 57, 66, 89)}
	p.queueAll()
	p.forward()
	p.softirqds = softirqThreads(t)
	w := []string{"all", "default", "nsm-1"}
	p.inNS(func() {
		p.must(os.WriteFile("/proc/sys/net/ipv4/conf/all/forwarding", []byte("1"), 0))
		for _, dev := range w {
			p.must(os.WriteFile("/proc/sys/net/ipv4/conf/"+dev+"/rp_filter", []byte("0"), 0))
		}
	})
	p.must(unix.SetsockoptInt(p.client, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1))
	p.must(unix.Bind(p.client, &unix.SockaddrLinklayer{Ifindex: p.ifidx}))
	return p
}

// queueAll sends every IPv4 packet to the queue, and takes the world's counters,
// which end a packet's way, out.
func (p *comparePath) queueAll() {
	c := p.nft()
	table := &nftables.Table{Name: "nfqlb", Family: nftables.TableFamilyIPv4}
	after, queue := &nftables.Chain{Name: "after", Table: table}, &nftables.Chain{Name: "queue", Table: table}
	c.FlushChain(after)
	c.DelChain(after)
	c.FlushChain(queue)
	info := xt.Unknown{0, 0, 1, 0, 0, 0, 0, 0} // as in rules
	c.AddRule(&nftables.Rule{Table: table, Chain: queue, Exprs: []expr.Any{&expr.Target{Name: "NFQUEUE", Rev: 3, Info: &info}}})
	p.must(c.Flush())
}

// forward makes the way from the balancer's namespace to the target.
func (p *comparePath) forward() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := netns.Get()
	p.must(err)
	defer home.Close()
	defer netns.Set(home)
	targetNS := p.namespace("t")
	target, err := netlink.NewHandleAt(targetNS)
	p.must(err)
	defer target.Close()
	lb, err := netlink.NewHandleAt(p.ns)
	p.must(err)
	defer lb.Close()

	attrs := netlink.NewLinkAttrs()
	attrs.Name = "out"
	p.must(lb.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "nsc", PeerNamespace: netlink.NsFd(targetNS)}))
	out, err := lb.LinkByName("out")
	p.must(err)
	nsc, err := target.LinkByName("nsc")
	p.must(err)
	p.must(lb.LinkSetUp(out))
	p.must(target.LinkSetUp(nsc))
	p.must(lb.AddrAdd(out, &netlink.Addr{IPNet: &net.IPNet{IP: net.IP{10, 90, 2, 1}, Mask: net.CIDRMask(24, 32)}}))
	for i, index := range []int{47, 57, 66, 89} {
		via, mark := net.IP{10, 90, 2, byte(10 + i)}, 5001+index
		p.must(lb.NeighAdd(&netlink.Neigh{LinkIndex: out.Attrs().Index, IP: via, HardwareAddr: nsc.Attrs().HardwareAddr, State: netlink.NUD_PERMANENT}))
		p.must(lb.RouteAdd(&netlink.Route{LinkIndex: out.Attrs().Index, Gw: via, Table: mark}))
		rule := netlink.NewRule()
		rule.Mark, rule.Table, rule.Family = uint32(mark), mark, netlink.FAMILY_V4
		p.must(lb.RuleAdd(rule))
	}
	p.count(target, nsc)
}

// count takes every IPv4 packet out at the target's device and counts it by its
// time on the way.
func (p *comparePath) count(target *netlink.Handle, nsc netlink.Link) {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: latencySteps})
	p.must(err)
	p.t.Cleanup(func() { m.Close() })
	p.arrived = m
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, 16, asm.Word), // protocol
		asm.JNE.Imm(asm.R2, 0x0008, "pass"),
		asm.Mov.Imm(asm.R2, 0),
		asm.StoreMem(asm.RFP, -8, asm.R2, asm.DWord),
		asm.Mov.Imm(asm.R2, stampOffset),
		asm.Mov.Reg(asm.R3, asm.RFP),
		asm.Add.Imm(asm.R3, -8),
		asm.Mov.Imm(asm.R4, 8),
		asm.FnSkbLoadBytes.Call(),
		asm.FnKtimeGetNs.Call(),
		asm.LoadMem(asm.R1, asm.RFP, -8, asm.DWord),
		asm.Sub.Reg(asm.R0, asm.R1),
		asm.Div.Imm(asm.R0, int32(latencyStep)),
		asm.JLT.Imm(asm.R0, latencySteps, "known"),
		asm.Mov.Imm(asm.R0, latencySteps-1),
		asm.StoreMem(asm.RFP, -4, asm.R0, asm.Word).WithSymbol("known"),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.LoadMapPtr(asm.R1, m.FD()),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "pass"),
		asm.Mov.Imm(asm.R1, 1),
		asm.StoreXAdd(asm.R0, asm.R1, asm.DWord),
		asm.Mov.Imm(asm.R0, 4), // TC_ACT_STOLEN: taken, and not a drop
		asm.Return(),
		asm.Mov.Imm(asm.R0, -1).WithSymbol("pass"),
		asm.Return(),
	}})
	p.must(err)
	p.t.Cleanup(func() { prog.Close() })
	p.must(target.QdiscAdd(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: nsc.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}))
	p.must(target.FilterAdd(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: nsc.Attrs().Index, Parent: netlink.HANDLE_MIN_INGRESS, Handle: 1, Priority: 1, Protocol: unix.ETH_P_ALL,
		},
		Fd: prog.FD(), Name: "count", DirectAction: true,
	}))
}

// latencies is how many packets arrived, by latencyStep.
type latencies []uint64

func (p *comparePath) latencies() latencies {
	l := make(latencies, latencySteps)
	keys := make([]uint32, latencySteps)
	n, err := p.arrived.BatchLookup(new(ebpf.MapBatchCursor), keys, []uint64(l), nil)
	if n != latencySteps { // and ErrKeyNotExist: there are no more
		p.t.Fatalf("read the counters: %d, %v", n, err)
	}
	return l
}

func (l latencies) since(before latencies) latencies {
	d := make(latencies, len(l))
	for i := range l {
		d[i] = l[i] - before[i]
	}
	return d
}

func (l latencies) total() (n uint64) {
	for _, c := range l {
		n += c
	}
	return n
}

// quantile is in microseconds.
func (l latencies) quantile(q float64) float64 {
	rest := uint64(q * float64(l.total()))
	for i, c := range l {
		if c > rest {
			return float64(i) * float64(latencyStep) / 1e3
		}
		rest -= c
	}
	return 0
}

// load is what the client sends.
type load struct {
	frames [][]byte // in turn
	rate   float64  // packets/s, evenly; 0: as fast as it can
	batch  int      // packets at a time
	time   time.Duration
}

// result is what a load came to. CPU times are in ns for each packet that
// arrived: the balancer's, and all of it, the sender's way into the queue and
// the kernel's own threads included.
type result struct {
	rate        float64 // arrived, packets/s
	lost        float64 // share of what was sent
	balancerCPU float64
	allCPU      float64
	p50, p99    float64 // µs from the sender to the target
}

// measure sends l through the balancer with pid.
func (p *comparePath) measure(l load, pid int) result {
	p.t.Helper()
	before, cpu, kernel := p.latencies(), schedTime(pid), p.softirqTime()
	s := p.sendPinned(l)
	after := p.latencies()
	cpu, kernel = schedTime(pid)-cpu, p.softirqTime()-kernel
	got := after.since(before)
	n := float64(got.total())
	if n == 0 {
		p.t.Fatal("nothing arrived")
	}
	return result{
		rate: n / s.took.Seconds(), lost: 1 - n/float64(s.packets),
		balancerCPU: cpu / n, allCPU: (cpu + kernel + float64(s.sending)) / n,
		p50: got.quantile(.5), p99: got.quantile(.99),
	}
}

type sent struct {
	packets       int
	took, sending time.Duration
}

// sendPinned sends from the sender's processor. In the time between packets it
// spins; what it spends in the kernel is counted apart.
func (p *comparePath) sendPinned(l load) sent {
	done := make(chan sent)
	go func() {
		runtime.LockOSThread() // the thread stays pinned, so it ends here
		pinTo(senderCPU)
		var zero unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &zero); err != nil {
			panic(err)
		}
		start := time.Now()
		msgs, iovs := make([]mmsghdr, l.batch), make([]unix.Iovec, l.batch)
		for i := range msgs {
			msgs[i].hdr.Iov = &iovs[i]
			msgs[i].hdr.SetIovlen(1)
		}
		var s sent
		gap := time.Duration(0)
		if l.rate > 0 {
			gap = time.Duration(float64(l.batch) / l.rate * 1e9)
		}
		for next := time.Duration(0); ; next += gap {
			now := time.Since(start)
			for ; now < next; now = time.Since(start) {
			}
			if now >= l.time {
				s.took = now
				break
			}
			for i := range msgs {
				f := l.frames[s.packets%len(l.frames)]
				s.packets++
				if l.rate > 0 { // else it would be the time in the queue
					binary.NativeEndian.PutUint64(f[stampOffset:], uint64(zero.Nano()+int64(now)))
				}
				iovs[i].Base = &f[0]
				iovs[i].SetLen(len(f))
			}
			unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(p.client), uintptr(unsafe.Pointer(&msgs[0])), uintptr(l.batch), 0, 0, 0)
			s.sending += time.Since(start) - now
		}
		done <- s
	}()
	return <-done
}

// udpFrames are of so many flows and so many bytes.
func (p *comparePath) udpFrames(flows, size int) (frames [][]byte) {
	for i := range flows {
		udp := make([]byte, size-frameHeader-ipv4HeaderLen)
		binary.BigEndian.PutUint16(udp, uint16(20000+i))
		binary.BigEndian.PutUint16(udp[2:], uint16(5000+i%4))
		binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
		client := netip.AddrFrom4([4]byte{200, 100, 0, byte(i % 64)})
		frames = append(frames, p.frameOf(ipv4(client, vip4, protoUDP, 1, 0, udp)))
	}
	return frames
}

func (p *comparePath) frameOf(l3 []byte) []byte {
	return join(p.mac, []byte{2, 0, 0, 0, 0, 1, 0x08, 0x00}, wire(l3))
}

// start runs a balancer on its processor, in the balancer's namespace, until
// the returned function is called.
func (p *comparePath) start(argv []string, env ...string) (pid int, stop func()) {
	p.t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	p.must(err)
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends here
		pinTo(balancerCPU)
		err := netns.Set(p.ns)
		if err == nil {
			err = cmd.Start()
		}
		started <- err
	}()
	p.must(<-started)
	stop = func() {
		cmd.Process.Kill()
		cmd.Wait()
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if lines.Text() == "ready" {
			return cmd.Process.Pid, stop
		}
	}
	stop()
	p.t.Fatalf("%v did not get ready", argv)
	return 0, nil
}

// pinTo gives the calling thread a processor. On a machine that has other work
// to do, WAYMARK_BENCH_FIFO=1 keeps that off the processor; it makes waking up
// cost more, for all that is compared alike.
func pinTo(cpu int) {
	var set unix.CPUSet
	set.Set(cpu)
	err := unix.SchedSetaffinity(0, &set)
	if err == nil && os.Getenv("WAYMARK_BENCH_FIFO") != "" {
		err = unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}, 0)
	}
	if err != nil {
		panic(err)
	}
}

// schedTime is the time that pid's threads ran, ns (proc(5), schedstat).
func schedTime(pid int) (ns float64) {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	for _, file := range threads {
		raw, err := os.ReadFile(file)
		if err != nil {
			continue // ended
		}
		ran, _, _ := strings.Cut(string(raw), " ")
		n, _ := strconv.ParseFloat(ran, 64)
		ns += n
	}
	return ns
}

// softirqThreads are the kernel's threads that take over packets when
// processors are busy.
func softirqThreads(t testing.TB) (pids []int) {
	files, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if name, _ := os.ReadFile(file); strings.HasPrefix(string(name), "ksoftirqd/") {
			pid, err := strconv.Atoi(strings.Split(file, "/")[2])
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	return pids
}

func (p *comparePath) softirqTime() (ns float64) {
	for _, pid := range p.softirqds {
		ns += schedTime(pid)
	}
	return ns
}
