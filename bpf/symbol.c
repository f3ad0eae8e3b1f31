//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * symbol.c: the kernel's name of one of its addresses.
 *
 * User space runs this itself. /proc/kallsyms tells the same, of a hundred
 * thousand functions at once. bpf_snprintf is there from 5.13 on.
 */
#include "state.h"

/* KSYM_NAME_LEN, KSYM_SYMBOL_LEN of include/linux/kallsyms.h, and the module's name. */
char symbol[512 + 64 + 64];

SEC("raw_tp/symbol")
int name_symbol(struct bpf_raw_tracepoint_args *ctx)
{
	static const char format[] = "%pS";
	__u64 addr = ctx->args[0];

	bpf_snprintf(symbol, sizeof(symbol), format, &addr, sizeof(addr));
	return 0;
}
