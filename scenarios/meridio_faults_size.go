// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
)

const (
	meridioMTU       = 1500
	meridioNarrowMTU = 1300
)

// meridioSizeFaults lose big packets only.
func meridioSizeFaults(l *lab, e meridioExternal) []Fault {
	lb, px := l.namespace(meridioLB), l.namespace(meridioProxy)
	narrow := port{meridioProxy, meridioTargets[2].bridgePort}
	return []Fault{
		{
			Name:     "small-mtu",
			Question: "M29",
			Brief:    "target-3's port of the proxy's bridge has a smaller MTU than the way there: big packets are lost without a word",
			Traffic:  []string{"-c", "24", "--udp", "--size", "1400"},
			Expect: Expect{
				Outcome: "dropped", Packet: "request", Netns: px, Dev: narrow.dev,
				// The second where br_netfilter is loaded.
				Drops: slices.Concat(measured(4, "NOT_SPECIFIED", "br_dev_queue_push_xmit", "br_nf_dev_queue_xmit"),
					measured(6, "NOT_SPECIFIED", "br_dev_queue_push_xmit", "ip6_fragment")),
				Advice: "the packet is larger than the MTU of the bridge's port, and the bridge tells nobody: make the MTU equal along the path",
			},
			break_: func(_ context.Context, w *World) error { return w.setMTU(narrow, meridioNarrowMTU) },
			fix:    func(_ context.Context, w *World) error { return w.setMTU(narrow, meridioMTU) },
		},
		{
			Name:     "no-ptb",
			Question: "M34",
			Brief:    "the link to the proxy is narrow, and the load balancer's messages about that have no way to the client",
			Traffic:  []string{"-c", "4", "--udp", "--size", "1400"},
			Expect: Expect{
				Outcome: "dropped", Packet: "request", Netns: lb, Dev: e.balancer,
				Drops: slices.Concat(measured(4, "PKT_TOO_BIG", "ip_forward"),
					// Which has given it to the device already.
					at(meridioToProxy.dev, measured(6, "PKT_TOO_BIG", "ip6_forward"))),
				Advice: "the message that the packet is too big is not sent, because it does not get the packet's mark: set net.ipv4.fwmark_reflect and net.ipv6.fwmark_reflect to 1 in the load balancer",
			},
			break_: func(_ context.Context, w *World) error { return w.tellPathMTU("0", meridioNarrowMTU) },
			fix:    func(_ context.Context, w *World) error { return w.tellPathMTU("1", meridioMTU) },
		},
		{
			Name:     "no-defrag",
			Question: "M33",
			Brief:    "the load balancer lacks the table by which its kernel puts fragments together: those that come before the first one of their packet are lost",
			Traffic:  []string{"-c", "4", "--udp", "--size", "4000", "--reverse-fragments"},
			Expect: Expect{
				Outcome: "dropped", Packet: "request", Netns: lb, Dev: e.balancer,
				Drops: slices.Concat(measured(4, "NOT_SPECIFIED", "nfqnl_reinject", "nf_reinject"),
					measured(6, "NOT_SPECIFIED", "nfqnl_reinject", "nf_reinject")),
				Advice:  "the balancer cannot tell which packet a fragment belongs to whose first one it has not seen: put back table meridio-defrag in the load balancer",
				Because: "before the first one of its packet",
				Fix:     "meridio-defrag",
			},
			break_: func(_ context.Context, w *World) error { return w.transact(meridioLB, noDefrag) },
			fix: func(_ context.Context, w *World) error {
				return w.transact(meridioLB, func(c *nftables.Conn) error {
					if err := noDefrag(c); err != nil {
						return err
					}
					return meridioDefrag(c)
				})
			},
			needs: (*World).needsDefrag,
		},
	}
}

// noDefrag removes the table, which may be gone already.
func noDefrag(c *nftables.Conn) error {
	t := &nftables.Table{Name: defragTable, Family: nftables.TableFamilyINet}
	c.AddTable(t)
	c.DelTable(t)
	return nil
}

func (w *World) needsDefrag() error {
	if slices.ContainsFunc(w.record.Notes, func(n string) bool { return strings.Contains(n, defragTable) }) {
		return fmt.Errorf("%w: nothing puts fragments together for the balancer as it is", ErrUnsupported)
	}
	return nil
}

// tellPathMTU sets whether what the load balancer says about a packet has the
// packet's mark (1) or none (0), and the MTU of its link to the proxy.
func (w *World) tellPathMTU(reflect string, mtu int) error {
	for _, ip := range []string{"ipv4", "ipv6"} {
		if err := w.setSysctl(meridioLB, ip+"/fwmark_reflect", reflect); err != nil {
			return err
		}
	}
	return w.setMTU(meridioToProxy, mtu)
}

// at are sites at another device than the fault's.
func at(dev string, sites []Site) []Site {
	for i := range sites {
		sites[i].Dev = dev
	}
	return sites
}
