// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

// Faults of how packets come to a director: what the router has learnt of it, and
// how it chooses.

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ipvsSplitMark marks packets that the router sends to the second director, and
// is the number of the table that leads there.
const ipvsSplitMark = 152

var ipvsSplitTable = &nftables.Table{Name: "split", Family: nftables.TableFamilyINet}

func ipvsRouterFaults() []Fault {
	rs1, d2 := ipvsRealservers[0], ipvsDirectors[1]
	return []Fault{
		{
			Name:     "arp-answers",
			Question: "R20",
			Also:     "R19",
			Brief:    "realserver rs1 answers ARP for the virtual addresses: the router takes it for the director of arp",
			Traffic:  []string{"--to", "arp", "-c", "6"},
			Expect: Expect{
				Outcome: "dropped", Packet: "request", Netns: ipvs.namespace(rs1.node), Dev: ipvsUplink,
				Drops:   ipvsMeasured(4, "NO_SOCKET", "tcp_v4_rcv", "__udp4_lib_rcv"),
				Advice:  "a realserver answers ARP for the virtual address: set arp_ignore to 1 and arp_announce to 2 on its lo and po0, and delete the router's neighbour entry",
				Because: "wm-ipvs-rs1 answers ARP for 10.131.153.150",
				Fix:     "arp_ignore to 1",
			},
			break_: func(_ context.Context, w *World) error { return w.answerARP(rs1.node) },
			fix:    func(_ context.Context, w *World) error { return w.quietARP(rs1.node) },
		},
		{
			Name:     "split-flows",
			Question: "R23",
			Brief:    "the router sends all but the first packet of connections to director d2, which takes up none in the middle (sloppy_tcp is 0)",
			Traffic:  []string{"-c", "12"},
			Expect: Expect{
				Outcome: "dropped", Packet: "request", Netns: ipvs.namespace(d2.node), Dev: ipvsUplink,
				Drops:   slices.Concat(ipvsMeasured(4, "NO_SOCKET", "tcp_v4_rcv"), ipvsMeasured(6, "NO_SOCKET", "tcp_v6_rcv")),
				Advice:  "the director does not know the connection and answers with resets: set net.ipv4.vs.sloppy_tcp to 1, and have the router keep a connection with one director",
				Because: "it was opened by way of another director",
				Fix:     "set net.ipv4.vs.sloppy_tcp to 1 in wm-ipvs-d2",
			},
			break_: func(_ context.Context, w *World) error {
				if err := w.setSysctl(d2.node, "ipv4/vs/sloppy_tcp", "0"); err != nil {
					return err
				}
				return w.splitFlows(d2, false, true)
			},
			fix: func(_ context.Context, w *World) error { return w.joinFlows(d2) },
		},
	}
}

// announceByARP gives the router what the director of arp announces.
func (w *World) announceByARP() error {
	d1 := port{ipvsDirectors[0].node, ipvsUplink}
	return w.setNeighbour(neighbour{
		port: port{ipvsRouter, ipvsUplink}, ip: ipvsARPVIP4, mac: w.lab.hardwareAddr(d1), state: netlink.NUD_PERMANENT,
	})
}

// answerARP has a host answer ARP for all its addresses, and the router ask.
func (w *World) answerARP(node string) error {
	if err := w.setARPIgnore(node, "0"); err != nil {
		return err
	}
	return w.removeNeighbour(neighbour{port: port{ipvsRouter, ipvsUplink}, ip: ipvsARPVIP4})
}

func (w *World) quietARP(node string) error {
	if err := w.setARPIgnore(node, "1"); err != nil {
		return err
	}
	return w.announceByARP()
}

func (w *World) setARPIgnore(node, mode string) error {
	for _, conf := range []string{"lo", ipvsUplink} {
		if err := w.setSysctl(node, "ipv4/conf/"+conf+"/arp_ignore", mode); err != nil {
			return err
		}
	}
	return nil
}

// splitFlows has the router send what does not open a connection to director d, for
// service direct over each of the IP versions.
func (w *World) splitFlows(d ipvsHost, v6 ...bool) error {
	err := w.transact(ipvsRouter, func(c *nftables.Conn) error {
		c.AddTable(ipvsSplitTable)
		c.DelTable(ipvsSplitTable) // the rules that may be there
		c.AddTable(ipvsSplitTable)
		pre := chain(c, ipvsSplitTable, "prerouting", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, -150)
		c.AddRule(&nftables.Rule{Table: ipvsSplitTable, Chain: pre, Exprs: concat(
			meta(expr.MetaKeyL4PROTO, expr.CmpOpEq, []byte{unix.IPPROTO_TCP}),
			payload(expr.PayloadBaseTransportHeader, 2, []byte{ipvsDirectPort >> 8, ipvsDirectPort & 0xff}),
			[]expr.Any{
				&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1}, // flags
				&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{0x02}, Xor: []byte{0}},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{0}},
			},
			changeMark(0, ipvsSplitMark),
		)})
		return nil
	})
	if errors.Is(err, errNoExpression) {
		err = fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	if err != nil {
		return fmt.Errorf("mark packets in %s: %w", ipvsRouter, err)
	}
	return w.eachSplitRoute(d, v6, w.addRoute, w.addRule)
}

// joinFlows undoes splitFlows.
func (w *World) joinFlows(d ipvsHost) error {
	err := w.transact(ipvsRouter, func(c *nftables.Conn) error {
		c.AddTable(ipvsSplitTable)
		c.DelTable(ipvsSplitTable)
		return nil
	})
	if err != nil {
		return fmt.Errorf("remove the marks in %s: %w", ipvsRouter, err)
	}
	if err := w.eachSplitRoute(d, []bool{false, true}, w.removeRoute, w.removeRule); err != nil {
		return err
	}
	return w.setSysctl(d.node, "ipv4/vs/sloppy_tcp", "1")
}

func (w *World) eachSplitRoute(d ipvsHost, v6s []bool, route_ func(route) error, rule_ func(rule) error) error {
	for _, v6 := range v6s {
		via := d.addr4
		if v6 {
			via = d.addr6
		}
		if err := route_(route{node: ipvsRouter, via: via, dev: ipvsUplink, table: ipvsSplitMark}); err != nil {
			return err
		}
		if err := rule_(rule{node: ipvsRouter, mark: ipvsSplitMark, table: ipvsSplitMark, v6: v6}); err != nil {
			return err
		}
	}
	return nil
}
