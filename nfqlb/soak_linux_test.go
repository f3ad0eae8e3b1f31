// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// A day's worth of packets in small (make soak).

const soakQueues = 4

// TestSoak sends packets through the queues of a `lb serve` while targets and
// flows change, the process is stopped and goes on, another takes over, and
// rules are reloaded and vanish. In the end each packet has to be found: behind
// the queue with a target's mark, or counted by whoever dropped it.
//
// WAYMARK_SOAK_PACKETS is how many the process has to decide; WAYMARK_SOAK_SEED
// repeats a run.
func TestSoak(t *testing.T) {
	if os.Getenv("WAYMARK_SOAK") == "" {
		t.Skip("set WAYMARK_SOAK=1, it takes minutes")
	}
	packets := soakNumber(t, "WAYMARK_SOAK_PACKETS", 50_000_000)
	seed := soakNumber(t, "WAYMARK_SOAK_SEED", uint64(time.Now().UnixNano()))
	t.Logf("WAYMARK_SOAK_SEED=%d", seed)
	r := rand.New(rand.NewPCG(seed, 1))

	w := newWorld(t, soakQueues)
	// A test in the same process must not disturb: its own table, state, flow.
	s := &soak{world: w, t: t, r: r, table: w.shared(), did: make(map[string]int)}
	s.args = []string{"--queue", fmt.Sprintf("0:%d", soakQueues-1), "--state", filepath.Join(t.TempDir(), "flows"), "--takeover"}
	s.p = w.serveProcess(nil, s.args...)
	s.flow(FlowSpec{
		Name: "soak", Target: s.table, Protocols: []string{"tcp", "udp"}, // pings have no flow and are dropped
		Dests: []string{vip4.String() + "/32", vip6.String() + "/128"}, DPorts: []string{"5000-5003"},
	})
	s.addPassed()
	s.out = w.sender(traffic(r, 4096))
	stop := s.flood()
	defer stop()

	start, last := time.Now(), uint64(0)
	for n := uint64(0); n < packets; n = s.decided() {
		if n >= last+packets/10 {
			last = n
			t.Logf("%5.1f s: %.1f million packets decided, %.0f/s, %v", time.Since(start).Seconds(), float64(n)/1e6, float64(n)/time.Since(start).Seconds(), s.did)
		}
		for range 10 {
			s.disturb()
			time.Sleep(time.Duration(r.IntN(20)) * time.Millisecond) // that traffic flows for a while, nothing signals
		}
	}
	stop()
	took := time.Since(start)
	await(t, "the queues to be empty", func() bool { return s.kernel().waiting == 0 })
	kernel, passed, beside, wire := s.kernel(), w.counted(), s.passed(), w.wireDrops(s.out)
	s.p.signal(unix.SIGTERM)
	s.p.exit()
	e, b := s.p.counts()

	sent := s.out.sent.Load()
	unqueued, placed := uint64(passed[0]), sumOf(passed)-uint64(passed[0])
	t.Logf("%d packets in %.0f s, %.0f/s; %v", sent, took.Seconds(), float64(sent)/took.Seconds(), s.did)
	t.Logf("on the way in: %d decided, %d dropped from full queues, %d from full sockets, %d on the wire, %d passed while there was no rule",
		e.Packets, kernel.tooLong, kernel.notWritten, wire, unqueued)
	t.Logf("on the way out: %d delivered by mark %v, %d delivered beside the counters, %d flushed with a chain; dropped by decision: %v",
		placed, passed, beside, e.Flushed, b.Reasons)
	if in := e.Packets + kernel.tooLong + kernel.notWritten + wire + unqueued; in != sent {
		t.Errorf("%d packets were sent, %d are accounted for on the way in", sent, in)
	}
	decided := uint64(0)
	for n := range maps.Values(b.Reasons) {
		decided += n
	}
	if decided != e.Packets {
		t.Errorf("%d packets were received, %d decided", e.Packets, decided)
	}
	if out := placed + beside + e.Flushed; out != b.Reasons[""] {
		t.Errorf("%d packets got a target, %d are accounted for on the way out", b.Reasons[""], out)
	}
	if e.Malformed+e.VerdictErrors+e.Overruns != 0 {
		t.Errorf("engine %+v", e)
	}
}

func soakNumber(t *testing.T, name string, otherwise uint64) uint64 {
	s := os.Getenv(name)
	if s == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

type soak struct {
	*world
	t     *testing.T
	r     *rand.Rand
	p     *served
	args  []string
	table string
	out   *sender
	did   map[string]int
}

// disturb does one thing at random.
func (s *soak) disturb() {
	what := ""
	switch n := s.r.IntN(100); {
	case n < 60:
		what = "target changes"
		s.changeTarget()
	case n < 75:
		what = "stops"
		s.p.freeze()
		longest := 20
		if s.r.IntN(4) == 0 {
			longest = 100
		}
		time.Sleep(time.Duration(s.r.IntN(longest)) * time.Millisecond) // packets pile up
		s.p.signal(unix.SIGCONT)
	case n < 85:
		what = "rule reloads"
		c := s.nft()
		s.queueRules(c, soakQueues, 0) // one transaction: each packet meets the old rule or the new one
		s.must(c.Flush())
	case n < 87:
		what = "rules gone"
		c := s.nft()
		s.removeQueueChains(c)
		s.must(c.Flush())
		c = s.nft()
		s.queueRules(c, soakQueues, 0)
		s.must(c.Flush())
	case n < 97:
		what = "flow changes"
		s.flow(FlowSpec{Name: fmt.Sprintf("other-%d", s.r.IntN(20)), Target: s.table, Priority: s.r.IntN(3) - 3, Dests: []string{"10.99.0.0/16"}})
	default:
		what = "takeovers"
		next := s.serveProcess(nil, s.args...)
		s.p.exit()
		s.p = next
	}
	s.did[what]++
}

// changeTarget takes a target in or out, with or without waiting for the
// process. Now and then none is left.
func (s *soak) changeTarget() {
	index := []int{47, 57, 66, 89}[s.r.IntN(4)]
	if s.r.IntN(2) == 0 {
		s.must(DeactivateAt(ShmDir, s.table, index))
	} else {
		s.must(ActivateAt(ShmDir, s.table, index, 5001+index))
	}
	if s.r.IntN(2) == 0 {
		s.within(func(ctx context.Context) error { return ReloadTargets(ctx, s.table) })
	}
}

func (s *soak) flow(spec FlowSpec) {
	s.within(func(ctx context.Context) error { return SetFlow(ctx, spec) })
}

func (s *soak) within(f func(context.Context) error) {
	s.t.Helper()
	s.inNS(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		s.must(f(ctx))
	})
}

// flood sends as fast as the queues take it; when they do not for a while, the
// process is stopped, and they overflow.
func (s *soak) flood() (stop func()) {
	var ended atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread stays in the namespace
		if err := netns.Set(s.ns); err != nil {
			s.t.Error(err)
			return
		}
		for !ended.Load() {
			for full := 0; full < 5 && ownKernelQueues().longest > 512; full++ {
				time.Sleep(100 * time.Microsecond)
			}
			s.out.send(256)
		}
	}()
	return func() {
		ended.Store(true)
		<-done
	}
}

// passedChain counts what comes by the chain that counts by mark. The kernel
// goes on with a packet after its verdict at the place of the chain that queued
// it, plus one; a packet whose verdict comes between the removal of that chain
// and the flush of the queue so misses the next chain.
const passedChain = "passed"

func (s *soak) addPassed() {
	c := s.nft()
	accept := nftables.ChainPolicyAccept
	for _, f := range families {
		table := &nftables.Table{Name: "nfqlb", Family: f.family}
		chain := c.AddChain(&nftables.Chain{
			Name: passedChain, Table: table, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRef(20), Policy: &accept,
		})
		c.AddRule(&nftables.Rule{
			Table: table, Chain: chain, UserData: []byte{0, 0},
			Exprs: append(toAddress(f.vip, f.offset), &expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}),
		})
	}
	s.must(c.Flush())
}

func (s *soak) passed() (n uint64) {
	for _, f := range families {
		n += sumOf(s.countedIn(f.family, passedChain))
	}
	return n
}

// decided is about how many packets the process has received.
func (s *soak) decided() uint64 {
	k := s.kernel()
	return s.out.sent.Load() - k.tooLong - k.notWritten - k.waiting - uint64(s.counted()[0])
}

type kernelTotal struct {
	kernelQueue
	longest uint64
}

// kernel is what the kernel counts of all queues.
func (s *soak) kernel() (sum kernelTotal) {
	s.inNS(func() { sum = ownKernelQueues() })
	return sum
}

// ownKernelQueues is that for the thread's namespace.
func ownKernelQueues() (sum kernelTotal) {
	text, err := os.ReadFile("/proc/thread-self/net/netfilter/nfnetlink_queue")
	if err != nil {
		panic(err)
	}
	for _, q := range parseKernelQueues(string(text)) {
		sum.waiting += q.waiting
		sum.tooLong += q.tooLong
		sum.notWritten += q.notWritten
		sum.longest = max(sum.longest, q.waiting)
	}
	return sum
}

// wireDrops is how many of the packets that s sent the wire lost. Some kernels
// tell the sender of each, and count it besides.
func (w *world) wireDrops(s *sender) uint64 {
	w.t.Helper()
	h, err := netlink.NewHandleAt(w.clientNS)
	w.must(err)
	defer h.Close()
	l, err := h.LinkByName("ext0")
	w.must(err)
	dropped := l.Attrs().Statistics.TxDropped
	return dropped - min(dropped, s.refused.Load())
}
