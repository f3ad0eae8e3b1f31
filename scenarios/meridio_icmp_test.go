// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

import (
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestMeridioAnswersPing(t *testing.T) {
	w := up(t)
	for _, vip := range []netip.Addr{meridioVIP4, meridioVIP6} {
		for id := range uint16(8) { // several targets
			if _, err := w.Ping(timeout(t), vip, 1000+id); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestMeridioTellsPathMTU narrows the link behind the balancer: the balancer must
// tell the client so in the name of the virtual address.
func TestMeridioTellsPathMTU(t *testing.T) {
	w := up(t)
	link, err := w.link(meridioToProxy)
	if err != nil {
		t.Fatal(err)
	}
	const narrow = 1400
	if err := w.nodes[meridioLB].nl.LinkSetMTU(link, narrow); err != nil {
		t.Fatal(err)
	}
	for _, v6 := range []bool{false, true} {
		sum, err := w.Send(timeout(t), Traffic{Connections: 6, Size: 20000, IPv6: v6}, nil)
		if err != nil || sum.Failed > 0 {
			t.Errorf("20000 bytes over a link of %d: %+v, %v", narrow, sum, err)
		}
		src, dst := meridio.service.from4, meridioVIP4
		if v6 {
			src, dst = meridio.service.from6, meridioVIP6
		}
		routes, err := w.nodes[meridioGW].nl.RouteGetWithOptions(dst.AsSlice(), &netlink.RouteGetOptions{SrcAddr: src.AsSlice()})
		if err != nil || len(routes) != 1 {
			t.Fatalf("route to %s: %v, %v", dst, routes, err)
		}
		if routes[0].MTU != narrow {
			t.Errorf("the client's path MTU to %s is %d, want %d", dst, routes[0].MTU, narrow)
		}
	}
}
