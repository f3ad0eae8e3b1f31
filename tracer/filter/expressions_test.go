// SPDX-License-Identifier: Apache-2.0

// The expressions that must select exactly what tcpdump selects.

package filter

var expressions = []string{
	"", "ip", "ip6", "arp", "rarp", "tcp", "udp", "sctp", "icmp", "icmp6", "igmp", "igrp", "pim", "vrrp", "carp", "ah", "esp",
	"stp", "lat", "decnet", "moprc", "mopdl", "sca",
	"host 10.0.0.1", "src host 10.0.0.1", "dst host 10.0.0.1", "src or dst host 10.0.0.1", "src and dst host 10.0.0.1", "dst or src host 20.0.0.1",
	"src 10.0.0.1", "dst 20.0.0.1", "src and dst 10.0.0.1", "host 10", "host 10.0", "host 172.16.1.6",
	"ip host 10.0.0.1", "arp host 10.0.0.1", "rarp host 10.0.0.1", "ip src 10.0.0.1", "arp dst 20.0.0.1", "ip dst host 20.0.0.1",
	"host 2001:db8::1", "ip6 host 2001:db8::1", "src host 2001:db8::1", "ip6 dst 2001:db8:1::2", "dst host ff02::1", "src and dst host 2001:db8::1",
	"net 10", "net 10.0", "net 10.0.0.0/8", "net 10.0.0", "src net 20.0.0.0/24", "dst net 172.16", "net 10.0.0.0 mask 255.0.0.0", "net 0.0.0.0/0",
	"ip net 10.0.0.0/30", "net 10.0.0.1/32", "net 192.168.0.0/16", "net 10.0.0.1 mask 255.0.0.255",
	"net 2001:db8::/32", "net 2001:db8::/48", "src net 2001:db8:1::/48", "net ::/0", "net 2001:db8::1/128", "dst net ff00::/8", "ip6 net 2001:db8::/33",
	"port 80", "port 5000", "src port 5000", "dst port 5000", "src and dst port 5000", "port 0x1388", "port 010", "port domain", "port http", "port ssh", "port tftp",
	"tcp port 80", "udp port 80", "sctp port 80", "tcp src port 5000", "udp dst port 5353", "tcp dst port https", "udp src port domain", "sctp dst port 80",
	"portrange 80-90", "portrange 5000-5000", "src portrange 1000-6000", "tcp portrange 79-81", "udp dst portrange 5000-6000", "portrange 90-80", "portrange http-https", "portrange 80",
	"port 80 or 443", "port (80 or 443)", "host 10.0.0.1 or 20.0.0.1", "host 10.0.0.1 and not port 80", "host 10.0.0.1 or ! 172.16.1.6", "host not 10.0.0.1",
	"tcp port 80 or 443 or udp port 53", "src host 10.0.0.1 and dst port 5000", "port 80 and (host 10.0.0.1 or 20.0.0.1)", "not port 5000 and 80",
	"tcp or udp", "tcp and udp", "not tcp", "! tcp && !udp", "tcp || icmp", "not (tcp or udp)", "tcp or udp and port 80", "ip and not (tcp and port 80)",
	"((tcp)) and (((port 5000)))", "not not tcp", "ip or ip6 and tcp",
	"proto 6", "proto 17", "ip proto 6", "ip6 proto 6", "ip6 proto 44", "ip6 proto 0", `ip proto \tcp`, `ip proto \icmp`, `proto \udp`, `ip6 proto \ipv6-icmp`, "ip proto 47", "proto gre", "ip proto 300", "proto (6 or 17)",
	"ether proto 0x0800", `ether proto \ip`, `ether proto \arp`, `ether proto \ip6`, "ether proto 0x88cc", "ether proto 0x42", "ether proto 0xfe", "ether proto 0xf0", "ether proto 300", `ether proto \loopback`, "ether proto 0xaa", "ether proto 70000", "ether proto 1500", "ether proto 1501",
	"ether host 02:00:00:00:00:01", "ether src 2:0:0:0:0:1", "ether dst 02-00-00-00-00-02", "ether dst ff:ff:ff:ff:ff:ff", "ether host 0200.0000.0002", "ether src or dst 02:00:00:00:00:02", "ether src and dst 02:00:00:00:00:02",
	"ether broadcast", "broadcast", "ether multicast", "multicast", "ip broadcast", "ip multicast", "ip6 multicast",
	"less 60", "greater 60", "less 0x40", "len > 60", "len <= 60", "len = 54", "length != 54", "len - 14 > 40", "len > 100 and len <= 200", "len & 1 = 0",
	"ether[0] & 1 = 0", "ether[0] & 1 != 0", "ether[12:2] = 0x800", "ether[6:4] = 0x02000000", "ether[13]=0", "link[12:2] > 0x86dc", "ether[60] != 7", "ether[100:4] > 5",
	"ip[0] = 0x45", "ip[0] & 0xf != 5", "ip[6:2] & 0x1fff = 0", "ip[6:2] & 0x2000 != 0", "ip[8] < 64", "ip[9] = 6", "ip[2:2] > 60", "ip[1] & 0xfc >> 2 = 18", "(ip[1] & 0xfc) >> 2 = 18", "ip[12:4] = 0x0a000001",
	"ip[16:4] >= 0x0a000000 and ip[16:4] < 0x0b000000", "ip[-1]=0", "ip6[6] = 6", "ip6[6] == 44 and ip6[40] == 17", "ip6[8:4] = 0x20010db8", "ip6[7] <= 64", "arp[6:2] = 1", "arp[7] = 2", "rarp[7] = 1", "lat[0]=0",
	"tcp[13] = 2", "tcp[tcpflags] & tcp-syn != 0", "tcp[tcpflags] & (tcp-syn|tcp-ack) = tcp-syn|tcp-ack", "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0 and not src and dst net 10.0.0.0/8",
	"tcp[tcpflags] == tcp-rst", "tcp[0:2] = 5000", "tcp[2:2] > 1024", "tcp[13] != 2", "not tcp[13] = 2", "tcp[13] & 0x10 == 0", "tcp[12] >> 4 = 6", "tcp[20:4] = 0x020405b4",
	"tcp port 80 and (((ip[2:2] - ((ip[0]&0xf)<<2)) - ((tcp[12]&0xf0)>>2)) != 0)", "tcp[(tcp[12] & 0xf0) >> 2] = 0x30", "tcp[((tcp[12:1] & 0xf0) >> 2):4] = 0x30313233",
	"udp[8:4] = 0x01020304", "udp[4:2] > 12", "udp[2:2] = udp[0:2]", "udp[0:2] < udp[2:2]", "sctp[12] = 1", "icmp[icmptype] = icmp-echo", "icmp[icmptype] = icmp-unreach and icmp[icmpcode] = 4", "icmp[0] = 3 and icmp[17] = 6", "icmp[28:2] = 40000",
	"icmp6[icmp6type] = icmp6-neighborsolicit", "icmp6[0] >= 133 and icmp6[0] <= 136", "icmp6[icmp6code] = 0", "igmp[0] = 0x16",
	"ip[0] + 1 = 0x46", "ip[0] * 2 = 0x8a", "ip[8] / 2 = 32", "ip[8] % 10 = 4", "ip[8] ^ 0x40 = 0", "ip[8] | 1 = 65", "ip[8] << 2 = 256", "ip[8] >> 3 = 8", "-ip[8] = -64", "ip[8] - 65 > 5", "ip[9] & ip[8] = 0", "ip[8] / ip[1] = 0", "ip[8] % ip[1] >= 0",
	"tcp[((tcp[12] & 0xf0) >> 2) + 5000] = 0x21", "ip[ip[9] + 100] = 1", "ether[ip[8] + 0x4000] = 1",
	"1 = 1", "5 < ip[8]", "ip[ip[0] & 0xf] = 0", "ip[ip[9]] = 0", "ether[ip[8]] = 0x32", "ether[ether[5]] = 0", "ether[ether[5]:4] != 0", "ether[ether[13]:2] = 0x0800", "ip[ip[2:2] - 1] = 0x70", "ip[ip[2:2]] = 0", "ip[8] << ip[9] = 4096", "ip[8] >> ip[9] = 1", "1 << ip[9] = 64",
	"ether[1000] & 0 = 0", "ip[100] * 0 = 0", "ip[0] ^ 0x40 + 5 = 0", "ip[0] & 2 ^ 3 != 0", "ether[10:4] = 0x00018100", "ether[11:2] != 0", "ether[14:4] != 0", "ether[15:2] = 0x0508",
	"vlan", "vlan 5", "vlan 100", "vlan 0x5", "vlan and tcp", "vlan 5 and host 10.0.0.1", "vlan 5 and tcp port 5000", "vlan and ip6", "vlan and vlan", "vlan 100 and vlan 5", "vlan and vlan and udp port 53", "vlan 100 and vlan 5 and host 2001:db8::1",
	"not vlan", "not vlan and tcp", "vlan or tcp", "tcp or vlan", "(vlan 5 and tcp) or udp", "ip or (vlan and ip)", "vlan and arp host 10.0.0.1", "vlan and ether[14:2] & 0xfff = 5", "vlan and ip[8] = 64", "vlan and tcp[13] & 2 != 0", "vlan and icmp6[0] = 135", "vlan and ether src 02:00:00:00:00:01", "vlan and multicast", "vlan and stp", "vlan and ip[ip[0] & 0xf] = 0",
}

// tunnelExpressions are newer than Debian's tcpdump.
var tunnelExpressions = []string{
	"vxlan", "vxlan 5", "vxlan 6", "vxlan and tcp", "vxlan 5 and host 10.0.0.1", "vxlan and tcp port 5000", "vxlan and tcp[13] = 2",
	"vxlan and ip[0] = 0x45", "vlan and vxlan", "vlan and vxlan 5 and tcp dst port 5000", "not vxlan", "vxlan and ether src 02:00:00:00:00:01",
	"vxlan and tcp[((tcp[12] & 0xf0) >> 2) - 20] != 0", "vxlan or tcp",
}
