// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"os"
	"strconv"
	"strings"
)

// Metrics are the engine's and its balancer's counters as Prometheus text.
func (e *Engine) Metrics() []byte {
	s := e.Stats()
	m := MetricsText{text: e.b.Metrics()}
	m.Single("waymark_lb_queue_packets_total", "counter", "Packets received from the queues.", s.Packets)
	m.Single("waymark_lb_queue_batches_total", "counter", "Receive calls that brought packets.", s.Batches)
	m.Single("waymark_lb_queue_malformed_total", "counter", "Queue messages that were no whole packet.", s.Malformed)
	m.Single("waymark_lb_queue_verdict_errors_total", "counter", "Verdicts that the kernel did not take.", s.VerdictErrors)
	m.Single("waymark_lb_queue_flushed_total", "counter", "Packets that the kernel dropped before their verdict, since a base chain was removed.", s.Flushed)
	m.Single("waymark_lb_queue_overruns_total", "counter", "Times that the kernel reported lost queue messages.", s.Overruns)
	if e.config.NetNS == 0 { // of another namespace only its threads could read them
		if text, err := os.ReadFile("/proc/self/net/netfilter/nfnetlink_queue"); err == nil {
			kernelQueueMetrics(&m, e.ownQueues(parseKernelQueues(string(text))))
		}
	}
	return m.text
}

// kernelQueue is what the kernel counts of a queue.
type kernelQueue struct {
	number     uint16
	waiting    uint64 // packets without a verdict
	tooLong    uint64 // packets dropped since the queue was full
	notWritten uint64 // packets dropped since the socket's buffer was
}

// parseKernelQueues reads net/netfilter/nfnetlink_queue.c's seq_show: queue,
// portid, waiting, copy mode, copy range, dropped by the queue, dropped by the
// socket, id, 1. Lines that are none are passed over.
func parseKernelQueues(text string) []kernelQueue {
	var out []kernelQueue
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 8 {
			continue
		}
		number, err1 := strconv.ParseUint(f[0], 10, 16)
		waiting, err2 := strconv.ParseUint(f[2], 10, 32)
		tooLong, err3 := strconv.ParseUint(f[5], 10, 32)
		notWritten, err4 := strconv.ParseUint(f[6], 10, 32)
		if err1 == nil && err2 == nil && err3 == nil && err4 == nil {
			out = append(out, kernelQueue{uint16(number), waiting, tooLong, notWritten})
		}
	}
	return out
}

func (e *Engine) ownQueues(queues []kernelQueue) []kernelQueue {
	var own []kernelQueue
	for _, q := range queues {
		if q.number >= e.config.First && q.number <= e.config.Last {
			own = append(own, q)
		}
	}
	return own
}

func kernelQueueMetrics(m *MetricsText, queues []kernelQueue) {
	m.Family("waymark_lb_queue_waiting", "gauge", "Packets that wait for a verdict.")
	for _, q := range queues {
		m.Sample("waymark_lb_queue_waiting", q.waiting, "queue", strconv.Itoa(int(q.number)))
	}
	m.Family("waymark_lb_queue_dropped_total", "counter", "Packets the kernel dropped because the queue or its socket was full.")
	for _, q := range queues {
		number := strconv.Itoa(int(q.number))
		m.Sample("waymark_lb_queue_dropped_total", q.tooLong, "queue", number, "full", "queue")
		m.Sample("waymark_lb_queue_dropped_total", q.notWritten, "queue", number, "full", "socket")
	}
}
