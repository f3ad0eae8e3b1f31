// SPDX-License-Identifier: Apache-2.0

// Package filter turns what a person types — a pcap-filter(7) expression or a
// five-tuple — into code that decides about packets: classic BPF for the
// reference, eBPF for the tracer's programs.
//
// A filter means what Debian's tcpdump makes of the same text on an Ethernet
// device, down to its habits: and/or have one precedence, "port" does not see
// later fragments, reading past the end rejects the packet, "vlan" moves
// everything written after it.
//
// Two of the habits surprise. In "ip[8] + tcp[0]" only the left operand's
// protocol is asked for. And where a packet ends before a byte that is read,
// it is rejected at once, so order shows: ours is the order as written, which
// is tcpdump's without its optimizer (-O); with it, tcpdump skips or swaps some
// reads in packets too short for them.
//
// The way: lexer → parser → tree (ast.go) → predicates (predicate.go) →
// decision graph (graph.go) → classic BPF (cbpf.go) → eBPF (direct.go,
// copy.go) → stub functions (splice.go).
//
// The last step is our own translator instead of a general one, because the
// three stubs read bytes in three ways that no general one offers: packet
// pointers without a helper call, a VLAN tag that is not in the bytes at all,
// and kernel addresses of which one prefix is copied once. A frame with bytes
// outside the linear part is read with bpf_skb_load_bytes: unlike
// bpf_skb_pull_data that leaves the observed packet, and the caller's packet
// pointers, as they were.
//
// It refuses to approximate: what it cannot compile is an error that says
// where. It refuses to resolve host names, to need cgo or libpcap, and to load
// or attach anything.
package filter
