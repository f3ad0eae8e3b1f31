//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * waymark.c: the one object, made of a file per subsystem. User space takes
 * out the programs that the running kernel cannot load before it loads it.
 */
#include "device.c"
#include "drop.c"
#include "free.c"
#include "queue.c"
#include "ipvs.c"
#include "netfilter.c"
#include "nat.c"
#include "bridge.c"
#include "socket.c"
#include "connect.c"
#include "symbol.c"

/* The kernel needs a GPL-compatible licence for the helpers that read memory. */
char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Types that user space wants generated. */
const struct record *unused_record __attribute__((unused));
const struct hook_stats *unused_stats __attribute__((unused));
const struct queue_ext *unused_queue_ext __attribute__((unused));
const struct ipvs_ext *unused_ipvs_ext __attribute__((unused));
const enum ipvs_flags *unused_ipvs_flags __attribute__((unused));
const struct netfilter_ext *unused_netfilter_ext __attribute__((unused));
const enum netfilter_flags *unused_netfilter_flags __attribute__((unused));
const struct nat_ext *unused_nat_ext __attribute__((unused));
const enum nat_flags *unused_nat_flags __attribute__((unused));
const struct conntrack_ext *unused_conntrack_ext __attribute__((unused));
const enum conntrack_flags *unused_conntrack_flags __attribute__((unused));
const struct bridge_ext *unused_bridge_ext __attribute__((unused));
const enum bridge_flags *unused_bridge_flags __attribute__((unused));
const struct socket_ext *unused_socket_ext __attribute__((unused));
const enum socket_flags *unused_socket_flags __attribute__((unused));
const struct icmp_ext *unused_icmp_ext __attribute__((unused));
const enum hook *unused_hook __attribute__((unused));
const enum record_flags *unused_flags __attribute__((unused));
