// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"math/rand/v2"
	"strings"
	"testing"
)

// Packets that go through the kernel's queues are traced, each once, while the
// balancer goes on; and the metrics say what the kernel counted behind it.
func TestTraceThroughEngine(t *testing.T) {
	w := newWorld(t, 4)
	b := meridio(t, Config{PromiscuousPing: true}, 47, 57, 66, 89)
	e := serve(t, w, b, QueueConfig{First: 0, Last: 3})
	if err := b.SetTraceFlow(FlowSpec{Name: "all"}); err != nil {
		t.Fatal(err)
	}
	c := b.attachTrace(TraceFlows)
	packets := traffic(rand.New(rand.NewPCG(21, 22)), 200)
	w.send(packets...)
	await(t, "the queue to be served", func() bool { return e.Stats().Packets >= uint64(len(packets)) })
	// The count is raised before the mark of the last batch is given.
	placed := scrape(t, string(b.Metrics()))[`waymark_lb_packets_total{reason="placed"}`]
	await(t, "the packets behind the queue", func() bool {
		n := 0
		for _, packets := range w.counted() {
			n += packets
		}
		return n == int(placed)
	})
	text := string(b.trace.take(c, nil))
	if n := strings.Count(text, "\nMatch for trace-flow: all\n"); n != len(packets) {
		t.Errorf("%d packets were traced of %d", n, len(packets))
	}
	if n := strings.Count(text, "\ntarget=tshm-stream-a, fwmark="); n != int(placed) {
		t.Errorf("%d packets were traced with a mark, %d were placed", n, placed)
	}
}
