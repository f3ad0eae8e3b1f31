// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"waymark/scenarios"
)

// TestNamesWhatHappened: of a thousand connections at a time, the target that
// waymark names is the one that answered, and the route it names is the one
// that the kernel gives when it is asked.
func TestNamesWhatHappened(t *testing.T) {
	connections := 1000
	if testing.Short() {
		connections = 100
	}
	w := labUpFor(t)
	args := append([]string{"trace", "-o", "json"}, netnsFlags(w)...)
	tr := start(t, append(args, "tcp", "port", "5000")...)
	answered := map[string]string{} // by the client's end
	for _, ipv6 := range []bool{false, true} {
		sum, err := w.Send(ctxBackground, scenarios.Traffic{Connections: connections, Concurrency: connections, IPv6: ipv6, Timeout: time.Minute},
			func(x scenarios.Exchange) { answered[x.Local.String()] = x.Reply.Target })
		if err != nil || sum.Answered != connections {
			t.Fatalf("%+v: %v", sum, err)
		}
	}
	awaitClosed(t, w)
	all := parseJourneys(t, tr.stop(t))
	k := askKernel(t)
	named, routes, whole, torn, odd := 0, 0, 0, 0, 0
	for i := range all {
		j := &all[i]
		// So many at once overflow the balancer's queue and the listeners'.
		switch {
		case j.Complete && (wholeWay.MatchString(j.way()) || j.Drop != nil):
			whole++
		case !j.Complete && len(j.Notes) > 0:
			torn++ // and it says by what
			fallthrough
		default:
			if odd++; odd <= 5 {
				t.Logf("%s %s, complete %v %v: %s", j.ID, j.Packet.Flags, j.Complete, j.Notes, j.way())
			}
		}
		routes += k.check(j)
		if j.Packet.Flags != "S" {
			continue
		}
		client := netip.AddrPortFrom(netip.MustParseAddr(j.Packet.Src), j.Packet.SPort).String()
		for _, h := range j.Hops {
			if h.Group != "lb" {
				continue
			}
			named++
			if want := targetOf[answered[client]]; h.Detail["target"] != float64(want) {
				t.Errorf("%s: waymark names target %v, %s answered, which is %d", client, h.Detail["target"], answered[client], want)
			}
		}
	}
	t.Logf("%d SYNs with a target, %d routes, %d questions to the kernel; %d of %d journeys have their whole way, %d say why not", named, routes, len(k.known), whole, len(all), torn)
	if named < 2*connections {
		t.Errorf("%d of %d SYNs have a target", named, 2*connections)
	}
	if whole*100 < len(all)*99 || (whole+torn)*1000 < len(all)*999 {
		t.Errorf("of %d journeys %d have their whole way and say so, and %d say why not", len(all), whole, torn)
	}
}

// awaitClosed returns when the lab's TCP connections are closed at both ends and
// no packet waits for a balancer: the last segments come after the answers.
func awaitClosed(t *testing.T, w *scenarios.World) {
	t.Helper()
	underWay := func(node, file string, still func(columns []string) bool) (n int) {
		err := w.Inside(node, func() error {
			table, err := os.ReadFile("/proc/thread-self/net/" + file)
			if errors.Is(err, fs.ErrNotExist) {
				return nil // nobody has asked for a queue yet
			}
			for line := range strings.Lines(string(table)) {
				if f := strings.Fields(line); len(f) > 3 && still(f) {
					n++
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	// Numbers of include/net/tcp_states.h, in the fourth column (get_tcp4_sock).
	open := func(f []string) bool { return f[3] != "st" && f[3] != "0A" && f[3] != "06" } // LISTEN, TIME_WAIT
	waits := func(f []string) bool { return f[2] != "0" }                                 // nfnetlink_queue.c, seq_show
	var connections, packets int
	for range 3000 {
		connections, packets = 0, 0
		for _, node := range w.Nodes() {
			packets += underWay(node, "netfilter/nfnetlink_queue", waits)
			connections += underWay(node, "tcp", open) + underWay(node, "tcp6", open)
		}
		if connections+packets == 0 {
			return
		}
		tick(t)
	}
	t.Fatalf("%d ends of connections are not closed, %d packets wait for the balancer", connections, packets)
}

// kernelRoutes asks the kernel for routes, each once.
type kernelRoutes struct {
	t          *testing.T
	namespaces map[string]*netlink.Handle
	known      map[routeQuestion]string
}

func askKernel(t *testing.T) *kernelRoutes {
	return &kernelRoutes{t: t, namespaces: map[string]*netlink.Handle{}, known: map[routeQuestion]string{}}
}

type routeQuestion struct {
	netns, iif, src, dst string
	mark                 uint32
}

// check compares the routes that a journey names with the kernel's, and returns
// how many there were.
func (k *kernelRoutes) check(j *journey) (routes int) {
	q := routeQuestion{src: j.Packet.Src, dst: j.Packet.Dst}
	for _, h := range j.Hops {
		if h.Netns != q.netns {
			q = routeQuestion{netns: h.Netns, src: q.src, dst: q.dst}
		}
		if h.Mark != nil {
			q.mark = *h.Mark
		}
		switch h.Group + "/" + h.Hook {
		case "device/ingress":
			q.iif = h.Dev
		case "nat/manip":
			if h.Detail["manip"] == "src" {
				q.src = hostOf(h.Detail["to"])
			} else {
				q.dst = hostOf(h.Detail["to"])
			}
		case "ipvs/forward": // asks as for a packet of its own
			q.iif, q.src, q.dst = "", "", hostOf(h.Detail["destination"])
		case "route/fib":
			routes++
			got := fmt.Sprintf("table %v via %v dev %v", h.Detail["table"], h.Detail["nexthop"], h.Detail["dev"])
			if want := k.ask(q); got != want {
				k.t.Errorf("%s: %+v: waymark says %s, the kernel %s", j.ID, q, got, want)
			}
		}
	}
	return routes
}

// hostOf is the address of ADDR:PORT, or of ADDR alone.
func hostOf(end any) string {
	if at, err := netip.ParseAddrPort(fmt.Sprint(end)); err == nil {
		return at.Addr().String()
	}
	return fmt.Sprint(end)
}

// ask is `ip route get DST from SRC iif IIF mark MARK` in the namespace.
func (k *kernelRoutes) ask(q routeQuestion) string {
	if answer, ok := k.known[q]; ok {
		return answer
	}
	h := k.namespaces[q.netns]
	if h == nil {
		ns, err := netns.GetFromName(q.netns)
		if err != nil {
			k.t.Fatal(err)
		}
		defer ns.Close()
		if h, err = netlink.NewHandleAt(ns); err != nil {
			k.t.Fatal(err)
		}
		k.t.Cleanup(h.Close)
		k.namespaces[q.netns] = h
	}
	found, err := h.RouteGetWithOptions(net.ParseIP(q.dst), &netlink.RouteGetOptions{SrcAddr: net.ParseIP(q.src), Iif: q.iif, Mark: q.mark})
	answer := fmt.Sprint(err)
	if err == nil && len(found) > 0 {
		dev := strconv.Itoa(found[0].LinkIndex)
		if l, err := h.LinkByIndex(found[0].LinkIndex); err == nil {
			dev = l.Attrs().Name
		}
		answer = fmt.Sprintf("table %d via %v dev %s", found[0].Table, found[0].Gw, dev)
	}
	k.known[q] = answer
	return answer
}
