// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var sampleSyntax = regexp.MustCompile(`^([a-z_:][a-z0-9_:]*)((?:\{[a-z_]+="(?:[^"\\]|\\[\\n"])*"(?:,[a-z_]+="(?:[^"\\]|\\[\\n"])*")*\})?) ([0-9]+)$`)

// scrape reads Prometheus text as a scraper would: every sample belongs to the
// family announced before it, and none comes twice.
func scrape(t testing.TB, text string) map[string]uint64 {
	t.Helper()
	samples := make(map[string]uint64)
	families := make(map[string]bool)
	family := ""
	if !strings.HasSuffix(text, "\n") {
		t.Fatal("the text does not end with a line feed")
	}
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			name, kind, _ := strings.Cut(rest, " ")
			if families[name] || kind != "counter" && kind != "gauge" || (kind == "counter") != strings.HasSuffix(name, "_total") {
				t.Fatalf("%q", line)
			}
			families[name], family = true, name
			continue
		}
		if strings.HasPrefix(line, "# HELP ") {
			continue
		}
		s := sampleSyntax.FindStringSubmatch(line)
		if s == nil || s[1] != family {
			t.Fatalf("%q is no sample of %s", line, family)
		}
		value, err := strconv.ParseUint(s[3], 10, 64)
		if _, twice := samples[s[1]+s[2]]; err != nil || twice {
			t.Fatalf("%q: twice, or %v", line, err)
		}
		samples[s[1]+s[2]] = value
	}
	return samples
}

func TestMetrics(t *testing.T) {
	b := meridio(t, Config{}, 57, 66)
	var p Packet
	for sport := range uint16(100) {
		b.Decide(wire(ipv4(src4, vip4, protoTCP, 1, 0, ports(1000+sport, 5000))), &p)
	}
	b.Decide(wire(ipv4(src4, vip4, protoTCP, 1, 0, ports(1, 9))), &p)
	b.Decide([]byte{0x45}, &p)
	if err := b.SetFlow(FlowSpec{Name: "s", Target: "a\"b\\c\nd", Protocols: []string{"sctp"}, UDPEncap: 9899}); err != nil {
		t.Fatal(err)
	}
	got := scrape(t, string(b.Metrics()))
	for name, want := range map[string]uint64{
		`waymark_lb_packets_total{reason="placed"}`:                  100,
		`waymark_lb_packets_total{reason="no_flow_matches"}`:         1,
		`waymark_lb_packets_total{reason="packet_cannot_be_read"}`:   1,
		`waymark_lb_packets_total{reason="no_active_target"}`:        0,
		`waymark_lb_flow_packets_total{flow="tshm-stream-a-flow-a"}`: 100,
		`waymark_lb_flow_packets_total{flow="s"}`:                    0,
		`waymark_lb_flows`: 2,
		`waymark_lb_targets_active{table="tshm-stream-a"}`:                2,
		`waymark_lb_targets_active{table="a\"b\\c\nd"}`:                   2,
		`waymark_lb_trace_dropped_total`:                                  0,
		`waymark_lb_target_packets_total{table="tshm-stream-a",index=""}`: 0, // nothing above the limit
	} {
		if got[name] != want {
			t.Errorf("%s is %d, want %d", name, got[name], want)
		}
	}
	const one = `waymark_lb_target_packets_total{table="tshm-stream-a",index="57"}`
	const two = `waymark_lb_target_packets_total{table="tshm-stream-a",index="66"}`
	if got[one] == 0 || got[two] == 0 || got[one]+got[two] != 100 {
		t.Errorf("targets got %d and %d of 100", got[one], got[two])
	}
}

// However much is configured, the number of series is bounded and the sum is
// right.
func TestMetricsAreBounded(t *testing.T) {
	list := make([]*flow, 3*maxMetricFlows)
	for i := range list {
		f, err := compileFlow(FlowSpec{Name: fmt.Sprint("f", i)})
		if err != nil {
			t.Fatal(err)
		}
		f.matches.Add(1)
		list[i] = f
	}
	b := NewBalancer(Config{}, nil)
	b.state.Store(newState(Config{}, list))
	got := scrape(t, string(b.Metrics()))
	series, sum := 0, uint64(0)
	for name, value := range got {
		if strings.HasPrefix(name, "waymark_lb_flow_packets_total") {
			series++
			sum += value
		}
	}
	if series != maxMetricFlows+1 || sum != uint64(len(list)) {
		t.Errorf("%d series with the sum %d", series, sum)
	}
}

func TestReasonLabelsDiffer(t *testing.T) {
	seen := make(map[string]bool)
	for i := range reasons {
		label := Reason(i).label()
		if label == "" || strings.HasPrefix(label, "reason_") || seen[label] {
			t.Errorf("reason %d has the label %q", i, label)
		}
		seen[label] = true
	}
}
