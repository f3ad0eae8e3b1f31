// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
)

// BenchmarkFilter measures programs in the kernel on a packet they do not
// match: what every foreign packet costs. "nothing" is the program alone.
func BenchmarkFilter(b *testing.B) {
	runnable(b)
	frame := build(b, append(ethernetIPv4("192.168.0.1", "192.168.0.2"), udpTo(33333))...)
	filters := []struct{ name, expr string }{
		{"everything", ""},
		{"tuple", "tcp and dst host 10.0.0.1 and dst port 5000"},
		{"tuple-udp", "udp and dst host 10.0.0.1 and dst port 5000"},
		{"port", "port 5000"},
		{"host-and-port", "host 10.0.0.1 and port 5000"},
		{"hosts40", fortyHosts()},
	}
	for _, f := range filters {
		parsed, err := Parse([]string{f.expr})
		if err != nil {
			b.Fatal(err)
		}
		coll := loadFilter(b, parsed)
		runCopy(b, coll, "main_l2", frame, 0, uint32(len(frame))) // fills the map
		for _, prog := range []string{"main_tc", "main_l2"} {
			b.Run(f.name+"/"+prog, func(b *testing.B) {
				ctx := skbContext{}
				ctx.CB[0], ctx.CB[1] = uint32(len(frame)), uint32(len(frame))
				_, err := coll.Programs[prog].Run(&ebpf.RunOptions{Data: frame, Context: ctx, Repeat: uint32(b.N)})
				if err != nil {
					b.Fatal(err)
				}
			})
		}
	}
}

func fortyHosts() string { return "host " + manyHosts(40) }

func manyHosts(n int) string {
	hosts := make([]string, n)
	for i := range hosts {
		hosts[i] = fmt.Sprintf("10.%d.%d.%d", i/100, i%100, i%100+1)
	}
	return strings.Join(hosts, " or ")
}
