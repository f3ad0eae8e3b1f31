/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * record.h: the one record every hook writes.
 *
 * A record is this fixed header, then ext_len bytes that belong to the hook
 * (struct queue_ext, ipvs_ext and the like for those groups, nothing for the
 * others), then snap_len bytes of the packet. User
 * space reads the same layout through the Go type that bpf2go makes of it, so
 * every field has its natural alignment and there is no hidden padding.
 *
 * Byte order: addresses and ports as on the wire, everything else native
 * (little endian on all machines waymark is built for).
 */
#ifndef WAYMARK_RECORD_H
#define WAYMARK_RECORD_H

/* Which hook wrote the record. Numbers are stored in recordings: append only. */
enum hook {
	HOOK_NONE = 0,
	HOOK_TC_INGRESS = 1,  /* device group: the packet enters a device */
	HOOK_TC_EGRESS = 2,   /* device group: the packet leaves by a device */
	HOOK_KFREE_SKB = 3,   /* drop group: freed as a drop, with reason and location */
	HOOK_CONSUME_SKB = 4, /* free group: freed after normal use, with location from 6.12 on */
	HOOK_KFREE_SKBMEM =
		5,	    /* free group: memory of the skb given back; the sure end of a trail */
	HOOK_SKB_CLONE = 6, /* free group: a clone or copy was made; trail is the child's */
	HOOK_QUEUE_ENTER = 7,	/* queue group: the packet is given to an NFQUEUE */
	HOOK_QUEUE_VERDICT = 8, /* queue group: it comes back, with verdict and mark */
	HOOK_IPVS_FORWARD = 9,	/* ipvs group: the director sends the packet to a destination */
	HOOK_IPVS_REPLY = 10,	/* ipvs group: a reply gets the service's address back (masq) */
	HOOK_SKB_SEGMENT = 11,	/* free group: cut from a big packet; trail is the segment's */
	HOOK_NFT_CHAIN = 12,	/* netfilter group: an nftables base chain has decided */
	HOOK_IPT_TABLE = 13,	/* netfilter group: a table of iptables-legacy has decided */
	HOOK_LOCAL_OUT = 14,	/* netfilter group: sent from here, before the chains of output */

	HOOK_CONNECT = 15, /* connect group: a connection cannot begin, for want of a port */

	HOOK_NAT = 16,		  /* nat group: an address or port is about to be changed */
	HOOK_CONNTRACK = 17,	  /* nat group: which connection the packet belongs to; verdict */
	HOOK_BRIDGE_FORWARD = 18, /* bridge group: the frame goes to one port, or up */
	HOOK_BRIDGE_FLOOD = 19,	  /* bridge group: copies go to all ports that take it */

	HOOK_SOCKET_RECEIVE = 20, /* socket group: a socket is given the packet */
	HOOK_SOCKET_RESET = 21,	  /* socket group: TCP answers it with a reset */
	HOOK_SOCKET_REJECT = 22,  /* socket group: netfilter answers it with a reset */
	HOOK_SOCKET_ICMP = 23,	  /* socket group: the kernel answers it with an ICMP error */

	HOOK_MAX = 32, /* size of the per-hook counters; room for later groups */
};

/* What is special about this record. */
enum record_flags {
	RECORD_START = 1 << 0,	/* first record of this trail: the filter matched here */
	RECORD_END = 1 << 1,	/* the skb is freed: nothing follows on this trail */
	RECORD_L3 = 1 << 2,	/* the snapshot starts at the network header (no link header yet) */
	RECORD_VLAN = 1 << 3,	/* vlan_tci is valid; the tag is not in the snapshot */
	RECORD_REUSED = 1 << 4, /* the content contradicted the trail this skb pointer had before */
	RECORD_TRUNC = 1 << 5,	/* headers could not be read whole; the tuple may be incomplete */
};

struct record {
	__u64 time_ns;	/* CLOCK_BOOTTIME */
	__u64 trail;	/* identity of the packet in this kernel; 0: not tracked */
	__u64 parent;	/* trail this one was cloned, copied or cut from; 0: none */
	__u64 skb;	/* address of the sk_buff, to check identity; never dereferenced */
	__u64 location; /* return address in the kernel that freed the skb; 0: not told */
	__u32 netns;	/* inode of the network namespace, as in /proc/PID/ns/net */
	__u32 ifindex;	/* device, in that namespace; 0: none */
	__u32 mark;	/* skb->mark (fwmark) when the hook ran */
	__u32 len;	/* skb->len in bytes as the hook saw it */
	__u32 pid;	/* tgid of the task in whose context the hook ran */
	__s32 verdict;	/* hook's verdict, if it has one */
	__u32 reason;	/* enum skb_drop_reason of the running kernel (HOOK_KFREE_SKB) */
	__u32 seq;	/* TCP sequence number; ICMP echo: id << 16 | sequence; SCTP:
			 * verification tag; UDP: first four payload bytes */
	__u32 ack;	/* TCP acknowledgement number */
	__u16 hook;	/* enum hook */
	__u16 cpu;
	__u8 src[16]; /* IPv4 as ::ffff:a.b.c.d */
	__u8 dst[16];
	__be16 sport; /* 0 for protocols without ports and non-first fragments */
	__be16 dport;
	__u16 ip_id;	/* IPv4 identification, or the low half of IPv6 fragment identification */
	__u16 frag_off; /* fragment offset in bytes, bit 0: more fragments (RFC 791, RFC 8200) */
	__u16 payload_len; /* bytes after the L4 header, from the IP length */
	__u16 l3_proto;	   /* EtherType (0x0800, 0x86dd, 0x0806, ...), native order */
	__u16 vlan_tci;	   /* hardware-accelerated VLAN tag, see RECORD_VLAN */
	__u16 flags;	   /* enum record_flags */
	__u8 proto;	   /* IP protocol after extension headers */
	__u8 tcp_flags;	   /* FIN 1, SYN 2, RST 4, PSH 8, ACK 16, URG 32 */
	__u8 icmp_type;
	__u8 icmp_code;
	__u8 ttl;	 /* TTL or hop limit */
	__u8 ip_version; /* 4, 6, or 0 when the packet is not IP */
	__u16 ext_len;	 /* bytes of hook-specific data after this header */
	__u16 snap_len;	 /* bytes of packet after that */
	__u16 at;	 /* the parser's own: where in the packet it is; then 0 */
	__u32 equal;	 /* so many drops more that were like this one and have no record */
};

/* What the queue group adds. */
struct queue_ext {
	__u32 packet_id; /* of nfnetlink_queue, counted per queue; 0: not known */
	__u32 depth;	 /* packets waiting in the queue before this one (HOOK_QUEUE_ENTER) */
	__u32 maxlen;	 /* and how many may (HOOK_QUEUE_ENTER) */
	__u16 queue;	 /* NFQUEUE number (HOOK_QUEUE_ENTER) */
	__u8 nf_hook;	 /* enum nf_inet_hooks: 0 PREROUTING ... 4 POSTROUTING */
	__u8 pf;	 /* protocol family: 2 IPv4, 10 IPv6, 7 bridge */
};

/* What is special about an IPVS connection. */
enum ipvs_flags {
	IPVS_NEW = 1 << 0,  /* this is its first packet */
	IPVS_DEST = 1 << 1, /* weight and scheduler are known */
};

/*
 * What the ipvs group adds: the connection (struct ip_vs_conn). Addresses and
 * ports as on the wire, IPv4 in the first four bytes.
 */
struct ipvs_ext {
	__u8 caddr[16];	    /* client */
	__u8 vaddr[16];	    /* service */
	__u8 daddr[16];	    /* destination (realserver) */
	__u8 scheduler[16]; /* name, ends with a zero byte */
	__be16 cport;
	__be16 vport;
	__be16 dport;
	__u16 protocol;
	__u32 fwmark; /* of a service by fwmark; 0: none */
	__s32 weight; /* of the destination */
	__u16 state;  /* IP_VS_TCP_S_* and the like, before this packet */
	__u8 af;      /* of client and service: 2 or 10 */
	__u8 daf;     /* of the destination */
	__u8 method;  /* IP_VS_CONN_F_FWD_MASK: 0 masq, 1 local, 2 tunnel, 3 direct, 4 bypass */
	__u8 flags;   /* enum ipvs_flags */
	__u16 pad;
};

/* How a chain came to its verdict. */
enum netfilter_flags {
	NETFILTER_RULE = 1 << 0, /* a rule gave it; rule is 0 if that was not found */
};

/*
 * What the netfilter group adds. Names end with a zero byte, those that are
 * longer are cut off. The verdict is in the header, as the chain's function
 * returned it: enum NF_* in the low byte, above it a queue's number or an errno.
 */
struct netfilter_ext {
	__u64 rule;	     /* handle of the rule that gave the verdict; 0: not known */
	__u64 table_handle;  /* with rule, what names that in its namespace for ever */
	__u32 mark_before;   /* skb->mark when the chain began */
	__u8 nf_hook;	     /* enum nf_inet_hooks: 0 PREROUTING ... 4 POSTROUTING */
	__u8 family;	     /* of the table, NFPROTO_*: 1 inet, 2 ip, 5 netdev, 7 bridge, 10 ip6 */
	__u8 policy;	     /* of the base chain: 0 drop, 1 accept */
	__u8 flags;	     /* enum netfilter_flags */
	__u8 table[32];	     /* name */
	__u8 base_chain[32]; /* where it began (HOOK_NFT_CHAIN) */
	__u8 chain[32];	     /* of the rule that gave the verdict (HOOK_NFT_CHAIN) */
};

/* What is special about a translation. */
enum nat_flags {
	NAT_MASQUERADE = 1 << 0, /* the connection's source is masqueraded */
};

/*
 * What a change of addresses adds (HOOK_NAT). The packet of the record is as
 * it was before.
 */
struct nat_ext {
	__u8 addr[16]; /* the new address; IPv4 as ::ffff:a.b.c.d */
	__be16 port;   /* the new port, or the ICMP identifier */
	__u8 manip;    /* enum nf_nat_manip_type: 0 changes the source, 1 the destination */
	__u8 dir;      /* enum ip_conntrack_dir: 0 original, 1 reply */
	__u8 flags;    /* enum nat_flags */
	__u8 pad[3];
};

/* What is known of a packet's connection. */
enum conntrack_flags {
	CONNTRACK_FOUND = 1 << 0, /* it has an entry: status, mark and tcp_state are valid */
};

/* What conntrack says of a packet (HOOK_CONNTRACK). */
struct conntrack_ext {
	__u32 status;	/* enum ip_conntrack_status, bits */
	__u32 mark;	/* connmark */
	__u8 info;	/* enum ip_conntrack_info */
	__u8 tcp_state; /* enum tcp_conntrack, after this packet */
	__u8 flags;	/* enum conntrack_flags */
	__u8 pad;
};

/* How a frame passes a bridge. */
enum bridge_flags {
	BRIDGE_NETFILTER = 1 << 0, /* br_netfilter showed it to the rules for IP */
};

/* What the bridge group adds. The record's device is where the frame came from. */
struct bridge_ext {
	__u32 bridge;	  /* ifindex of the bridge */
	__u32 out;	  /* ifindex of the port it goes to, of the bridge if up; 0: flooded */
	__u32 port_flags; /* of that port: BR_HAIRPIN_MODE 1, ... (include/linux/if_bridge.h) */
	__u8 port_state;  /* of that port: BR_STATE_*, 3 is forwarding */
	__u8 flags;	  /* enum bridge_flags */
	__u8 pad[2];
};

/* What is special about a socket. */
enum socket_flags {
	SOCKET_NONE = 1 << 0, /* there is none (HOOK_SOCKET_RESET) */
	SOCKET_DEAD = 1 << 1, /* its process has closed it */
};

/*
 * What the socket group adds: the socket (struct sock). Addresses and ports as
 * on the wire, IPv4 in the first four bytes; zeros are any address. Of one in
 * TIME_WAIT the kernel keeps the addresses alone.
 */
struct socket_ext {
	__u8 laddr[16];	   /* local */
	__u8 raddr[16];	   /* remote, if connected */
	__u64 inode;	   /* of the file, as in /proc/PID/fd; 0: no process has it open */
	__u32 uid;	   /* of who made it, as the initial user namespace numbers them */
	__u32 ack_backlog; /* LISTEN: connections that wait to be accepted */
	__u32 max_backlog; /* LISTEN: and how many may; one more is let in */
	__u32 rmem;	   /* memory of what waits to be read, in bytes */
	__u32 rcvbuf;	   /* and how much may */
	__be16 lport;	   /* of a ping socket: the identifier of its echoes */
	__be16 rport;
	__u16 protocol;
	__u8 af;    /* 2 or 10, which has IPv4 as ::ffff:a.b.c.d */
	__u8 state; /* TCP_ESTABLISHED 1 ... TCP_LISTEN 10 */
	__u8 flags; /* enum socket_flags */
	__u8 type;  /* SOCK_STREAM 1, SOCK_DGRAM 2, SOCK_RAW 3; 0: not told */
	__u8 pad[2];
};

/* What HOOK_SOCKET_ICMP adds: the message that is to be sent. */
struct icmp_ext {
	__u32 info; /* second word of its header; IPv4: as on the wire, IPv6: native */
	__u8 type;  /* of ICMP or ICMPv6, as the packet */
	__u8 code;
	__u16 pad;
};

/* Per CPU and hook: what was written and what was lost. Read live. */
struct hook_stats {
	__u64 records;	   /* records written */
	__u64 lost;	   /* records not written: the ring buffer was full */
	__u64 untracked;   /* packets not followed: the identity map refused the entry */
	__u64 seen;	   /* packets that matched (or were tracked) at this hook */
	__u64 sampled_out; /* packets that matched and are not followed, for the budget */
};

#endif
