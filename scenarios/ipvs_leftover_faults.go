// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

import "context"

// ipvsLeftoverFaults are of packets that a director takes up in the middle of a
// connection.
func ipvsLeftoverFaults() []Fault {
	d2, rs1, rs2 := ipvsDirectors[1], ipvsRealservers[0], ipvsRealservers[1]
	return []Fault{
		{
			Name:     "taken-up-elsewhere",
			Question: "R24",
			Brief:    "the router sends all but the first packet of IPv6 connections to director d2, which takes them up (sloppy_tcp is 1) and sends all to realserver rs2",
			Traffic:  []string{"-c", "24"},
			Expect: Expect{
				Outcome: "dropped", Packet: "request", Netns: ipvs.namespace(rs2.node), Dev: ipvsUplink,
				Drops: []Site{
					{Kernel: "6.1", IP: 6, Reason: "NOT_SPECIFIED", At: []string{"tcp_v6_do_rcv"}},
					{Kernel: "6.12", IP: 6, Reason: "TCP_FLAGS", At: []string{"tcp_v6_do_rcv"}},
				},
				Advice:  "a director takes up connections in the middle, and sends them to another realserver than the one that has them: have the router keep a connection with one director",
				Because: "wm-ipvs-d2 took it up in the middle of its connection",
				Fix:     "why the router sends packets of one connection to several directors",
			},
			break_: func(_ context.Context, w *World) error {
				if err := w.eachDirectService6(d2, rs1, 0); err != nil {
					return err
				}
				return w.splitFlows(d2, true)
			},
			fix: func(_ context.Context, w *World) error {
				if err := w.joinFlows(d2); err != nil {
					return err
				}
				return w.eachDirectService6(d2, rs1, 1)
			},
		},
	}
}

func (w *World) eachDirectService6(d ipvsHost, r ipvsRealserver, weight uint32) error {
	return eachDirectService(func(s virtualService) error {
		if s.at.Addr().Is4() {
			return nil
		}
		return w.setIPVSWeight(d.node, s, r.addr6, weight)
	})
}
