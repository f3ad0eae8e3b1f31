// SPDX-License-Identifier: Apache-2.0

//go:build linux

package place

import (
	"os"
	"strings"

	"waymark/decoder"
)

// Lost is what changes in a namespace without a notification, and explains why
// it lost a packet.
type Lost struct {
	Sysctls decoder.Sysctls
	Chains  decoder.Chains
	IPVS    *decoder.IPVS        // nil: the kernel has none
	Entries *decoder.IPVSEntries // nil: none are asked for
}

// ReadLost reads it. chains: those of nftables as well. director: it had services
// of IPVS, and may have connections though they are gone.
func ReadLost(ns Namespace, devices []decoder.Device, chains, director bool) (l Lost, err error) {
	err = ns.Do(func() error {
		l.Sysctls = decoder.Sysctls{Netns: ns.Inode, Values: readValues(lostSysctls(devices))}
		if chains {
			l.Chains = *readChains(ns)
		}
		if l.IPVS = readIPVS(ns); l.IPVS != nil && (director || len(l.IPVS.Services) > 0) {
			l.Entries = readIPVSEntries(ns, l.IPVS)
		}
		return nil
	})
	return l, err
}

// ReadIPVS reads a director's table alone; nil: the kernel has no IPVS.
func ReadIPVS(ns Namespace) (t *decoder.IPVS, err error) {
	err = ns.Do(func() error {
		t = readIPVS(ns)
		return nil
	})
	return t, err
}

// maxLostSysctls bounds them: a node has two for each pod.
const maxLostSysctls = 1024

// lostSysctls are the names of what ReadLost looks at.
func lostSysctls(devices []decoder.Device) []string {
	keys := []string{
		"net.netfilter.nf_conntrack_count", "net.netfilter.nf_conntrack_max",
		"net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables",
		"net.ipv4.ip_local_port_range", "net.ipv4.vs.sloppy_tcp", "net.ipv4.vs.expire_nodest_conn", "net.ipv4.vs.conn_reuse_mode",
		"net.ipv4.conf.all.arp_ignore", "net.ipv4.conf.all.rp_filter",
	}
	for _, d := range devices {
		if strings.ContainsAny(d.Name, "./") || d.Name == "lo" || len(keys) > maxLostSysctls {
			continue
		}
		keys = append(keys, "net.ipv4.conf."+d.Name+".rp_filter")
		if len(d.Addrs) > 0 {
			keys = append(keys, "net.ipv4.conf."+d.Name+".arp_ignore")
		}
	}
	return keys
}

// readValues reads /proc/sys/net of the calling thread's namespace; what is not
// there is left out.
func readValues(keys []string) map[string]string {
	out := map[string]string{}
	for _, k := range keys {
		if v, err := os.ReadFile("/proc/sys/" + strings.ReplaceAll(k, ".", "/")); err == nil {
			out[k] = strings.TrimSpace(string(v))
		}
	}
	return out
}
