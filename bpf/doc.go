// SPDX-License-Identifier: Apache-2.0

// Package bpf is what the kernel sees: the BPF programs that record what
// happens to a packet, compiled and embedded, and the record they write.
//
// It refuses to load, attach or read anything: that is package tracer's.
package bpf

//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target amd64,arm64 -type record -type hook_stats -type queue_ext -type ipvs_ext -type ipvs_flags -type netfilter_ext -type netfilter_flags -type nat_ext -type nat_flags -type conntrack_ext -type conntrack_flags -type bridge_ext -type bridge_flags -type socket_ext -type socket_flags -type icmp_ext -type hook -type record_flags -go-package bpf Waymark waymark.c -- -O2 -g -Wall -Werror -mcpu=v3 -D__BPF_TRACING__
//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target amd64,arm64 -type fast_outcome -type fast_limits -type fast_image -type fast_prefixes -type fast_length -type fast_prefix -type fast_flow -type fast_table -type fast_target -go-package bpf Fastpath fastpath.c -- -O2 -g -Wall -Werror -mcpu=v3 -D__BPF_TRACING__
