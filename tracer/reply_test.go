// SPDX-License-Identifier: Apache-2.0

//go:build linux

package tracer

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"waymark/bpf"
	"waymark/tracer/filter"
)

// replyKey is struct reply_key of bpf/reply.h.
type replyKey struct {
	src, dst     [16]byte
	sport, dport uint16 // network byte order
	proto        uint8
	_            [3]uint8
}

// TestFollowsAnswersThatTheFilterDoesNotKnow plays NAT, which this kernel may
// not show: what it would note is followed, and nothing else.
func TestFollowsAnswersThatTheFilterDoesNotKnow(t *testing.T) {
	w := newWorld(t)
	f, err := filter.Parse([]string{"udp", "any", "198.51.100.1:9"})
	must(t, err)
	ends := []struct{ from, to netip.AddrPort }{
		{netip.MustParseAddrPort("192.0.2.1:5001"), netip.MustParseAddrPort("192.0.2.2:7000")},
		{netip.MustParseAddrPort("[2001:db8::1]:5001"), netip.MustParseAddrPort("[2001:db8::2]:7000")},
	}
	for _, noted := range []bool{true, false} {
		t.Run(fmt.Sprintf("noted %v", noted), func(t *testing.T) {
			// Noted in any case: the end of the traffic, when neighbours are known.
			last := netip.MustParseAddrPort("[2001:db8::2]:7999")
			c := &capture{until: func(c *capture) bool {
				return slices.ContainsFunc(c.records, func(r bpf.Record) bool {
					return r.DstPort() == last.Port() && bpf.Hook(r.Hook) == bpf.HookTCIngress
				})
			}}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			tr, err := Open(ctx, Options{Filter: f, Sink: c, Log: zerolog.New(zerolog.NewTestWriter(t)), Netns: []string{w.a.Path, w.b.Path}})
			must(t, err)
			defer tr.Close()
			note := func(from, to netip.AddrPort) {
				key := replyKey{
					src: from.Addr().As16(), dst: to.Addr().As16(), proto: unix.IPPROTO_UDP,
					sport: bits.ReverseBytes16(from.Port()), dport: bits.ReverseBytes16(to.Port()),
				}
				must(t, tr.programs.shared.Maps["replies"].Put(key, uint8(1)))
				must(t, tr.programs.shared.Variables["replies_known"].Set(uint32(1)))
			}
			note(ends[1].from, last)
			for _, e := range ends {
				if noted {
					note(e.from, e.to)
				}
			}
			done := make(chan error, 1)
			go func() { done <- tr.Run(ctx) }()
			for _, e := range ends {
				sendUDPFrom(t, w, e.from, e.to)
				sendUDPFrom(t, w, e.from, netip.AddrPortFrom(e.to.Addr(), e.to.Port()+1))
			}
			sendUDPFrom(t, w, ends[1].from, last)
			must(t, <-done)
			if ctx.Err() != nil {
				t.Fatalf("the last packet was not seen; there are %d records", len(c.records))
			}
			seen := map[netip.AddrPort]int{}
			for _, r := range c.records {
				if hook := bpf.Hook(r.Hook); hook == bpf.HookTCEgress || hook == bpf.HookTCIngress {
					seen[netip.AddrPortFrom(r.DstAddr(), r.DstPort())]++
				}
			}
			for _, e := range ends {
				if want := map[bool]int{true: 2}[noted]; seen[e.to] != want {
					t.Errorf("noted: %v: the packet to %s was seen at %d devices, want %d", noted, e.to, seen[e.to], want)
				}
				if other := netip.AddrPortFrom(e.to.Addr(), e.to.Port()+1); seen[other] != 0 {
					t.Errorf("the packet to %s was followed", other)
				}
			}
		})
	}
}

// sendUDPFrom sends one datagram from namespace a.
func sendUDPFrom(t *testing.T, w world, from, to netip.AddrPort) {
	t.Helper()
	must(t, w.a.Do(func() error {
		c, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(from), net.UDPAddrFromAddrPort(to))
		if err != nil {
			return err
		}
		_, err = c.Write([]byte("hello"))
		return errors.Join(err, c.Close())
	}))
}
