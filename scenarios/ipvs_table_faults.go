// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

// Faults of tables: a director's, which its agent has not written, and a
// realserver's of connections.

import (
	"context"
	"slices"
)

func ipvsTableFaults() []Fault {
	rs1, d2 := ipvsRealservers[0], ipvsDirectors[1]
	return []Fault{
		{
			Name:     "conntrack-full",
			Question: "R12",
			Brief:    "realserver rs1 tracks as many connections as the machine lets it",
			Traffic:  []string{"-c", "24"},
			Expect: Expect{
				Outcome: "dropped", Packet: "request", Netns: ipvs.namespace(rs1.node), Dev: ipvsUplink,
				// IPv6 is not translated there, and so not tracked.
				Drops:   ipvsMeasured(4, "NETFILTER_DROP", "nf_hook_slow"),
				Advice:  "the conntrack table is full: raise net.netfilter.nf_conntrack_max on the machine, or find who has so many connections",
				Because: "the conntrack table of wm-ipvs-rs1 is full",
				Fix:     "raise net.netfilter.nf_conntrack_max",
			},
			break_: func(_ context.Context, w *World) error { return w.fillConnections(rs1.node) },
			fix:    func(_ context.Context, w *World) error { return w.freeConnections(rs1.node) },
		},
		{
			Name:     "table-empty",
			Question: "R5",
			Brief:    "director d2 has no service at all",
			Traffic:  []string{"-c", "24"},
			Expect: Expect{
				Outcome: "dropped", Packet: "request", Netns: ipvs.namespace(d2.node), Dev: ipvsUplink,
				Drops: slices.Concat(ipvsMeasured(4, "NO_SOCKET", "tcp_v4_rcv", "__udp4_lib_rcv"),
					ipvsMeasured(6, "NO_SOCKET", "tcp_v6_rcv", "__udp6_lib_rcv")),
				Advice:  "the director's IPVS table is empty: restart its agent, or stop announcing the addresses there",
				Because: "the IPVS table of wm-ipvs-d2 is empty",
				Fix:     "see why the director's agent has written nothing",
			},
			break_: func(_ context.Context, w *World) error {
				return eachOf(ipvsTable(), func(s virtualService) error { return w.removeIPVSService(d2.node, s) })
			},
			fix: func(_ context.Context, w *World) error {
				return eachOf(ipvsTable(), func(s virtualService) error { return w.addIPVSService(d2.node, s) })
			},
		},
	}
}
