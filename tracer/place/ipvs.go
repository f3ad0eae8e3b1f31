// SPDX-License-Identifier: Apache-2.0

//go:build linux

package place

import (
	"bufio"
	"encoding/hex"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"waymark/decoder"
)

// maxIPVSServices and maxIPVSDestinations, of all services, bound what is read of
// a director: Ravel's have some hundreds.
const (
	maxIPVSServices     = 4096
	maxIPVSDestinations = 1 << 16
)

// readIPVS reads the table of IPVS of the namespace the calling thread is in.
// nil: the kernel has no IPVS.
func readIPVS(ns Namespace) *decoder.IPVS {
	f, err := os.Open("/proc/thread-self/net/ip_vs")
	if err != nil {
		return nil
	}
	defer f.Close()
	table := parseIPVS(f)
	table.Netns = ns.Inode
	if len(table.Services) > 0 {
		table.Timeouts = readIPVSTimeouts()
	}
	return table
}

// parseIPVS parses /proc/net/ip_vs (net/netfilter/ipvs/ip_vs_ctl.c,
// ip_vs_info_seq_show): a line of a service, "TCP 0A36D594:1F4C wrr", then one of
// each destination, "-> 0A839965:1F4C Route 1 0 0". Numbers are hexadecimal, but
// for the weight. Lines of another form are headings.
func parseIPVS(r io.Reader) *decoder.IPVS {
	table := &decoder.IPVS{}
	destinations := 0
	for lines := bufio.NewScanner(r); lines.Scan(); {
		f := strings.Fields(lines.Text())
		n := len(table.Services)
		if d, ok := parseIPVSDestination(f); ok && n > 0 {
			if destinations++; destinations > maxIPVSDestinations {
				table.More = true
				break
			}
			table.Services[n-1].Destinations = append(table.Services[n-1].Destinations, d)
		} else if s, ok := parseIPVSService(f); ok {
			if n == maxIPVSServices {
				table.More = true
				break
			}
			table.Services = append(table.Services, s)
		}
	}
	return table
}

func parseIPVSService(f []string) (s decoder.IPVSService, ok bool) {
	if len(f) < 3 {
		return s, false
	}
	s.Proto, s.Scheduler = strings.ToLower(f[0]), f[2]
	switch s.Proto {
	case "tcp", "udp", "sctp":
		s.Addr, ok = parseIPVSAddr(f[1])
	case "fwm":
		mark, err := strconv.ParseUint(f[1], 16, 32)
		s.Mark, ok = uint32(mark), err == nil
	}
	return s, ok
}

// ipvsMethods are ip_vs_fwd_name's words for the ways to forward.
var ipvsMethods = map[string]string{"Masq": "masq", "Local": "local", "Tunnel": "tunnel", "Route": "direct", "Bypass": "bypass"}

func parseIPVSDestination(f []string) (d decoder.IPVSDestination, ok bool) {
	if len(f) < 4 || f[0] != "->" {
		return d, false
	}
	weight, err := strconv.Atoi(f[3])
	d.Addr, ok = parseIPVSAddr(f[1])
	d.Method, d.Weight = ipvsMethods[f[2]], weight
	return d, ok && err == nil && d.Method != ""
}

// parseIPVSAddr reads 0A36D594:1F4C or [2001:0db8:…]:1F4C.
func parseIPVSAddr(s string) (a netip.AddrPort, ok bool) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return a, false
	}
	port, err := strconv.ParseUint(s[i+1:], 16, 16)
	if err != nil {
		return a, false
	}
	if inner, found := strings.CutPrefix(s[:i], "["); found {
		addr, err := netip.ParseAddr(strings.TrimSuffix(inner, "]"))
		return netip.AddrPortFrom(addr, uint16(port)), err == nil && addr.Zone() == ""
	}
	four, err := hex.DecodeString(s[:i])
	if err != nil || len(four) != 4 {
		return a, false
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(four)), uint16(port)), true
}
