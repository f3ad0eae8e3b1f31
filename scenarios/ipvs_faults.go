// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

import (
	"context"
	"net/netip"
	"slices"
)

// ipvsFaults is the fault table of the IPVS lab. Each breaks a part of the
// traffic: what takes the other director or the other realserver is answered.
func ipvsFaults() []Fault {
	d1, d2 := ipvsDirectors[0].node, ipvsDirectors[1].node
	rs1 := ipvsRealservers[0]
	return slices.Concat([]Fault{
		{
			Name:     "service-missing",
			Question: "R6",
			Brief:    "director d2 lacks the services of direct, which d1 has",
			Traffic:  []string{"-c", "24"},
			Expect: Expect{
				Outcome: "dropped", Packet: "request", Netns: ipvs.namespace(d2), Dev: ipvsUplink,
				Drops: slices.Concat(ipvsMeasured(4, "NO_SOCKET", "tcp_v4_rcv", "__udp4_lib_rcv"),
					ipvsMeasured(6, "NO_SOCKET", "tcp_v6_rcv", "__udp6_lib_rcv")),
				Advice:  "the director does not have the service that the others have: compare their IPVS tables and add it, or stop announcing the address there",
				Because: "lacks the service",
				Fix:     "add what is missing",
			},
			break_: func(_ context.Context, w *World) error {
				return eachDirectService(func(s virtualService) error { return w.removeIPVSService(d2, s) })
			},
			fix: func(_ context.Context, w *World) error {
				return eachDirectService(func(s virtualService) error { return w.addIPVSService(d2, s) })
			},
		},
		{
			Name:     "weight-0",
			Question: "R28",
			Brief:    "on director d1 every destination of direct has weight 0",
			Traffic:  []string{"-c", "24"},
			Expect: Expect{
				Outcome: "dropped", Packet: "request", Netns: ipvs.namespace(d1), Dev: ipvsUplink,
				Drops: slices.Concat(ipvsMeasured(4, "NETFILTER_DROP", "nf_hook_slow"),
					ipvsMeasured(6, "NETFILTER_DROP", "nf_hook_slow")),
				Advice:  "the service has no destination with a weight: see that pods of it run, and that the director has heard of them",
				Because: "no destination of the IPVS service",
				Fix:     "number of the service's pods",
			},
			break_: func(_ context.Context, w *World) error {
				return eachDirectService(func(s virtualService) error { return w.setIPVSWeights(d1, s, 0) })
			},
			fix: func(_ context.Context, w *World) error {
				return eachDirectService(func(s virtualService) error { return w.setIPVSWeights(d1, s, 1) })
			},
		},
		{
			Name:     "no-ravel-rules",
			Question: "R28",
			Brief:    "realserver rs1 has no rules that lead a service to its pod",
			Traffic:  []string{"-c", "24"},
			Expect: Expect{
				Outcome: "dropped", Packet: "request", Netns: ipvs.namespace(rs1.node), Dev: ipvsUplink,
				// IPv6 goes to the realserver's own server.
				Drops:   ipvsMeasured(4, "NO_SOCKET", "tcp_v4_rcv", "__udp4_lib_rcv"),
				Advice:  "the realserver has no rule for the service in chain RAVEL of table nat: restart its agent, or give the realserver weight 0",
				Because: "no rule of wm-ipvs-rs1 leads it to a pod",
				Fix:     "put back the rule",
			},
			break_: func(_ context.Context, w *World) error { return w.flushRealserverRules(rs1) },
			fix:    func(_ context.Context, w *World) error { return w.addRealserverRules(rs1) },
		},
		{
			Name:     "tunnel-rp-filter",
			Question: "R29",
			Brief:    "realserver rs1 filters what comes out of the tunnel strictly by reverse path",
			Traffic:  []string{"--to", "tunnel", "-c", "24"},
			Expect: Expect{
				Outcome: "dropped", Packet: "request", Netns: ipvs.namespace(rs1.node), Dev: ipvsTunnelDev,
				Drops:   ipvsMeasured(4, "IP_RPFILTER", "ip_rcv_finish_core"),
				Advice:  "the reverse path filter is on, and answers never go back into the tunnel: set net.ipv4.conf.all.rp_filter and that of tunl0 to 0 in the realserver",
				Because: "rp_filter is 1 at wm-ipvs-rs1/tunl0",
				Fix:     "net.ipv4.conf.tunl0.rp_filter to 0",
			},
			break_: func(_ context.Context, w *World) error { return w.setTunnelReversePathFilter(rs1, "1") },
			fix:    func(_ context.Context, w *World) error { return w.setTunnelReversePathFilter(rs1, "0") },
		},
		{
			Name:     "vip-missing",
			Question: "R30",
			Brief:    "director d1 lacks the virtual addresses of direct and tunnel",
			Traffic:  []string{"-c", "24"},
			Expect: Expect{
				Outcome: "dropped", Packet: "request", Netns: ipvs.namespace(d1), Dev: ipvsUplink,
				Drops:   slices.Concat(ipvsMeasured(4, "IP_INHDR", "ip_forward"), ipvsMeasured(6, "IP_INHDR", "ip6_forward")),
				Advice:  "the director does not have the virtual address and sends the packet back: add it, with prefix length 32 or 128, to a device",
				Because: "but not the address",
				Fix:     "add the address in wm-ipvs-d1",
			},
			break_: func(_ context.Context, w *World) error { return eachDirectVIP(d1, w.removeAddress) },
			fix:    func(_ context.Context, w *World) error { return eachDirectVIP(d1, w.addAddress) },
		},
	}, ipvsRouterFaults(), ipvsTableFaults(), ipvsClientFaults(), ipvsConnectionFaults(), ipvsLeftoverFaults())
}

// ipvsMeasured is measured on the kernels that have IPVS.
func ipvsMeasured(ip int, reason string, at ...string) []Site {
	return measuredOn([]string{"6.1", "6.12"}, ip, reason, at...)
}

// eachDirectService does something with the services of direct.
func eachDirectService(do func(virtualService) error) error {
	for _, s := range ipvsTable() {
		if s.at.Port() != ipvsDirectPort {
			continue
		}
		if err := do(s); err != nil {
			return err
		}
	}
	return nil
}

func eachDirectVIP(node string, do func(address) error) error {
	for _, vip := range []netip.Addr{ipvsVIP4, ipvsVIP6} {
		if err := do(address{port{node, ipvsDummyName(vip)}, host(vip)}); err != nil {
			return err
		}
	}
	return nil
}

// setTunnelReversePathFilter sets the filter (0 off, 1 strict) of a realserver's
// tunnel alone.
func (w *World) setTunnelReversePathFilter(r ipvsRealserver, mode string) error {
	return w.setSysctl(r.node, "ipv4/conf/"+ipvsTunnelDev+"/rp_filter", mode)
}
