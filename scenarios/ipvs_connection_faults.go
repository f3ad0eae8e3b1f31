// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

// Faults of connections that a director knew, or still knows: of how long it
// remembers them, and what becomes of them when a destination goes.

import (
	"context"
	"slices"
)

const (
	// ipvsKept is the kernel's default for idle connections of TCP, in seconds
	// (net/netfilter/ipvs/ip_vs_proto_tcp.c), and Ravel's.
	ipvsKept = 900
	// ipvsForgotten is shorter than the traffic of fault idle-timeout pauses.
	ipvsForgotten = 1
)

func ipvsConnectionFaults() []Fault {
	d1, rs1 := ipvsDirectors[0], ipvsRealservers[0]
	return []Fault{
		{
			Name:     "idle-timeout",
			Question: "R8",
			Brief:    "director d1 forgets connections that are idle for a second, and takes up none in the middle (sloppy_tcp is 0)",
			Traffic:  []string{"-c", "12", "--pause", "1500ms"},
			Expect: Expect{
				Outcome: "dropped", Packet: "request", Netns: ipvs.namespace(d1.node), Dev: ipvsUplink,
				Drops:   slices.Concat(ipvsMeasured(4, "NO_SOCKET", "tcp_v4_rcv"), ipvsMeasured(6, "NO_SOCKET", "tcp_v6_rcv")),
				Advice:  "the director has forgotten an idle connection and answers with resets: set its timeouts to 900 10 300 (ipvsadm --set)",
				Because: "has no entry for this connection any more: its TCP timeout is 1 s",
				Fix:     "`ipvsadm --set 900 10 300` in wm-ipvs-d1",
			},
			break_: func(_ context.Context, w *World) error { return w.setIdleTimeout(d1.node, ipvsForgotten, "0") },
			fix:    func(_ context.Context, w *World) error { return w.setIdleTimeout(d1.node, ipvsKept, "1") },
		},
		{
			Name:     "destination-gone",
			Question: "R9",
			Also:     "R10",
			Brief:    "director d1 has lost destination rs1 of direct, and drops all packets of its connections without a word (expire_nodest_conn is 0)",
			Traffic:  []string{"-c", "24", "--amid", "destination-gone"},
			Expect: Expect{
				Outcome: "dropped", Packet: "request", Netns: ipvs.namespace(d1.node), Dev: ipvsUplink,
				Drops: slices.Concat(ipvsMeasured(4, "NETFILTER_DROP", "nf_hook_slow"),
					ipvsMeasured(6, "NETFILTER_DROP", "nf_hook_slow")),
				Advice:  "the director drops what belongs to connections of a destination that is gone: set net.ipv4.vs.expire_nodest_conn to 1, so that their clients hear of it",
				Because: "which is no destination of the service any more",
				Fix:     "set net.ipv4.vs.expire_nodest_conn to 1 in wm-ipvs-d1",
			},
			break_: func(_ context.Context, w *World) error {
				return eachDirectService(func(s virtualService) error {
					if s.at.Addr().Is6() {
						return w.removeIPVSDestination(d1.node, s, rs1.addr6)
					}
					return w.removeIPVSDestination(d1.node, s, rs1.addr4)
				})
			},
			fix: func(_ context.Context, w *World) error {
				return eachDirectService(func(s virtualService) error { return w.setIPVSWeights(d1.node, s, 1) })
			},
		},
		{
			Name:     "port-reused",
			Question: "R7",
			Brief:    "the pod of realserver rs1 is gone and rs1 has weight 0, but the directors still send there what comes from a port that had a connection to it (conn_reuse_mode is 1)",
			Traffic:  []string{"-c", "24", "--amid", "port-reused", "--again"},
			Expect: Expect{
				Outcome: "dropped", Packet: "request", Netns: ipvs.namespace(rs1.node), Dev: ipvsUplink,
				// IPv6 goes to the realserver's own server.
				Drops:   ipvsMeasured(4, "NO_SOCKET", "tcp_v4_rcv"),
				Advice:  "the director takes a new connection for the old one from the same port: set net.ipv4.vs.conn_reuse_mode to 3, and keep ended connections for a shorter time (ipvsadm --set 900 10 300)",
				Because: "by its entry of an older connection from the same port",
				Fix:     "set net.ipv4.vs.conn_reuse_mode to 3",
			},
			break_: func(_ context.Context, w *World) error {
				if err := w.eachWayToPod(rs1, 0); err != nil {
					return err
				}
				return w.flushRealserverRules(rs1)
			},
			fix: func(_ context.Context, w *World) error {
				if err := w.addRealserverRules(rs1); err != nil {
					return err
				}
				return w.eachWayToPod(rs1, 1)
			},
		},
	}
}

// setIdleTimeout sets how long a director knows an idle connection, and whether it
// takes up one that it does not know.
func (w *World) setIdleTimeout(node string, seconds uint32, sloppy string) error {
	if err := w.setIPVSTimeout(node, seconds); err != nil {
		return err
	}
	return w.setSysctl(node, "ipv4/vs/sloppy_tcp", sloppy)
}

// eachWayToPod gives realserver r a weight for the services that it leads to its pod.
func (w *World) eachWayToPod(r ipvsRealserver, weight uint32) error {
	for _, d := range ipvsDirectors {
		for _, s := range ipvsTable() {
			if s.method == ipvsMasq || s.at.Addr().Is6() {
				continue
			}
			if err := w.setIPVSWeight(d.node, s, r.addr4, weight); err != nil {
				return err
			}
		}
	}
	return nil
}
