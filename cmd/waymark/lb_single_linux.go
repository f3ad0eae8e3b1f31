// SPDX-License-Identifier: Apache-2.0

package main

import "waymark/nfqlb"

// nfqlb's way without flows: every packet of the queue goes to one table.

func lbSingle(args []string) error {
	f := lbFlags("lb", `[flags]

Balances every packet of its queues over one table, without flows. The options
are those of serve, and two more. Several can run beside each other: only the
first answers flow commands and traces.
  waymark lb lb --tshm vips --queue 2
  waymark lb lb --tshm vips --queue 0:3 --sctp-encap 9899
`)
	table := f.String("tshm", lbDefaultShm, "table with the targets")
	encap := f.Int("sctp-encap", 0, "UDP port that brings encapsulated SCTP; 0: none")
	return lbServeFlows(f, args, func() []nfqlb.FlowSpec { return singleFlows(*table, *encap) })
}

// singleFlows are the flows that give every packet a target of table.
func singleFlows(table string, encap int) []nfqlb.FlowSpec {
	flows := []nfqlb.FlowSpec{{Name: "all", Target: table}}
	if encap != 0 {
		// Above the other, which has every UDP packet.
		flows = append(flows, nfqlb.FlowSpec{Name: "sctp-encap", Target: table, Priority: 1, Protocols: []string{"sctp"}, UDPEncap: encap})
	}
	return flows
}
