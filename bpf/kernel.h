/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * kernel.h: the few kernel types the programs read.
 *
 * Only the fields that are used; CO-RE relocates them to where the running
 * kernel has them. Constants are the kernel's own, from the header named.
 */
#ifndef WAYMARK_KERNEL_H
#define WAYMARK_KERNEL_H

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef signed char __s8;
typedef short __s16;
typedef int __s32;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u16 __sum16;
typedef __u32 __wsum;
typedef _Bool bool;
#define true  1
#define false 0
#define NULL  ((void *)0)

/* include/uapi/linux/bpf.h */
enum bpf_map_type {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_RINGBUF = 27,
};
#define BPF_ANY		 0
#define BPF_RB_NO_WAKEUP 1

/* include/uapi/linux/pkt_cls.h: go on with the next program or filter. */
#define TC_ACT_UNSPEC (-1)

/* include/linux/socket.h */
#define AF_INET	 2
#define AF_INET6 10

/* include/uapi/linux/if_ether.h */
#define ETH_HLEN     14
#define ETH_P_IP     0x0800
#define ETH_P_IPV6   0x86DD
#define ETH_P_8021Q  0x8100
#define ETH_P_8021AD 0x88A8

/* include/uapi/linux/in.h, ipv6.h, RFC 8200 */
#define IPPROTO_HOPOPTS	 0
#define IPPROTO_ICMP	 1
#define IPPROTO_TCP	 6
#define IPPROTO_UDP	 17
#define IPPROTO_ROUTING	 43
#define IPPROTO_FRAGMENT 44
#define IPPROTO_AH	 51
#define IPPROTO_ICMPV6	 58
#define IPPROTO_DSTOPTS	 60
#define IPPROTO_SCTP	 132
#define IPPROTO_UDPLITE	 136

/* include/uapi/linux/bpf.h: the context of TC programs, by its fixed offsets. */
struct __sk_buff {
	__u32 len;
	__u32 pkt_type;
	__u32 mark;
	__u32 queue_mapping;
	__u32 protocol;
	__u32 vlan_present;
	__u32 vlan_tci;
	__u32 vlan_proto;
	__u32 priority;
	__u32 ingress_ifindex;
	__u32 ifindex;
	__u32 tc_index;
	__u32 cb[5];
	__u32 hash;
	__u32 tc_classid;
	__u32 data;
	__u32 data_end;
};

/* include/uapi/linux/bpf.h */
struct bpf_raw_tracepoint_args {
	__u64 args[0];
};

/* Registers as a kprobe gets them: arch/{x86,arm64}/include/uapi/asm/ptrace.h */
#if defined(__TARGET_ARCH_x86)
struct pt_regs {
	unsigned long r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8;
	unsigned long rax, rcx, rdx, rsi, rdi, orig_rax, rip, cs, eflags, rsp, ss;
};
#elif defined(__TARGET_ARCH_arm64)
struct user_pt_regs {
	__u64 regs[31], sp, pc, pstate;
};
struct pt_regs;
#endif

#define CORE __attribute__((preserve_access_index))

struct ns_common {
	unsigned int inum;
} CORE;

struct net {
	struct ns_common ns;
} CORE;

typedef struct {
	struct net *net;
} possible_net_t;

struct net_device {
	possible_net_t nd_net;
	int ifindex;
} CORE;

struct in6_addr {
	__u8 s6_addr[16];
};

struct sock_common {
	__be32 skc_daddr;
	__be32 skc_rcv_saddr;
	__be16 skc_dport;
	__u16 skc_num;
	unsigned short skc_family;
	unsigned char skc_state;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
	unsigned long skc_flags;
} CORE;

typedef struct {
	int counter;
} atomic_t;

typedef struct {
	unsigned int val;
} kuid_t;

/* include/net/sock.h: the socket as a file. */
struct inode {
	unsigned long i_ino;
} CORE;

struct socket {
	int state;
} CORE;

struct socket_alloc {
	struct socket socket;
	struct inode vfs_inode;
} CORE;

struct sock {
	struct sock_common __sk_common;
	struct {
		atomic_t rmem_alloc;
	} sk_backlog;
	int sk_rcvbuf;
	__u16 sk_type;
	__u16 sk_protocol;
	__u32 sk_ack_backlog;
	__u32 sk_max_ack_backlog;
	__u32 sk_mark;
	kuid_t sk_uid;
	struct socket *sk_socket;
} CORE;

struct dst_entry {
	struct net_device *dev;
} CORE;

struct sk_buff {
	struct sk_buff *next;
	struct net_device *dev;
	struct sock *sk;
	unsigned int len;
	unsigned int data_len;
	__u32 mark;
	__be16 vlan_proto;
	__u16 vlan_tci;
	__be16 protocol;
	int skb_iif;		   /* the device it came in by */
	unsigned long _skb_refdst; /* struct dst_entry, and SKB_DST_NOREF in the lowest bit */
	unsigned long _nfct;	   /* struct nf_conn, and enum ip_conntrack_info in the low bits */
	char cb[48];		   /* of the layer that has the packet */
	__u8 active_extensions;	   /* bit per enum skb_ext_id */
	__u16 transport_header;
	__u16 network_header;
	__u16 mac_header;
	unsigned int tail; /* sk_buff_data_t: an offset on 64-bit */
	unsigned char *head;
	unsigned char *data;
} CORE;

/* 6.1 keeps "has a tag" in a bit; from 6.4 on vlan_all != 0 says it. */
struct sk_buff___vlan_all {
	__u32 vlan_all;
} CORE;

struct nf_hook_state {
	__u8 hook;
	__u8 pf;
	struct net *net;
} CORE;

struct nf_queue_entry {
	struct sk_buff *skb;
	unsigned int id;
	struct nf_hook_state state;
} CORE;

/* net/netfilter/nfnetlink_queue.c, a type of that module */
struct nfqnl_instance {
	unsigned int queue_maxlen;
	__u16 queue_num;
	unsigned int queue_total;
	unsigned int id_sequence;
} CORE;

/* include/net/ip_vs.h; types of the module ip_vs */
struct ip_vs_scheduler {
	char *name;
} CORE;

struct ip_vs_service {
	struct ip_vs_scheduler *scheduler;
} CORE;

struct ip_vs_dest {
	atomic_t weight;
	struct ip_vs_service *svc;
} CORE;

union nf_inet_addr {
	__u32 all[4];
} CORE;

struct ip_vs_conn {
	__be16 cport;
	__be16 dport;
	__be16 vport;
	__u16 af;
	union nf_inet_addr caddr;
	union nf_inet_addr vaddr;
	union nf_inet_addr daddr;
	__u32 flags;
	__u16 protocol;
	__u16 daf;
	__u16 state;
	__u32 fwmark;
	atomic_t in_pkts;
	struct ip_vs_dest *dest;
} CORE;

/* include/net/netfilter/nf_tables.h; types of the module nf_tables */
struct nft_pktinfo {
	struct sk_buff *skb;
	const struct nf_hook_state *state;
} CORE;

struct nft_table {
	__u64 handle;
	__u16 family : 6;
	char *name;
} CORE;

struct nft_rule_blob {
	unsigned long size; /* bytes of data */
	unsigned char data[];
} CORE;

/* blob_gen_*: from 5.17 on */
struct nft_chain {
	struct nft_rule_blob *blob_gen_0;
	struct nft_rule_blob *blob_gen_1;
	struct nft_table *table;
	char *name;
} CORE;

struct nft_base_chain {
	__u8 policy;
	struct nft_chain chain;
} CORE;

struct nft_verdict {
	__u32 code;
	struct nft_chain *chain;
} CORE;

struct nft_regs {
	struct nft_verdict verdict;
} CORE;

/* include/linux/netfilter/x_tables.h */
struct xt_table {
	__u8 af;
	char name[32];
} CORE;

/* include/net/netfilter/nf_conntrack_tuple.h; ICMP's identifier is src.u.all. */
struct nf_conntrack_man {
	union nf_inet_addr u3;
	union {
		__be16 all;
	} u;
	__u16 l3num; /* AF_INET or AF_INET6 */
} CORE;

struct nf_conntrack_tuple {
	struct nf_conntrack_man src;
	struct {
		union nf_inet_addr u3;
		union {
			__be16 all;
		} u;
		__u8 protonum;
	} dst;
} CORE;

struct nf_conntrack_tuple_hash {
	struct nf_conntrack_tuple tuple;
} CORE;

struct ip_ct_tcp {
	__u8 state; /* enum tcp_conntrack */
} CORE;

union nf_conntrack_proto {
	struct ip_ct_tcp tcp;
} CORE;

/* include/net/netfilter/nf_conntrack_extend.h */
enum nf_ct_ext_id {
	NF_CT_EXT_NAT = 1,
};

struct nf_ct_ext {
	__u8 offset[2]; /* by nf_ct_ext_id; 0: none */
} CORE;

/* include/net/netfilter/nf_conntrack.h */
struct nf_conn {
	struct nf_conntrack_tuple_hash tuplehash[2]; /* by enum ip_conntrack_dir */
	unsigned long status;			     /* enum ip_conntrack_status */
	__u32 mark;
	struct nf_ct_ext *ext;
	union nf_conntrack_proto proto;
} CORE;

/* include/net/netfilter/nf_nat.h */
struct nf_conn_nat {
	int masq_index; /* device whose address it got; 0: not by masquerade */
} CORE;

/* include/linux/skbuff.h */
enum skb_ext_id {
	SKB_EXT_BRIDGE_NF = 0,
};

/* net/bridge/br_private.h; types of the module bridge */
struct net_bridge {
	struct net_device *dev;
} CORE;

struct net_bridge_port {
	struct net_bridge *br;
	struct net_device *dev;
	unsigned long flags; /* BR_HAIRPIN_MODE, ... */
	__u8 state;	     /* BR_STATE_* */
} CORE;

struct br_input_skb_cb {
	struct net_device *brdev;
} CORE;

struct task_struct {
	int tgid;
} CORE;

#endif
