// SPDX-License-Identifier: Apache-2.0

// The protocols the language names, and their numbers.

package filter

type protocol string

const (
	anyProtocol protocol = ""
	ether       protocol = "ether"
	ip          protocol = "ip"
	ip6         protocol = "ip6"
	arp         protocol = "arp"
	rarp        protocol = "rarp"
	tcp         protocol = "tcp"
	udp         protocol = "udp"
	sctp        protocol = "sctp"
	icmp        protocol = "icmp"
	icmp6       protocol = "icmp6"
)

const (
	typeIPv4 = 0x0800
	typeARP  = 0x0806
	typeRARP = 0x8035
	typeIPv6 = 0x86dd

	maxLength8023 = 1500 // an EtherType field up to here is a length (IEEE 802.3)
	lsapSTP       = 0x42

	nextFragment = 44 // IPv6 fragment header (RFC 8200)
	portVXLAN    = 4789
)

// etherTypes are the protocols that are an EtherType.
var etherTypes = map[protocol]uint32{
	ip: typeIPv4, ip6: typeIPv6, arp: typeARP, rarp: typeRARP,
	"lat": 0x6004, "moprc": 0x6002, "mopdl": 0x6001, "decnet": 0x6003, "sca": 0x6007,
	"stp": lsapSTP,
}

// ipProtocols are the protocols that IP carries, and under which version:
// a bare name means only the versions in which tcpdump looks for it.
var ipProtocols = map[protocol]struct {
	number uint32
	layer  protocol // any: both versions
}{
	tcp: {6, anyProtocol}, udp: {17, anyProtocol}, sctp: {132, anyProtocol},
	icmp: {1, ip}, icmp6: {58, ip6}, "igmp": {2, ip}, "igrp": {9, ip},
	"vrrp": {112, ip}, "carp": {112, ip},
	"pim": {103, anyProtocol}, "ah": {51, anyProtocol}, "esp": {50, anyProtocol},
}

func isProtocol(word string) bool {
	_, link := etherTypes[protocol(word)]
	_, network := ipProtocols[protocol(word)]
	return link || network || protocol(word) == ether
}
