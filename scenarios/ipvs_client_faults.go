// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

// Faults of who connects to the services.

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

const (
	// clientPorts is net.ipv4.ip_local_port_range of a client without a free port,
	// and takenFrom to takenTo are they.
	clientPorts        = "30000 30003"
	takenFrom, takenTo = 30000, 30003
	defaultPorts       = "32768 60999" // net/ipv4/af_inet.c, inet_init_net
	portTaker          = "port-taker"
)

func ipvsClientFaults() []Fault {
	return []Fault{
		{
			Name:     "no-port-left",
			Question: "R11",
			Brief:    "the client may use four local ports, and all of them are taken: no connection can begin",
			Traffic:  []string{"-c", "4"},
			// With ports of its own choice the client needs none of these.
			KernelPorts: true,
			Expect: Expect{
				Outcome: "dropped", Packet: "request", Netns: ipvs.namespace(ipvsClient),
				Drops: slices.Concat(ipvsMeasured(4, "EADDRNOTAVAIL", "inet_hash_connect"),
					ipvsMeasured(6, "EADDRNOTAVAIL", "inet6_hash_connect")),
				Advice:  "the client has no local port left: widen net.ipv4.ip_local_port_range, or let ports of ended connections be used again at once",
				Because: "no port is left in wm-ipvs-cl",
				Fix:     "widen net.ipv4.ip_local_port_range",
			},
			break_: func(ctx context.Context, w *World) error {
				return errors.Join(w.takePorts(ctx), w.setSysctl(ipvsClient, "ipv4/ip_local_port_range", clientPorts))
			},
			fix: func(_ context.Context, w *World) error {
				return errors.Join(w.setSysctl(ipvsClient, "ipv4/ip_local_port_range", defaultPorts), w.stopServer(portTaker))
			},
		},
	}
}

// takePorts starts a server at each of the client's few ports, unless it runs.
func (w *World) takePorts(ctx context.Context) error {
	running, err := w.processesOf(portTaker)
	if err != nil || len(running) > 0 {
		return err
	}
	var listen []netip.AddrPort
	for p := uint16(takenFrom); p <= takenTo; p++ {
		listen = append(listen, netip.AddrPortFrom(netip.IPv6Unspecified(), p))
	}
	await, err := w.startTarget(portTaker, ipvsClient, listen...)
	if err != nil {
		return fmt.Errorf("take the client's ports: %w", err)
	}
	return await(ctx)
}
