// SPDX-License-Identifier: Apache-2.0

// Service and protocol names, read from the same files libpcap's lookups end
// in: services(5) and protocols(5). A missing file means no name is known.

package filter

import (
	"bufio"
	"os"
	"strconv"
	"strings"
)

// Variables, because a test may run where there is no /etc.
var (
	servicesFile  = "/etc/services"
	protocolsFile = "/etc/protocols"
)

// entries calls f with the fields of each line, comments removed, until f
// returns false.
func entries(file string, f func(fields []string) bool) {
	h, err := os.Open(file)
	if err != nil {
		return
	}
	defer h.Close()
	for s := bufio.NewScanner(h); s.Scan(); {
		line, _, _ := strings.Cut(s.Text(), "#")
		if fields := strings.Fields(line); len(fields) >= 2 && !f(fields) {
			return
		}
	}
}

func named(fields []string, name string) bool {
	for i, f := range fields {
		if i != 1 && f == name {
			return true
		}
	}
	return false
}

// servicePort finds the port of a service and the transport it is registered
// for: any if both tcp and udp have it. Numbers are services too.
func servicePort(name string) (port uint16, transport protocol, ok bool) {
	if n, err := strconv.ParseUint(name, 10, 16); err == nil {
		return uint16(n), anyProtocol, true
	}
	found := map[protocol]uint16{}
	entries(servicesFile, func(fields []string) bool {
		if !named(fields, name) {
			return true
		}
		number, proto, _ := strings.Cut(fields[1], "/")
		n, err := strconv.ParseUint(number, 10, 16)
		p := protocol(proto)
		if _, seen := found[p]; err == nil && !seen && (p == tcp || p == udp) {
			found[p] = uint16(n)
		}
		return true
	})
	t, isTCP := found[tcp]
	u, isUDP := found[udp]
	switch {
	case isTCP && isUDP && t == u:
		return t, anyProtocol, true
	case isTCP:
		return t, tcp, true
	case isUDP:
		return u, udp, true
	}
	return 0, anyProtocol, false
}

// protocolByName finds the IP protocol number of a name.
func protocolByName(name string) (uint32, bool) {
	switch name { // known without the file, as a container may not have it
	case "tcp", "udp", "sctp", "icmp", "igmp", "ah", "esp", "pim", "vrrp":
		return ipProtocols[protocol(name)].number, true
	}
	var number uint64
	var ok bool
	entries(protocolsFile, func(fields []string) bool {
		if !named(fields, name) {
			return true
		}
		var err error
		number, err = strconv.ParseUint(fields[1], 10, 8)
		ok = err == nil
		return !ok
	})
	return uint32(number), ok
}

// etherTypeByName finds an EtherType by the names pcap-filter(7) lists.
func etherTypeByName(name string) (uint32, bool) {
	if name == "loopback" {
		return 0x9000, true
	}
	n, ok := etherTypes[protocol(name)]
	return n, ok && name != "stp"
}
