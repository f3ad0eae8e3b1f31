// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

// What the faults of the Meridio lab do to it.

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"github.com/vishvananda/netlink"
)

// neighbourWait is how long a packet waits for the hardware address of a next hop
// that does not answer: three questions, a second apart (mcast_solicit and
// retrans_time_ms of net/ipv4/neigh and net/ipv6/neigh).
const neighbourWait = 3 * time.Second

// A load balancer that is gone.
var (
	meridioGone4 = netip.MustParseAddr("172.16.1.4")
	meridioGone6 = netip.MustParseAddr("fd00::ac10:104")
)

// eachOf does something with every row.
func eachOf[T any](rows []T, do func(T) error) error {
	for _, r := range rows {
		if err := do(r); err != nil {
			return err
		}
	}
	return nil
}

// meridioTargetWire is the wire between the first target and the proxy, the
// proxy's end first.
func meridioTargetWire() []port {
	t := meridioTargets[0]
	return []port{{meridioProxy, t.bridgePort}, {t.node, "nsc"}}
}

// cutOffTarget takes the proxy's end of the first target's wire down. The load
// balancer asks for its hardware address again, as Meridio has it do.
func (w *World) cutOffTarget(ctx context.Context) error {
	wire := meridioTargetWire()
	if err := w.linkDown(wire[0]); err != nil {
		return err
	}
	if err := w.awaitNoCarrier(ctx, wire[1]); err != nil {
		return err
	}
	t := meridioTargets[0]
	return eachOf([]neighbour{
		{port: meridioToProxy, ip: t.addr4.Addr()},
		{port: meridioToProxy, ip: t.addr6.Addr()},
	}, w.removeNeighbour)
}

// proxyBridgeDown sets the bridge down. Before that the load balancer learns the
// targets' hardware addresses, so that what is lost afterwards is a request and
// not the question for one.
func (w *World) proxyBridgeDown() error {
	for _, t := range meridioTargets {
		mac := w.lab.hardwareAddr(port{t.node, "nsc"})
		for _, a := range []netip.Prefix{t.addr4, t.addr6} {
			n := neighbour{port: meridioToProxy, ip: a.Addr(), mac: mac, state: netlink.NUD_REACHABLE}
			if err := w.setNeighbour(n); err != nil {
				return err
			}
		}
	}
	return w.linkDown(meridioBridge)
}

// proxyBridgeUp sets the bridge up and gives it what went when it went down: its
// IPv6 address and the routes.
func (w *World) proxyBridgeUp(ctx context.Context) error {
	if err := w.raise(ctx, []port{meridioBridge}); err != nil {
		return err
	}
	if err := eachOf(meridioBridgeAddresses(), w.addAddress); err != nil {
		return err
	}
	return eachOf(meridioProxyDefaults(meridioBalancer4, meridioBalancer6), w.replaceRoute)
}

func (w *World) externalDown(ctx context.Context, e meridioExternal) error {
	if err := w.linkDown(port{meridioLB, e.balancer}); err != nil {
		return err
	}
	return w.awaitNoCarrier(ctx, port{meridioGW, e.gateway})
}

// externalUp sets the load balancer's external device up and gives it what went
// when it went down.
func (w *World) externalUp(ctx context.Context, e meridioExternal) error {
	if err := w.raise(ctx, []port{{meridioLB, e.balancer}, {meridioGW, e.gateway}}); err != nil {
		return err
	}
	return w.addExternalAddresses(e)
}

// deactivateTargets takes every target out of the stream's table.
func (w *World) deactivateTargets(ctx context.Context) error {
	return eachOf(meridioTargets, func(t meridioTarget) error {
		_, err := w.run(ctx, meridioLB, w.balancerCommand("deactivate",
			fmt.Sprintf("--index=%d", t.identifier-1), "--shm="+meridioStream)...)
		return err
	})
}

// activateTargets puts every target into the stream's table.
func (w *World) activateTargets(ctx context.Context) error {
	return eachOf(meridioTargets, func(t meridioTarget) error {
		_, err := w.run(ctx, meridioLB, w.balancerCommand("activate",
			fmt.Sprintf("--index=%d", t.identifier-1), "--shm="+meridioStream, strconv.Itoa(int(t.mark())))...)
		return err
	})
}
