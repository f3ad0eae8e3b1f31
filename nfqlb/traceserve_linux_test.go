// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netns"
)

// traced is a balancer that serves its trace socket in a network namespace of
// the test's own, at nfqlb's address.
type traced struct {
	*Balancer
	t   *testing.T
	ns  netns.NsHandle
	dir string
}

func newTraced(t *testing.T) *traced {
	t.Helper()
	if os.Geteuid() != 0 {
		unavailable(t, "needs root for network namespaces")
	}
	s := &traced{Balancer: meridio(t, Config{}, 57), t: t, dir: t.TempDir()}
	var l net.Listener
	s.within(func() {
		s.ns = (&world{t: t}).namespace("trace")
		var err error
		if l, err = ListenTrace(TraceAddress); err != nil {
			t.Error(err)
		}
	})
	if t.Failed() {
		t.FailNow()
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.ServeTrace(ctx, l, s.dir) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

// within runs f on a thread in the namespace, which it ends with.
func (s *traced) within(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if s.ns != 0 {
			if err := netns.Set(s.ns); err != nil {
				s.t.Error(err)
				return
			}
		}
		f()
	}()
	<-done
}

// client runs our client with mask; lines is what it gets.
func (s *traced) client(ctx context.Context, mask TraceMask) (lines *bufio.Scanner, done <-chan error) {
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go s.within(func() {
		err := Trace(ctx, TraceAddress, s.dir, mask, w)
		w.Close()
		ended <- err
	})
	return bufio.NewScanner(r), ended
}

// expect reads lines up to the one that is wanted.
func expect(t *testing.T, lines *bufio.Scanner, want string) {
	t.Helper()
	for lines.Scan() {
		if lines.Text() == want {
			return
		}
		if strings.HasPrefix(lines.Text(), "Trace active") {
			t.Fatalf("%q, want %q", lines.Text(), want)
		}
		t.Logf("passed over %q", lines.Text())
	}
	t.Fatalf("the trace ended before %q", want)
}

func (s *traced) mask() TraceMask {
	c, err := ReadTraceConfig(s.dir)
	if err != nil {
		s.t.Fatal(err)
	}
	return c.Mask
}

// Two clients at once, each gets what it asked for, and when the last one goes
// nothing is traced.
func TestTraceTwoClients(t *testing.T) {
	s := newTraced(t)
	if err := s.SetTraceFlow(FlowSpec{Name: "t"}); err != nil {
		t.Fatal(err)
	}
	ctxA, endA := context.WithCancel(t.Context())
	ctxB, endB := context.WithCancel(t.Context())
	defer endA()
	defer endB()
	// Started together, they take turns at the shared file.
	linesA, doneA := s.client(ctxA, TraceFlows)
	linesB, doneB := s.client(ctxB, TracePacket|TraceLog)
	expect(t, linesA, "Trace active, mask=0x00000040")
	expect(t, linesB, "Trace active, mask=0x00000003")
	await(t, "both clients", func() bool { return TraceMask(s.tracing.Load()) == TraceFlows|TracePacket|TraceLog })

	l3 := wire(ipv4(src4, vip4, protoTCP, 1, 0, ports(42000, 5000)))
	var p Packet
	s.Decide(l3, &p)
	s.TraceLine([]byte("something logged\n"))
	for _, want := range []string{"", "Match for trace-flow: t", "proto=tcp, len=32, ::ffff:20.0.0.7 42000 -> ::ffff:10.0.0.1 5000", "target=tshm-stream-a, fwmark=5058"} {
		if !linesA.Scan() || linesA.Text() != want {
			t.Fatalf("flows: got %q, want %q", linesA.Text(), want)
		}
	}
	for _, want := range []string{"Using LB; tshm-stream-a", "Packet; proto=6, len=32, fwmark=5058", "something logged"} {
		if !linesB.Scan() || linesB.Text() != want {
			t.Fatalf("packet: got %q, want %q", linesB.Text(), want)
		}
	}
	endA()
	if err := <-doneA; err != nil {
		t.Errorf("client: %v", err)
	}
	await(t, "the other client's mask", func() bool { return s.mask() == TracePacket|TraceLog && TraceMask(s.tracing.Load()) == s.mask() })
	endB()
	if err := <-doneB; err != nil {
		t.Errorf("client: %v", err)
	}
	await(t, "no mask", func() bool { return s.mask() == 0 && s.tracing.Load() == 0 })
}

// dial connects as nfqlb's client does: the mask is written, nothing locked.
func (s *traced) dial(mask TraceMask) net.Conn {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, TraceName), TraceConfig{LogNotice, mask}.encode(), 0o600); err != nil {
		s.t.Fatal(err)
	}
	var conn net.Conn
	s.within(func() {
		var err error
		if conn, err = net.Dial("unix", "@nfqlb-trace"); err != nil {
			s.t.Error(err)
		}
	})
	if conn == nil {
		s.t.FailNow()
	}
	s.t.Cleanup(func() { conn.Close() })
	return conn
}

// nfqlb's client; any word from it ends the trace.
func TestTraceForeignClient(t *testing.T) {
	s := newTraced(t)
	conn := s.dial(TracePacket)
	lines := bufio.NewScanner(conn)
	expect(t, lines, "Trace active, mask=0x00000002")
	s.Decide(wire(ipv4(src4, vip4, protoTCP, 1, 0, ports(42000, 9))), new(Packet))
	expect(t, lines, "Failed flowLookup")
	if _, err := conn.Write([]byte("bye\n")); err != nil {
		t.Fatal(err)
	}
	if lines.Scan() {
		t.Fatalf("got %q after the end", lines.Text())
	}
	await(t, "no mask", func() bool { return s.mask() == 0 && s.tracing.Load() == 0 })
}

// A client that does not read loses messages, knows how many, and holds up
// neither the packets nor another client.
func TestTraceSlowClient(t *testing.T) {
	s := newTraced(t)
	slow := s.dial(TracePacket)
	await(t, "the client", func() bool { return s.tracing.Load() != 0 })

	const packets = 100_000
	l3 := wire(ipv4(src4, vip4, protoTCP, 1, 0, ports(42000, 9)))
	var p Packet
	for range packets {
		s.Decide(l3, &p)
	}
	dropped := s.trace.dropped.Load()
	if dropped == 0 {
		t.Fatal("a client that reads nothing lost nothing")
	}
	other := s.dial(TraceTarget)
	lines := bufio.NewScanner(other)
	expect(t, lines, "Trace active, mask=0x00000020")
	await(t, "the other client", func() bool { return TraceMask(s.tracing.Load())&TraceTarget != 0 })
	s.tracef(TraceTarget, "still here\n")
	expect(t, lines, "still here")

	received, lost := 0, 0
	for in := bufio.NewScanner(slow); received+lost < packets && in.Scan(); {
		var n int
		switch _, err := fmt.Sscanf(in.Text(), "%d messages dropped", &n); {
		case err == nil:
			lost += n
		case in.Text() == "Failed flowLookup":
			received++
		}
	}
	if received+lost != packets || uint64(lost) != dropped {
		t.Errorf("of %d messages %d came and %d are said to be dropped, counted %d", packets, received, lost, dropped)
	}
	t.Logf("%d messages came, %d were dropped", received, lost)
}

func TestTraceTooManyClients(t *testing.T) {
	s := newTraced(t)
	for range maxTraceClients {
		expect(t, bufio.NewScanner(s.dial(TraceLog)), "Trace active, mask=0x00000001")
	}
	got, err := io.ReadAll(s.dial(TraceLog))
	if err != nil || !strings.Contains(string(got), "16 clients trace already") {
		t.Errorf("one more client got %q, %v", got, err)
	}
}

func TestTraceWithoutBalancer(t *testing.T) {
	dir := t.TempDir()
	err := Trace(t.Context(), "unix:wm-nfqlb-test-nobody", dir, TraceFlows, new(bytes.Buffer))
	if err == nil || !strings.Contains(err.Error(), ErrNoBalancer.Error()) {
		t.Errorf("error %v", err)
	}
	if c, err := ReadTraceConfig(dir); err != nil || c != defaultTraceConfig {
		t.Errorf("left behind: %+v, %v", c, err)
	}
	if err := Trace(t.Context(), "pigeon", dir, TraceFlows, nil); err == nil {
		t.Error("no error")
	}
}

func TestLogLevel(t *testing.T) {
	dir := t.TempDir()
	if err := SetLogLevel(dir, LogDebug); err != nil {
		t.Fatal(err)
	}
	if c, err := ReadTraceConfig(dir); err != nil || c.LogLevel != LogDebug || c.Mask != 0 {
		t.Errorf("%+v, %v", c, err)
	}
	if err := os.WriteFile(filepath.Join(dir, TraceName), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadTraceConfig(dir); err == nil {
		t.Error("a broken file was read")
	}
}
