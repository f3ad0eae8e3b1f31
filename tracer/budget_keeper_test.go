// SPDX-License-Identifier: Apache-2.0

//go:build linux

package tracer

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"testing"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"waymark/bpf"
	"waymark/tracer/filter"
)

// traced runs a trace of both namespaces while do works on it, and returns all
// that came.
func traced(t *testing.T, w world, opts Options, do func(*Tracer)) *capture {
	t.Helper()
	c := &capture{}
	opts.Sink, opts.Log = c, zerolog.New(zerolog.NewTestWriter(t))
	opts.Netns = []string{w.a.Path, w.b.Path}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	tr, err := Open(ctx, opts)
	must(t, err)
	defer tr.Close()
	do(tr)
	cancel() // what is in the ring is read to the end
	must(t, tr.Run(ctx))
	return c
}

// echo sends a datagram from a new socket in a and waits for its echo. It
// returns the socket's port.
func echo(t *testing.T, w world, server net.PacketConn) uint16 {
	t.Helper()
	var c net.Conn
	must(t, w.a.Do(func() (err error) {
		c, err = net.Dial("udp", server.LocalAddr().String())
		return err
	}))
	defer c.Close()
	b := make([]byte, 16)
	_, err := c.Write([]byte("waymark"))
	must(t, err)
	n, from, err := server.ReadFrom(b)
	must(t, err)
	_, err = server.WriteTo(b[:n], from)
	must(t, err)
	_, err = c.Read(b)
	must(t, err)
	return uint16(c.LocalAddr().(*net.UDPAddr).Port)
}

// TestSampledFlowsAreWhole: of a flow both directions are followed or none, at
// every hook, and what is not followed is counted.
func TestSampledFlowsAreWhole(t *testing.T) {
	const flows, oneIn = 64, 4
	w := newWorld(t)
	f, err := filter.Parse([]string{"udp port 7000"})
	must(t, err)
	for _, at := range []string{"192.0.2.2:7000", "[2001:db8::2]:7000"} {
		t.Run(at, func(t *testing.T) {
			server := listenUDP(t, w.b, at)
			ports := map[uint16]bool{}
			var leftOut uint64
			c := traced(t, w, Options{Filter: f}, func(tr *Tracer) {
				must(t, tr.programs.shared.Variables["sample_mask"].Set(uint32(oneIn-1)))
				for len(ports) < flows {
					ports[echo(t, w, server)] = true
				}
				for _, s := range tr.Stats() {
					leftOut += s.SampledOut
				}
			})
			seen := map[uint16]int{} // records of devices, by client port
			for _, r := range c.records {
				if h := bpf.Hook(r.Hook); r.Proto != unix.IPPROTO_UDP || h != bpf.HookTCIngress && h != bpf.HookTCEgress {
					continue
				}
				port := r.SrcPort()
				if port == 7000 {
					port = r.DstPort()
				}
				seen[port]++
			}
			for port, n := range seen {
				if n%4 != 0 { // out of a, into b, out of b, into a; a port may come twice
					t.Errorf("of the flow of port %d %d records were written", port, n)
				}
			}
			if len(seen) == 0 || len(seen) > flows/2 {
				t.Errorf("%d of %d flows were followed, want about one in %d", len(seen), flows, oneIn)
			}
			if least := uint64(4 * (flows - len(seen))); leftOut < least {
				t.Errorf("%d packets were counted as left out, want at least %d", leftOut, least)
			}
		})
	}
}

// connect opens a TCP connection from a and closes it at both ends. It returns
// the port in a.
func connect(t *testing.T, w world, server net.Listener) uint16 {
	t.Helper()
	var c net.Conn
	must(t, w.a.Do(func() (err error) {
		c, err = net.Dial("tcp", server.Addr().String())
		return err
	}))
	defer c.Close()
	s, err := server.Accept()
	must(t, err)
	must(t, s.Close())
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return uint16(c.LocalAddr().(*net.TCPAddr).Port)
}

// TestDetachedGroupComesBack: every group can be detached and attached again;
// hooks tell nothing meanwhile, and what they told before when they are back.
func TestDetachedGroupComesBack(t *testing.T) {
	w := newWorld(t)
	var server net.Listener
	must(t, w.b.Do(func() (err error) {
		server, err = net.Listen("tcp", "192.0.2.2:7000")
		return err
	}))
	defer server.Close()
	var after uint16
	var detached, again uint64 // ns
	groups := slices.DeleteFunc(slices.Clone(Groups), func(g string) bool { return slices.Contains(neverShed, g) })
	c := traced(t, w, Options{Groups: Groups}, func(tr *Tracer) {
		for _, g := range groups {
			tr.programs.detach(g)()
		}
		detached = bootTime()
		connect(t, w, server)
		again = bootTime()
		for _, g := range groups {
			a := tr.programs.attach(g)()
			must(t, a.err)
			tr.programs.attachedAgain(a)
		}
		after = connect(t, w, server)
	})
	begun := map[uint64]uint16{} // client port by trail
	ends := map[uint16]int{}
	during := 0
	for _, r := range c.records {
		switch bpf.Hook(r.Hook) {
		case bpf.HookTCEgress:
			switch uint16(7000) {
			case r.DstPort():
				begun[r.Trail] = r.SrcPort()
			case r.SrcPort():
				begun[r.Trail] = r.DstPort()
			}
		case bpf.HookConsumeSkb, bpf.HookKfreeSkbmem:
			ends[begun[r.Trail]]++
			if detached < r.TimeNs && r.TimeNs < again {
				during++
			}
		}
	}
	if len(begun) < 2 || during != 0 || ends[after] == 0 {
		t.Errorf("%d packets; ends seen while detached %d, after it %d", len(begun), during, ends[after])
	}
}
