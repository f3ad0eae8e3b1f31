// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// incumbent is a balancer with engine and control socket that can be taken
// over.
type incumbent struct {
	b     *Balancer
	e     *Engine
	taken chan int // by the process with this id
	end   func() error
}

func startIncumbent(t *testing.T, w *world, b *Balancer, from *Inheritance) *incumbent {
	t.Helper()
	i := &incumbent{b: b, taken: make(chan int, 1)}
	i.e = NewEngine(b, QueueConfig{NetNS: int(w.ns), Length: 8192})
	var l net.Listener
	var err error
	if from != nil {
		if l, err = from.Listener(ControlSocket); err == nil {
			err = from.Inherit(b, i.e)
		}
		from.Close()
	} else {
		l, err = ListenControl()
	}
	if err != nil {
		t.Fatal(err)
	}
	b.OfferTakeover(i.e, []HandedOver{{ControlSocket, l.(*net.UnixListener)}}, func(pid int) { i.taken <- pid })
	endEngine := start(t, i.e)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.ServeControl(ctx, l) }()
	ended := false
	i.end = func() error {
		ended = true
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		return endEngine()
	}
	t.Cleanup(func() {
		if !ended {
			i.end()
		}
	})
	return i
}

func ownControlSocket(t *testing.T) {
	t.Setenv("NFQLB_FLOW_ADDRESS", fmt.Sprintf("unix:wm-nfqlb-test-%s", t.Name()))
}

// Balancers follow each other while packets come: every packet passes with the
// mark that its flow says, flows and counts go on, and the control socket is
// never gone.
func TestTakeoverLosesNothing(t *testing.T) {
	ownControlSocket(t)
	w := newWorld(t, 1)
	now := startIncumbent(t, w, everything(t), nil)
	s := w.sender(steadyTraffic(256))
	stop := s.constantly(5 * steadyRate)
	const generations = 8
	for n := range generations {
		before := now.e.Stats().Packets
		await(t, "packets", func() bool { return now.e.Stats().Packets > before+100 })
		if err := SetFlow(t.Context(), FlowSpec{Name: fmt.Sprintf("extra-%d", n), Target: "tshm-stream-a", Priority: -1 - n}); err != nil {
			t.Fatal(err)
		}
		next := meridio(t, Config{}, 47, 57, 66, 89)
		if err := next.DeleteFlow("tshm-stream-a-flow-a"); err != nil {
			t.Fatal(err)
		}
		from, err := TakeOver(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := next.SetFlows(from.Flows); err != nil {
			t.Fatal(err)
		}
		successor := startIncumbent(t, w, next, from)
		<-now.taken
		if err := now.end(); err != nil {
			t.Fatalf("the old engine ended with %v", err)
		}
		now = successor
	}
	stop()
	sent := s.sent.Load()
	await(t, "the last packets", func() bool { return sumOf(w.counted()) >= sent })
	if err := now.end(); err != nil {
		t.Fatal(err)
	}
	if got := sumOf(w.counted()); got != sent || w.counted()[0] != 0 {
		t.Errorf("of %d packets %d passed, by mark %v", sent, got, w.counted())
	}
	st := now.b.Stats()
	if st.Reasons[""] != sent || len(st.Reasons) != 1 || now.e.Stats().Packets != sent {
		t.Errorf("%d packets were sent; after %d balancers the counts are %+v, %+v", sent, generations, st, now.e.Stats())
	}
	matches := uint64(0)
	flows := now.b.Flows("")
	for _, f := range flows {
		matches += f.MatchesCount
	}
	if len(flows) != 2+generations || matches != sent {
		t.Errorf("%d flows matched %d packets, want %d and %d", len(flows), matches, 2+generations, sent)
	}
	hits := uint64(0)
	for _, n := range st.Targets["tshm-stream-a"] {
		hits += n
	}
	if hits != sent {
		t.Errorf("targets got %d of %d packets", hits, sent)
	}
}

// A new process that gives up half way, at any step, leaves the old one
// serving.
func TestTakeoverGivenUp(t *testing.T) {
	ownControlSocket(t)
	w := newWorld(t, 1)
	old := startIncumbent(t, w, everything(t), nil)
	s := w.sender(steadyTraffic(256))
	stop := s.constantly(steadyRate)
	for _, give := range []struct {
		up   string
		when func(*Inheritance)
	}{
		{"before it was ready", func(*Inheritance) {}},
		{"when it was ready", func(i *Inheritance) { sayStep(i.conn, takeoverReady) }},
		{"with the state", func(i *Inheritance) {
			sayStep(i.conn, takeoverReady)
			var state takeoverState
			i.old.Decode(&state)
		}},
		{"with nonsense", func(i *Inheritance) { sayStep(i.conn, "dance") }},
		{"with other queues", func(i *Inheritance) {
			if err := i.Inherit(NewBalancer(Config{}, nil), NewEngine(old.b, QueueConfig{Last: 3})); err == nil || !strings.Contains(err.Error(), "0:0") {
				t.Errorf("other queues: %v", err)
			}
		}},
	} {
		i, err := TakeOver(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		give.when(i)
		i.Close()
		// It answers again: who connects meanwhile waits.
		if err := SetFlow(t.Context(), FlowSpec{Name: "after", Target: "tshm-stream-a"}); err != nil {
			t.Fatalf("given up %s: %v", give.up, err)
		}
		before := old.e.Stats().Packets
		await(t, "packets after a takeover given up "+give.up, func() bool { return old.e.Stats().Packets > before+10 })
	}
	stop()
	sent := s.sent.Load()
	await(t, "the last packets", func() bool { return sumOf(w.counted()) == sent })
	select {
	case <-old.taken:
		t.Error("the old balancer thinks it was taken over")
	default:
	}
}

// Changes of flows that come too late are refused, not lost.
func TestTakeoverRefusesLateChanges(t *testing.T) {
	ownControlSocket(t)
	w := newWorld(t, 1)
	old := startIncumbent(t, w, everything(t), nil)
	from, err := TakeOver(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	late := make(chan error, 1)
	go func() { late <- old.b.SetFlow(FlowSpec{Name: "late", Target: "tshm-stream-a"}) }()
	next := everything(t)
	startIncumbent(t, w, next, from)
	if err := <-late; err == nil || !strings.Contains(err.Error(), "try again") {
		t.Errorf("a flow set on the old balancer: %v", err)
	}
	again, err := TakeOver(t.Context())
	if err != nil {
		t.Fatalf("the new balancer cannot be taken over: %v", err)
	}
	again.Close()
}

func TestTakeoverWithoutBalancer(t *testing.T) {
	ownControlSocket(t)
	if _, err := TakeOver(t.Context()); err != ErrNoBalancer {
		t.Errorf("nobody there: %v", err)
	}
	controlled(t) // one that offers nothing
	if _, err := TakeOver(t.Context()); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("a balancer that cannot be taken over: %v", err)
	}
}

// Nobody but root and the balancer's own user gets its sockets.
func TestTakeoverIsNotForEverybody(t *testing.T) {
	ownControlSocket(t)
	w := newWorld(t, 1)
	old := startIncumbent(t, w, everything(t), nil)
	failed := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends here
		const nobody = 65534
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); errno != 0 {
			failed <- errno
			return
		}
		_, err := TakeOver(t.Context())
		failed <- err
	}()
	if err := <-failed; err == nil || !strings.Contains(err.Error(), "user 65534") {
		t.Errorf("taken over by nobody: %v", err)
	}
	w.send(steadyTraffic(10)...)
	await(t, "packets", func() bool { return old.e.Stats().Packets == 10 })
}

// The later fragments of a packet get what its first one got, although another
// balancer saw that; and those that were kept for the first one are not lost.
func TestFragmentsAreHandedOver(t *testing.T) {
	var injected [][]byte
	table := func() *fragTable {
		c := DefaultFragments()
		c.TTL = time.Hour
		c.Inject = func(p []byte) error {
			injected = append(injected, append([]byte(nil), p...))
			return nil
		}
		return newFragTable(c)
	}
	fragment := func(id uint16, offset int, more bool) []byte {
		flags := uint16(offset / 8)
		if more {
			flags |= 0x2000
		}
		return wire(ipv4(src4, dst4, protoUDP, id, flags, ports(1, 2), make([]byte, 16)))
	}
	decide := func(f *fragTable, l3 []byte, d Decision) Decision {
		var p Packet
		if err := Parse(l3, 0, &p); err != nil {
			t.Fatal(err)
		}
		return f.decide(l3, &p, d)
	}
	old := table()
	decide(old, fragment(1, 0, true), Decision{Accept: true, Mark: 5048})
	decide(old, fragment(2, 0, true), Decision{Why: NoTarget, Mark: -1})
	early := fragment(3, 24, false)
	if d := decide(old, early, Decision{}); d.Why != FragmentKept {
		t.Fatalf("early fragment: %+v", d)
	}
	next := table()
	next.take(old.held())
	if d := decide(next, fragment(1, 24, false), Decision{}); !d.Accept || d.Mark != 5048 {
		t.Errorf("later fragment of a placed packet: %+v", d)
	}
	if d := decide(next, fragment(2, 24, false), Decision{}); d.Accept || d.Why != NoTarget {
		t.Errorf("later fragment of a dropped packet: %+v", d)
	}
	decide(next, fragment(3, 0, true), Decision{Accept: true, Mark: 5067})
	if len(injected) != 1 || !bytes.Equal(injected[0], early) {
		t.Errorf("given back: %v, want the one that was kept", injected)
	}
}
