// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"slices"
	"testing"
)

// Two queues in the format of seq_show.
const twoQueues = `    0  26112     3 2   576     5     7       12  1
    9 3141592  0 2 65531     0     0        0  1
`

func TestKernelQueueMetrics(t *testing.T) {
	e := NewEngine(meridio(t, Config{}, 57), QueueConfig{First: 0, Last: 3})
	own := e.ownQueues(parseKernelQueues(twoQueues))
	if !slices.Equal(own, []kernelQueue{{0, 3, 5, 7}}) {
		t.Fatalf("queues %+v", own)
	}
	m := MetricsText{text: e.Metrics()}
	if len(m.text) == 0 {
		t.Fatal("no metrics")
	}
	m.text = nil
	kernelQueueMetrics(&m, own)
	got := scrape(t, string(m.text))
	for name, want := range map[string]uint64{
		`waymark_lb_queue_waiting{queue="0"}`:                     3,
		`waymark_lb_queue_dropped_total{queue="0",full="queue"}`:  5,
		`waymark_lb_queue_dropped_total{queue="0",full="socket"}`: 7,
	} {
		if got[name] != want || len(got) != 3 {
			t.Errorf("%s is %d, want %d; %v", name, got[name], want, got)
		}
	}
	scrape(t, string(e.Metrics()))
}

func FuzzParseKernelQueues(f *testing.F) {
	f.Add(twoQueues)
	f.Add("0 1 2\n")
	f.Fuzz(func(t *testing.T, in string) {
		var m MetricsText
		queues := parseKernelQueues(in)
		seen := make(map[uint16]bool)
		for _, q := range queues {
			if seen[q.number] {
				return // the kernel shows each once
			}
			seen[q.number] = true
		}
		kernelQueueMetrics(&m, queues)
		scrape(t, string(m.text))
	})
}
