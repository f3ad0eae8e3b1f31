// SPDX-License-Identifier: Apache-2.0

//go:build linux

package tracer

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/cilium/ebpf/btf"
	"github.com/rs/zerolog"
)

const kallsyms = `0000000000000000 A fixed_percpu_data
ffffffff81000000 T _stext
ffffffff81000100 t nf_queue
ffffffff81000100 T nf_queue_alias
ffffffff81000400 T ip_error
ffffffff81000500 d some_data
ffffffffc0001000 t nfqnl_reinject	[nfnetlink_queue]
`

func TestSymbolNames(t *testing.T) {
	s, err := parseSymbols(strings.NewReader(kallsyms))
	must(t, err)
	for addr, want := range map[uint64]string{
		0xffffffff8100031c: "nf_queue+0x21c",
		0xffffffff81000100: "nf_queue+0x0",
		0xffffffff81000510: "ip_error+0x110", // data is no function
		0xffffffffc0001095: "nfqnl_reinject+0x95",
		0xffffffffd0000000: "0xffffffffd0000000", // too far from any
		0x1000:             "0x1000",
	} {
		if got := s.name(addr); got != want {
			t.Errorf("%#x is %s, want %s", addr, got, want)
		}
	}
}

func TestHiddenSymbolsAreSaid(t *testing.T) {
	hidden := "0000000000000000 T _stext\n0000000000000000 t nf_queue\n"
	if _, err := parseSymbols(strings.NewReader(hidden)); !errors.Is(err, errHiddenSymbols) {
		t.Errorf("got %v", err)
	}
}

func FuzzParseSymbols(f *testing.F) {
	f.Add(kallsyms, uint64(0xffffffff81000100))
	f.Add("x y z\n\n \nffff t", uint64(0))
	f.Fuzz(func(_ *testing.T, text string, addr uint64) {
		if s, err := parseSymbols(strings.NewReader(text)); err == nil {
			s.name(addr)
		}
	})
}

func TestDropReasonNames(t *testing.T) {
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		t.Skipf("SKIPPED: this kernel has no BTF: %v", err)
	}
	known := map[string]bool{} // their numbers differ between kernels
	for _, name := range dropReasons(kernel) {
		known[name] = true
	}
	for _, name := range []string{"NOT_SPECIFIED", "NO_SOCKET", "TCP_CSUM", "IP_INNOROUTES"} {
		if !known[name] {
			t.Errorf("%s is missing, of %d", name, len(known))
		}
	}
}

// TestKernelNames: the kernel names its addresses as /proc/kallsyms does.
func TestKernelNames(t *testing.T) {
	known, err := loadSymbols()
	if err != nil {
		t.Skipf("SKIPPED: %v", err)
	}
	p, err := load(settings{snapLen: parseLen}, []string{"drop"})
	if errors.Is(err, os.ErrPermission) {
		t.Skipf("SKIPPED: loading programs needs root: %v", err)
	}
	must(t, err)
	defer p.close()
	name := p.functionNames(zerolog.Nop())
	for i, addr := range known.addrs {
		if known.names[i] != "kfree_skb_list_reason" && known.names[i] != "ip_rcv" {
			continue
		}
		addr += 4
		if got, want := name(addr), known.name(addr); got != want || got == "" {
			t.Errorf("%#x is %q, want %q", addr, got, want)
		}
	}
	if got := name(0x1000); got != "0x1000" {
		t.Errorf("an address of no function is %q", got)
	}
}
