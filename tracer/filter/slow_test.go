// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// loadSlow loads filter_tc with nothing but its helper path, which otherwise
// only frames with non-linear headers reach.
func loadSlow(t testing.TB, f *Filter) *ebpf.Collection {
	t.Helper()
	body, err := tcBody(f.frame, false)
	if err != nil {
		t.Fatal(err)
	}
	spec := callers()
	for name, p := range spec.Programs {
		if name == "main_l2" || name == "main_l3" {
			delete(spec.Programs, name)
			continue
		}
		if p.Instructions, err = replace(p.Instructions, map[string][]asm.Instruction{"filter_tc": body}); err != nil {
			t.Fatal(err)
		}
	}
	return loadSpec(t, f, spec)
}
