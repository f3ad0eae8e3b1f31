// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"testing"

	"github.com/cilium/ebpf"

	"waymark/bpf"
)

// The tracer's own programs must still pass the verifier with a large filter
// in them, stack and all.
func TestSpliceIntoTracer(t *testing.T) {
	runnable(t)
	for _, expr := range []string{
		"", "tcp and udp", "port 80", "vlan and vxlan and tcp[tcpflags] & tcp-syn != 0", fortyHosts(),
		"ip[ip[2:2] - 1] = 0x70 and (ether[ether[5]:4] % ip[8]) - (tcp[4:4] & (ip[12:4] ^ len)) > 5",
	} {
		f := mustParse(t, expr).WithReply()
		spec, err := bpf.LoadWaymark()
		if err != nil {
			t.Fatal(err)
		}
		for name, p := range spec.Programs {
			// Other kinds need hooks that not every kernel has.
			if p.Type != ebpf.SchedCLS && p.Type != ebpf.RawTracepoint {
				delete(spec.Programs, name)
			}
		}
		if err := f.Splice(spec); err != nil {
			t.Fatal(err)
		}
		coll := loadSpec(t, f, spec)
		for name, p := range coll.Programs {
			t.Logf("%.30q: %s loaded, type %v", expr, name, p.Type())
		}
		coll.Close()
	}
}
