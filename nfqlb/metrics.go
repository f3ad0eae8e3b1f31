// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Counters as Prometheus text (exposition format 0.0.4). The labels are names
// from the configuration, never from packets, and there are no more series
// than the limits below; what is above them is summed under "(others)".

const (
	maxMetricFlows   = 1000
	maxMetricTargets = 5000 // places that had packets, of all tables

	// OtherSeries is the label of what is above a limit; no flow or table can be
	// called that.
	OtherSeries = "(others)"
)

// MetricsText is Prometheus text that grows.
type MetricsText struct{ text []byte }

// Bytes is the text so far.
func (m *MetricsText) Bytes() []byte { return m.text }

// Family starts the samples of one name; kind is counter or gauge.
func (m *MetricsText) Family(name, kind, help string) {
	m.text = append(m.text, "# HELP "+name+" "+help+"\n# TYPE "+name+" "+kind+"\n"...)
}

var labelEscapes = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)

// Sample is one value; labels are names and values in turn.
func (m *MetricsText) Sample(name string, value uint64, labels ...string) {
	m.text = append(m.text, name...)
	for i := 0; i < len(labels); i += 2 {
		separator := byte(',')
		if i == 0 {
			separator = '{'
		}
		m.text = append(m.text, separator)
		m.text = append(m.text, labels[i]+`="`+labelEscapes.Replace(labels[i+1])+`"`...)
	}
	if len(labels) > 0 {
		m.text = append(m.text, '}')
	}
	m.text = append(m.text, ' ')
	m.text = append(strconv.AppendUint(m.text, value, 10), '\n')
}

// Single is a family with one sample.
func (m *MetricsText) Single(name, kind, help string, value uint64) {
	m.Family(name, kind, help)
	m.Sample(name, value)
}

// Metrics are the balancer's counters as Prometheus text.
func (b *Balancer) Metrics() []byte {
	b.foldFast()
	var m MetricsText
	m.Family("waymark_lb_packets_total", "counter", "Packets by what was decided; placed got a target.")
	for i := range b.counts {
		m.Sample("waymark_lb_packets_total", b.counts[i].Load(), "reason", Reason(i).label())
	}
	b.flowMetrics(&m)
	b.targetMetrics(&m)
	m.Single("waymark_lb_trace_dropped_total", "counter", "Trace messages that slow trace clients did not get.", b.trace.dropped.Load())
	if s := b.FragStats(); s != nil {
		m.Single("waymark_lb_fragment_packets", "gauge", "Fragmented packets in the fragment table.", uint64(s.Active))
		m.Single("waymark_lb_fragment_inserts_total", "counter", "Fragmented packets entered in the fragment table.", uint64(s.Inserts))
		m.Single("waymark_lb_fragment_rejected_total", "counter", "Fragmented packets for which the fragment table had no room.", uint64(s.RejectedInserts))
		m.Single("waymark_lb_fragment_stored_total", "counter", "Later fragments kept until their first one came.", uint64(s.FragsAllocated))
		m.Single("waymark_lb_fragment_discarded_total", "counter", "Later fragments that were kept for nothing.", uint64(s.FragsDiscarded))
	}
	return m.text
}

// label is the reason as a label value.
func (r Reason) label() string {
	if r == Decided {
		return "placed"
	}
	return joined(r.String())
}

// joined is text as a label value: its words joined.
func joined(text string) string {
	words := strings.FieldsFunc(text, func(c rune) bool {
		return !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9')
	})
	return strings.ToLower(strings.Join(words, "_"))
}

func (b *Balancer) flowMetrics(m *MetricsText) {
	flows := slices.DeleteFunc(b.Flows(""), func(f FlowStatus) bool { return f.Name[0] == '#' })
	m.Single("waymark_lb_flows", "gauge", "Flows that are set.", uint64(len(flows)))
	m.Family("waymark_lb_flow_packets_total", "counter", "Packets that matched a flow.")
	var others uint64
	for i, f := range flows {
		if i >= maxMetricFlows {
			others += f.MatchesCount
			continue
		}
		m.Sample("waymark_lb_flow_packets_total", f.MatchesCount, "flow", f.Name)
	}
	if len(flows) > maxMetricFlows {
		m.Sample("waymark_lb_flow_packets_total", others, "flow", OtherSeries)
	}
}

func (b *Balancer) targetMetrics(m *MetricsText) {
	hits := b.Stats().Targets
	names := slices.Sorted(maps.Keys(hits))
	active := b.activeTargets()
	m.Family("waymark_lb_targets_active", "gauge", "Active targets of a table that flows use.")
	for i, name := range names {
		if i < maxMetricFlows {
			m.Sample("waymark_lb_targets_active", uint64(active[name]), "table", name)
		}
	}
	m.Family("waymark_lb_target_packets_total", "counter", "Packets placed on a target, by its table and its index there.")
	var others uint64
	series := 0
	for _, name := range names {
		for _, index := range slices.Sorted(maps.Keys(hits[name])) {
			if series++; series > maxMetricTargets {
				others += hits[name][index]
				continue
			}
			m.Sample("waymark_lb_target_packets_total", hits[name][index], "table", name, "index", strconv.Itoa(index))
		}
	}
	if series > maxMetricTargets {
		m.Sample("waymark_lb_target_packets_total", others, "table", OtherSeries, "index", "")
	}
}

// activeTargets is how many targets each table in use has.
func (b *Balancer) activeTargets() map[string]int {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make(map[string]int)
	for name, t := range b.targets {
		for _, mark := range t.Table().active {
			if mark >= 0 {
				out[name]++
			}
		}
	}
	return out
}
