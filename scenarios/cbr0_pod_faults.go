// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

// Faults of one pod of several: what a service gives it is lost, the rest is
// answered.

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func cbr0PodFaults() []Fault {
	node, p1, p2 := cbr0.namespace(cbr0Node), cbr0Pods[0], cbr0Pods[1]
	return []Fault{
		{
			Name:     "pod-not-listening",
			Question: "K14",
			Brief:    "the server of p2, one of the service's endpoints, does not run",
			Traffic:  []string{"--to", "inbound", "-c", "4"},
			Expect: Expect{
				Outcome: "dropped", Packet: "request", Netns: cbr0.namespace(p2.node), Dev: "eth0",
				Drops:   slices.Concat(measured(4, "NO_SOCKET", "tcp_v4_rcv"), measured(6, "NO_SOCKET", "tcp_v6_rcv")),
				Advice:  "nothing listens in the pod: see why its application does not run, and take it out of the service's endpoints",
				Because: "no socket in wm-cbr0-p2, a pod behind wm-cbr0-node/cbr0, takes",
				Fix:     "see with `ss -lntu` in wm-cbr0-p2",
			},
			break_: func(_ context.Context, w *World) error { return w.stopServer(p2.name) },
			fix:    func(ctx context.Context, w *World) error { return w.startServer(ctx, p2.name) },
		},
		{
			Name:     "pod-gone",
			Question: "K15",
			Brief:    "p2, one of the service's endpoints, is cut off: its port of the bridge is down",
			Traffic:  []string{"--to", "inbound", "-c", "4", "--timeout", "5s"},
			Expect: Expect{
				Outcome: "dropped", Packet: "request", Netns: node, Dev: cbr0Bridge.dev, Wait: neighbourWait,
				Drops:   orPurged(unanswered()),
				Advice:  "the pod does not answer for its address: see whether it runs and its port of the bridge is up, and take it out of the service's endpoints",
				Because: "the pod is gone, or its link is down",
				Fix:     "see whether the pod runs and its port of cbr0 has a carrier",
			},
			break_: func(ctx context.Context, w *World) error { return w.cutOffPod(ctx, p2) },
			fix: func(ctx context.Context, w *World) error {
				return w.raise(ctx, []port{{cbr0Node, p2.port}, {p2.node, "eth0"}})
			},
		},
		{
			Name:     "small-pod-mtu",
			Question: "G7",
			Brief:    "p2's own device has a smaller MTU than its port of the bridge: large datagrams are lost between the two",
			Traffic:  []string{"--udp", "-c", "4", "--size", cbr0LargeSize},
			Expect: Expect{
				Outcome: "dropped", Packet: "request", Netns: node, Dev: p2.port,
				Drops: slices.Concat(measured(4, "NOT_SPECIFIED", "__dev_forward_skb2", "__dev_forward_skb", "veth_xmit"),
					measured(6, "NOT_SPECIFIED", "__dev_forward_skb2", "__dev_forward_skb", "veth_xmit")),
				Advice:  "the packet is larger than the MTU of the pod's device, and nobody is told: give the pod's device and its port of the bridge the same MTU",
				Because: "the other end of wm-cbr0-node/veth0002",
				Fix:     "the same MTU",
			},
			break_: func(_ context.Context, w *World) error { return w.setMTU(port{p2.node, "eth0"}, cbr0SmallMTU) },
			fix:    func(_ context.Context, w *World) error { return w.setMTU(port{p2.node, "eth0"}, cbr0MTU) },
		},
		{
			Name:     "fdb-unlearned",
			Question: "G5",
			Brief:    "the bridge does not learn p2's address, and floods nothing",
			Traffic:  []string{"-c", "4"},
			Expect: Expect{
				Outcome: "dropped", Packet: "request", Netns: node, Dev: p1.port,
				// br_flood, which finds no port, returns by way of the free.
				Drops: slices.Concat(
					measuredOn([]string{"6.1", "6.12"}, 4, "NOT_SPECIFIED", "br_handle_frame_finish"),
					measuredOn([]string{"6.1", "6.12"}, 6, "NOT_SPECIFIED", "br_handle_frame_finish"),
					measuredOn([]string{"6.18"}, 4, "NO_TX_TARGET", "br_handle_frame_finish"),
					measuredOn([]string{"6.18"}, 6, "NO_TX_TARGET", "br_handle_frame_finish")),
				Advice:  "the bridge has no entry for the pod's hardware address and may not ask all ports: set learning and flooding on again",
				Because: "veth0002 neither learns nor takes what is flooded",
				Fix:     "set learning and flooding on the ports again",
			},
			break_: func(_ context.Context, w *World) error { return w.unlearn(p2) },
			fix:    func(_ context.Context, w *World) error { return w.learn() },
		},
	}
}

// stopServer ends the server of that name; it may have ended already.
func (w *World) stopServer(name string) error {
	running, err := w.processesOf(name)
	errs := []error{err}
	for _, p := range running {
		errs = append(errs, p.kill())
	}
	return errors.Join(errs...)
}

// startServer starts a server of the lab unless it runs.
func (w *World) startServer(ctx context.Context, name string) error {
	running, err := w.processesOf(name)
	if err != nil || len(running) > 0 {
		return err
	}
	for _, s := range cbr0Servers() {
		if s.name != name {
			continue
		}
		await, err := w.startTarget(s.name, s.node, s.listen...)
		if err != nil {
			return err
		}
		return await(ctx)
	}
	return fmt.Errorf("server %s: %w", name, ErrUnknown)
}

// cutOffPod takes a pod's port of the bridge down, and has the node ask for its
// hardware address again.
func (w *World) cutOffPod(ctx context.Context, pod cbr0Pod) error {
	if err := w.linkDown(port{cbr0Node, pod.port}); err != nil {
		return err
	}
	if err := w.awaitNoCarrier(ctx, port{pod.node, "eth0"}); err != nil {
		return err
	}
	return eachOf([]neighbour{{port: cbr0Bridge, ip: pod.addr4.Addr()}, {port: cbr0Bridge, ip: pod.addr6.Addr()}}, w.removeNeighbour)
}

// unlearn has the bridge forget a pod's hardware address, and keeps it from
// learning it again or sending frames for unknown ones anywhere.
func (w *World) unlearn(pod cbr0Pod) error {
	for _, p := range cbr0Pods {
		if err := w.setPort(port{cbr0Node, p.port}, p.port != pod.port, false); err != nil {
			return err
		}
	}
	return w.forgetFrames(port{cbr0Node, pod.port}, w.lab.hardwareAddr(port{pod.node, "eth0"}))
}

func (w *World) learn() error {
	for _, p := range cbr0Pods {
		if err := w.setPort(port{cbr0Node, p.port}, true, true); err != nil {
			return err
		}
	}
	return nil
}

// setPort says whether a bridge learns addresses behind a port, and floods to it.
func (w *World) setPort(d port, learning, flood bool) error {
	l, err := w.link(d)
	if err != nil {
		return err
	}
	nl := w.nodes[d.node].nl
	err = errors.Join(nl.LinkSetLearning(l, learning), nl.LinkSetFlood(l, flood))
	return wrap(fmt.Sprintf("set the mode of port %s in %s", d.dev, d.node), err)
}

// forgetFrames removes an entry of a bridge's forwarding database; it may be gone
// already.
func (w *World) forgetFrames(d port, mac net.HardwareAddr) error {
	l, err := w.link(d)
	if err != nil {
		return err
	}
	err = w.nodes[d.node].nl.NeighDel(&netlink.Neigh{
		LinkIndex: l.Attrs().Index, Family: unix.AF_BRIDGE, HardwareAddr: mac, Flags: netlink.NTF_MASTER,
	})
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return wrap(fmt.Sprintf("forget %s at %s in %s", mac, d.dev, d.node), err)
}
