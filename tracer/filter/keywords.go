// SPDX-License-Identifier: Apache-2.0

// The words of the language and its named constants, from pcap-filter(7).

package filter

// keywords maps each spelling to its canonical word. Words that pcap-filter
// knows and we refuse are here too, so that the refusal can say so.
var keywords = func() map[string]string {
	m := map[string]string{"link": "ether", "ppp": "ether", "slip": "ether", "fddi": "ether", "tr": "ether", "wlan": "ether", "length": "len"}
	for _, list := range [][]string{{
		"and", "or", "not", "src", "dst", "host", "net", "mask", "port", "portrange", "proto", "ether",
		"ip", "ip6", "arp", "rarp", "tcp", "udp", "sctp", "icmp", "icmp6", "igmp", "igrp", "pim", "vrrp", "carp", "ah", "esp",
		"lat", "moprc", "mopdl", "decnet", "sca", "stp",
		"less", "greater", "len", "broadcast", "multicast", "vlan", "vxlan",
	}, refused} {
		for _, w := range list {
			m[w] = w
		}
	}
	return m
}()

var refused = []string{
	"gateway", "protochain", "inbound", "outbound", "ifindex", "byte", "mpls", "pppoed", "pppoes", "geneve", "radio", "lane", "llc",
	"type", "subtype", "dir", "direction", "addr1", "addr2", "addr3", "addr4", "ra", "ta", "address1", "address2", "address3", "address4",
	"atalk", "aarp", "iso", "ipx", "netbeui", "clnp", "esis", "es-is", "isis", "is-is",
	"l1", "l2", "iih", "lsp", "snp", "csnp", "psnp", "vpi", "vci", "metac", "bcc", "oam", "oamf4", "oamf4ec", "oamf4sc", "sc", "ilmic",
	"connectmsg", "metaconnect", "on", "ifname", "rset", "rnr", "srnr", "ruleset", "rulenum", "subrulenum", "reason", "action",
	"fisu", "lssu", "lsu", "msu", "hfisu", "hlssu", "hmsu", "sio", "opc", "dpc", "sls", "hsio", "hopc", "hdpc", "hsls",
}

var isRefused = func() map[string]bool {
	m := map[string]bool{}
	for _, w := range refused {
		m[w] = true
	}
	return m
}()

// constants are offsets and values for proto[offset] tests.
var constants = map[string]uint32{
	"tcpflags": 13, "tcp-fin": 0x01, "tcp-syn": 0x02, "tcp-rst": 0x04, "tcp-push": 0x08,
	"tcp-ack": 0x10, "tcp-urg": 0x20, "tcp-ece": 0x40, "tcp-cwr": 0x80,

	"icmptype": 0, "icmpcode": 1,
	"icmp-echoreply": 0, "icmp-unreach": 3, "icmp-sourcequench": 4, "icmp-redirect": 5, "icmp-echo": 8,
	"icmp-routeradvert": 9, "icmp-routersolicit": 10, "icmp-timxceed": 11, "icmp-paramprob": 12,
	"icmp-tstamp": 13, "icmp-tstampreply": 14, "icmp-ireq": 15, "icmp-ireqreply": 16,
	"icmp-maskreq": 17, "icmp-maskreply": 18,

	"icmp6type": 0, "icmp6code": 1,
	"icmp6-destinationunreach": 1, "icmp6-packettoobig": 2, "icmp6-timeexceeded": 3, "icmp6-parameterproblem": 4,
	"icmp6-echo": 128, "icmp6-echoreply": 129, "icmp6-multicastlistenerquery": 130,
	"icmp6-multicastlistenerreportv1": 131, "icmp6-multicastlistenerdone": 132,
	"icmp6-routersolicit": 133, "icmp6-routeradvert": 134, "icmp6-neighborsolicit": 135,
	"icmp6-neighboradvert": 136, "icmp6-redirect": 137, "icmp6-routerrenum": 138,
	"icmp6-nodeinformationquery": 139, "icmp6-nodeinformationresponse": 140,
	"icmp6-ineighbordiscoverysolicit": 141, "icmp6-ineighbordiscoveryadvert": 142,
	"icmp6-multicastlistenerreportv2": 143, "icmp6-homeagentdiscoveryrequest": 144,
	"icmp6-homeagentdiscoveryreply": 145, "icmp6-mobileprefixsolicit": 146, "icmp6-mobileprefixadvert": 147,
	"icmp6-certpathsolicit": 148, "icmp6-certpathadvert": 149,
	"icmp6-multicastrouteradvert": 151, "icmp6-multicastroutersolicit": 152, "icmp6-multicastrouterterm": 153,
}
