//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * socket.c: which socket gets a packet, and what a packet is refused with.
 *
 * TCP gives a segment to its socket in tcp_v{4,6}_do_rcv. While the process is
 * busy with the socket the segment waits (tcp_add_backlog), and may be put
 * together with the one before it, so that it never gets there by itself. What
 * is for a connection that is still being opened goes through tcp_check_req,
 * with the listener, and what comes after its end through
 * tcp_timewait_state_process. UDP: udp{,v6}_queue_rcv_skb. Raw sockets, each of
 * which gets a clone, and ping sockets: sock_queue_rcv_skb, from 5.19 on
 * sock_queue_rcv_skb_reason. All have (sk, skb) as their first arguments, on 5.15
 * to 6.18.
 *
 * Who is to be told that nobody takes the packet: tcp_v{4,6}_send_reset (sk is
 * NULL if there is no socket), nf_send_reset{,6} of REJECT, __icmp_send and
 * icmp6_send, which a rate limit may still keep from sending.
 */
#include "probe.h"

#define TCP_TIME_WAIT	 6  /* include/net/tcp_states.h */
#define TCP_NEW_SYN_RECV 12 /* as above: a request, before there is a socket */
#define SOCK_DEAD	 0  /* include/net/sock.h, enum sock_flags: a bit's number */

static __always_inline void socket_of(struct socket_ext *ext, struct sock *sk)
{
	struct socket_alloc *file;

	if (!sk) {
		ext->flags = SOCKET_NONE;
		return;
	}
	ext->af = READ(sk, __sk_common.skc_family);
	ext->state = READ(sk, __sk_common.skc_state);
	ext->lport = bpf_htons(READ(sk, __sk_common.skc_num));
	ext->rport = READ(sk, __sk_common.skc_dport);
	if (ext->af == AF_INET) {
		*(__be32 *)ext->laddr = READ(sk, __sk_common.skc_rcv_saddr);
		*(__be32 *)ext->raddr = READ(sk, __sk_common.skc_daddr);
	} else {
		BPF_CORE_READ_INTO(&ext->laddr, sk, __sk_common.skc_v6_rcv_saddr);
		BPF_CORE_READ_INTO(&ext->raddr, sk, __sk_common.skc_v6_daddr);
	}
	ext->protocol = IPPROTO_TCP;
	/* These end after what all sockets have in common. */
	if (ext->state == TCP_TIME_WAIT || ext->state == TCP_NEW_SYN_RECV)
		return;
	ext->protocol = READ(sk, sk_protocol);
	ext->type = READ(sk, sk_type);
	ext->uid = READ(sk, sk_uid.val);
	ext->ack_backlog = READ(sk, sk_ack_backlog);
	ext->max_backlog = READ(sk, sk_max_ack_backlog);
	ext->rmem = READ(sk, sk_backlog.rmem_alloc.counter);
	ext->rcvbuf = READ(sk, sk_rcvbuf);
	if (READ(sk, __sk_common.skc_flags) & 1 << SOCK_DEAD)
		ext->flags = SOCKET_DEAD;
	file = (void *)READ(sk, sk_socket);
	if (file)
		ext->inode = BPF_CORE_READ(file, vfs_inode.i_ino);
}

static __always_inline int socket_hook(struct sk_buff *skb, struct sock *sk, enum hook hook)
{
	struct record *rec = waypoint(skb, hook, sizeof(struct socket_ext));
	__u32 inum;

	if (!rec)
		return 0;
	socket_of((void *)(rec + 1), sk);
	/* TCP takes the device off the packet before; the socket knows where it is. */
	inum = netns_of_sock(sk);
	if (inum && inum != rec->netns) {
		rec->netns = inum;
		rec->ifindex = 0;
	}
	bpf_ringbuf_submit(rec, BPF_RB_NO_WAKEUP);
	return 0;
}

SEC("kprobe.multi/tcp_v4_do_rcv")
int BPF_KPROBE(multi_socket_receive, struct sock *sk, struct sk_buff *skb)
{
	return socket_hook(skb, sk, HOOK_SOCKET_RECEIVE);
}

SEC("kprobe/tcp_v4_do_rcv")
int BPF_KPROBE(kprobe_socket_receive, struct sock *sk, struct sk_buff *skb)
{
	return socket_hook(skb, sk, HOOK_SOCKET_RECEIVE);
}

SEC("kprobe/tcp_v4_send_reset")
int BPF_KPROBE(kprobe_tcp_reset, struct sock *sk, struct sk_buff *skb)
{
	return socket_hook(skb, sk, HOOK_SOCKET_RESET);
}

SEC("kprobe/nf_send_reset")
int BPF_KPROBE(kprobe_nf_reset, struct net *net, struct sock *sk, struct sk_buff *skb)
{
	struct record *rec = waypoint(skb, HOOK_SOCKET_REJECT, 0);

	if (rec)
		bpf_ringbuf_submit(rec, BPF_RB_NO_WAKEUP);
	return 0;
}

SEC("kprobe/__icmp_send")
int BPF_KPROBE(kprobe_icmp_error, struct sk_buff *skb, int type, int code, __u32 info)
{
	struct record *rec = waypoint(skb, HOOK_SOCKET_ICMP, sizeof(struct icmp_ext));
	struct icmp_ext *ext;

	if (!rec)
		return 0;
	ext = (void *)(rec + 1);
	ext->info = info;
	ext->type = type;
	ext->code = code;
	bpf_ringbuf_submit(rec, BPF_RB_NO_WAKEUP);
	return 0;
}
