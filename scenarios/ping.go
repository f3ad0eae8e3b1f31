// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

// Echo requests from the client of a world: the balancer treats ICMP apart from
// TCP and UDP.

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// Ping sends one echo request (RFC 792, RFC 4443) from the world's client to dst
// and returns how long the answer took. The identifier of the request is id, so
// that a caller can choose which target a balancer finds for it.
func (w *World) Ping(ctx context.Context, dst netip.Addr, id uint16) (time.Duration, error) {
	src := w.lab.service.from4
	if dst.Is6() {
		src = w.lab.service.from6
	}
	return w.ping(ctx, w.lab.service.client, src, dst, id)
}

// ping is Ping from an address of the node client.
func (w *World) ping(ctx context.Context, client string, src, dst netip.Addr, id uint16) (time.Duration, error) {
	network, proto := "ip4:icmp", 1
	var request, answer icmp.Type = ipv4.ICMPTypeEcho, ipv4.ICMPTypeEchoReply
	if dst.Is6() {
		network, proto = "ip6:ipv6-icmp", 58
		request, answer = ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply
	}
	// The kernel fills in the checksum of ICMPv6, Marshal that of ICMP.
	message, err := (&icmp.Message{Type: request, Body: &icmp.Echo{ID: int(id), Seq: 1, Data: []byte("waymark")}}).Marshal(nil)
	if err != nil {
		return 0, err
	}
	var c net.PacketConn
	err = w.Inside(client, func() (err error) {
		c, err = net.ListenPacket(network, src.String())
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("open a raw socket: %w", err)
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	start := time.Now()
	if _, err := c.WriteTo(message, &net.IPAddr{IP: dst.AsSlice()}); err != nil {
		return 0, err
	}
	buf := make([]byte, 1500)
	for {
		n, from, err := c.ReadFrom(buf)
		if ctx.Err() != nil {
			return 0, fmt.Errorf("no echo reply from %s: %w", dst, os.ErrDeadlineExceeded)
		}
		if err != nil {
			return 0, err
		}
		m, err := icmp.ParseMessage(proto, buf[:n])
		if err != nil || m.Type != answer || from.String() != dst.String() {
			continue // a raw socket hears all ICMP of its address
		}
		if echo, ok := m.Body.(*icmp.Echo); ok && echo.ID == int(id) {
			return time.Since(start), nil
		}
	}
}
