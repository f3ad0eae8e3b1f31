// SPDX-License-Identifier: Apache-2.0

//go:build linux

package place

import (
	"bufio"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"

	"waymark/decoder"
)

// maxIPVSConnections bounds how far a director's connections are read, most of
// which are left out, and maxIPVSEntries those that are told. Reading on costs ever
// more: the kernel counts from the first for each page (ip_vs_conn_seq_start).
const (
	maxIPVSConnections = 1 << 13
	maxIPVSEntries     = 512
)

// readIPVSEntries reads the connections of the namespace the calling thread is in
// that go where table sends none any more; nil: the kernel has no IPVS.
func readIPVSEntries(ns Namespace, table *decoder.IPVS) *decoder.IPVSEntries {
	f, err := os.Open("/proc/thread-self/net/ip_vs_conn")
	if err != nil {
		return nil
	}
	defer f.Close()
	e := parseIPVSEntries(f, table)
	e.Netns = ns.Inode
	return e
}

// parseIPVSEntries parses /proc/net/ip_vs_conn (net/netfilter/ipvs/ip_vs_conn.c,
// ip_vs_conn_seq_show): "TCP C6336402 9C41 0A36D594 1F4C 0A839965 1F4C ESTABLISHED
// 899", client, service and destination; numbers but the last are hexadecimal. The
// entries come by the service and the client, as the kernel's order is none.
func parseIPVSEntries(r io.Reader, table *decoder.IPVS) *decoder.IPVSEntries {
	all := &decoder.IPVSEntries{}
	lines := bufio.NewScanner(r)
	for n := 0; lines.Scan(); n++ {
		if n == maxIPVSConnections || len(all.Entries) == maxIPVSEntries {
			all.More = true
			break
		}
		e, ok := parseIPVSEntry(strings.Fields(lines.Text()))
		if !ok {
			continue
		}
		weight, found := ipvsWeight(table, &e)
		if e.Gone = !found; e.Gone || weight == 0 {
			all.Entries = append(all.Entries, e)
		}
	}
	slices.SortFunc(all.Entries, func(a, b decoder.IPVSEntry) int {
		if c := a.Service.Compare(b.Service); c != 0 {
			return c
		}
		return a.Client.Compare(b.Client)
	})
	return all
}

// ipvsWeight is that of the entry's destination in its service, or in any that is a
// firewall mark, of which no entry tells.
func ipvsWeight(table *decoder.IPVS, e *decoder.IPVSEntry) (weight int, found bool) {
	for i := range table.Services {
		s := &table.Services[i]
		if s.Proto != "fwm" && (s.Proto != e.Proto || s.Addr != e.Service) {
			continue
		}
		for _, d := range s.Destinations {
			if d.Addr == e.Destination || s.Proto == "fwm" && d.Addr.Addr() == e.Destination.Addr() {
				return d.Weight, true
			}
		}
	}
	return 0, false
}

func parseIPVSEntry(f []string) (e decoder.IPVSEntry, ok bool) {
	if len(f) < 8 {
		return e, false
	}
	var ends [3]netip.AddrPort
	for i := range ends {
		addr := f[1+2*i]
		if strings.Contains(addr, ":") { // of IPv6, and in this file without brackets
			addr = "[" + addr + "]"
		}
		if ends[i], ok = parseIPVSAddr(addr + ":" + f[2+2*i]); !ok {
			return e, false
		}
	}
	if ends[0].Port() == 0 {
		return e, false // a template of persistence
	}
	return decoder.IPVSEntry{
		Proto: strings.ToLower(f[0]), Client: ends[0], Service: ends[1], Destination: ends[2], State: strings.ToLower(f[7]),
	}, true
}
