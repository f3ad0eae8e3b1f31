// SPDX-License-Identifier: Apache-2.0

// Package nfqlb is a stateless load balancer for NFQUEUE: it hashes a packet's
// addresses and ports, looks the hash up in a Maglev table, and gives the
// packet back to the kernel with a mark that `ip rule` routes to a target. It
// decides exactly as Nordix nfqlb does, reads and writes the same shared
// tables, and speaks the same control protocol, so that both can serve side by
// side.
//
// The decision is pure (Parse, Table, Decide: no system call, no allocation,
// any OS); the engine that feeds it packets is Linux only. Decider gives the
// same decision to a tracer from recorded state.
//
// How long a decision takes hardly depends on the number of flows: they are
// indexed by addresses, ports, protocol and byte matches when they change,
// while packets go on with the old ones. Two kinds of flow lists still cost
// more the longer they are: hundreds of flows that each accept all but one
// field of the same packets (a few nanoseconds for every 64 of them), and flows
// that otherwise accept the same packets and whose byte matches look at more
// than eight different places or masks (those at the others, one by one).
//
// What it refuses: it keeps no connections, rewrites no packet, and invents no
// target. A packet it cannot place is dropped with a counted reason.
//
// A later fragment has no ports: it gets the mark that the first one of its
// packet got, from a table that forgets it 200 ms after the last. One that
// comes before the first is kept if there is a tun device to give it back
// through, else it is dropped; the table and what is kept have fixed sizes, and
// what does not fit is dropped and counted. In a tier of balancers, fragments
// go to the balancer that their addresses choose, whatever router they came by.
//
// A running balancer can be watched with nfqlb's trace protocol, by several
// clients at once: each gets what the mask asks for that stood in the shared
// file when it came. Packets pay one atomic load while nobody traces, and never
// wait for a client: one that does not read loses messages and is told how
// many. Metrics has the counters as Prometheus text.
//
// A FastPath decides packets in the kernel, at TC ingress, from the same flows
// and tables, and marks them; a rule it puts before the one that queues lets
// them pass. A new state takes the old one's place at once, so that a packet is
// decided by one or the other. It leaves to the queue what it would not decide
// as Decide does or what only the queue's rule knows: fragments, ICMP errors,
// options and extension headers, protocols without ports, flows with byte
// matches or encapsulated SCTP, packets to be dropped, addresses that no flow
// names as a destination, and everything while a client traces packets. So a
// flow's destinations must not contain addresses that are not queued. When it
// ends, or the process dies, every packet goes to the queue again.
//
// On request it hands packets to the nexthop without the IP layer, with their
// TTL or hop limit one less, where routing would do just that: a mark whose
// rule stands before all others, leads to a table of one route by one gateway,
// and no netfilter chain but the queue's, IPsec policy, IPVS service or reverse
// path filter on the way. It follows changes of all that, some milliseconds
// late; IP statistics do not count these packets, and TC programs behind it at
// the same ingress do not see them.
//
// Where nfqlb is wrong, this package is right on purpose:
//
//   - the ports of a first IPv6 fragment are read behind the fragment header;
//   - IPv6 extension headers are 8·(len+1) bytes long, also when len is 0;
//   - a header that ends exactly at the packet's end is inside it;
//   - ::/0 contains every address;
//   - an ICMP error that quotes a later fragment has no ports and is dropped;
//   - a target change never makes a lookup fail meanwhile;
//   - changing a flow keeps its match count;
//   - a first fragment that comes twice gets its mark twice;
//   - a later fragment that comes too early without a tun device is lost alone,
//     its first one is not dropped for it;
//   - the statistics are valid JSON;
//   - setting a trace-flow is answered with OK, and a client takes nfqlb's
//     silence for it;
//   - a trace-flow can be set again, which keeps its count;
//   - a traced length is the packet's, however much of it was copied.
package nfqlb
