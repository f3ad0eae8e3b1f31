// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"waymark/decoder"
	"waymark/scenarios"
)

// TestBudget runs on the host: in a machine tracer's tests detach every group and
// attach it again.
func TestBudget(t *testing.T) {
	if testing.Short() {
		t.Skip("short: this runs on the host")
	}
	w := labUpFor(t)
	t.Run("not reached", func(t *testing.T) { checkNothingLeftOut(t, w) })
	t.Run("exceeded", func(t *testing.T) { checkLeftOut(t, w) })
}

// checkLeftOut: over its budget a trace leaves out groups and flows, and says so
// in the log, in the stream and in the recording; the traffic goes on, and what
// is followed is followed whole.
func checkLeftOut(t *testing.T, w *scenarios.World) {
	file := filepath.Join(t.TempDir(), "budget.pcapng")
	args := append([]string{"trace", "-o", "json", "-w", file, "--hooks", "device,drop,free", "--budget", "0.01%"}, netnsFlags(w)...)
	tr := start(t, append(args, "tcp", "any", "10.0.0.1:5000")...)
	sampled, stop := context.WithCancel(t.Context())
	ended := make(chan scenarios.Summary, 1)
	go func() {
		var sum scenarios.Summary
		for sampled.Err() == nil {
			s, err := w.Send(t.Context(), scenarios.Traffic{Connections: 5, Rate: 25, Timeout: time.Minute}, nil)
			if err != nil {
				t.Error(err)
				break
			}
			sum.Sent, sum.Answered = sum.Sent+s.Sent, sum.Answered+s.Answered
		}
		ended <- sum
	}()
	tr.await(t, "flows is followed")
	stop()
	sum := <-ended
	if sum.Answered != sum.Sent {
		t.Errorf("%d of %d connections were answered", sum.Answered, sum.Sent)
	}
	// The mask is set now: these are sampled from their first packet on.
	var ports []uint16
	if _, err := w.Send(t.Context(), scenarios.Traffic{Connections: 60, Timeout: time.Minute}, func(x scenarios.Exchange) {
		ports = append(ports, x.Local.Port())
	}); err != nil {
		t.Fatal(err)
	}
	awaitClosed(t, w)
	out := tr.stop(t)
	statuses := parseStatuses(t, out)
	if len(statuses) < 2 {
		t.Fatalf("%d statuses: want one of each change, and one at the end", len(statuses))
	}
	last := statuses[len(statuses)-1]
	if last.Budget != 0.01 || last.OneIn < 2 || last.SampledOut == 0 || last.CostPct == 0 {
		t.Errorf("the last status is %+v", last)
	}
	all := parseJourneys(t, out)
	ways := map[uint16]int{} // of the connections made when the mask was set: 1 there, 2 back
	torn := 0
	for _, j := range all {
		if !j.Complete {
			torn++
			if len(j.Notes) == 0 {
				t.Errorf("%s is not complete and does not say why", j.ID)
			}
		}
		port, way := j.Packet.SPort, 1
		if port == 5000 {
			port, way = j.Packet.DPort, 2
		}
		if slices.Contains(ports, port) {
			ways[port] |= way
		}
	}
	half := 0
	for _, seen := range ways {
		if seen != 3 {
			half++
		}
	}
	if half > 1+len(ways)/4 { // fewer flows may be followed while one goes on
		t.Errorf("of %d connections %d are seen in one direction only", len(ways), half)
	}
	t.Logf("%d connections, then %d of %d followed; %+v", sum.Sent, len(ways), len(ports), last)
	if len(ways) > 2*len(ports)/3 {
		t.Errorf("%d of %d connections were followed, want at most about half", len(ways), len(ports))
	}
	if shed := slices.ContainsFunc(statuses, func(s decoder.Status) bool { return len(s.Shed) > 0 }); shed && torn == 0 {
		t.Error("hooks were detached, and every journey is called complete")
	}
	replayed, stderr, code := run0(t, "replay", "-o", "json", file)
	if code != 0 || replayed != string(out) {
		t.Errorf("replay (exit %d, %s) prints other than live did: %d bytes, %d", code, stderr, len(replayed), len(out))
	}
	if text, _, _ := run0(t, "replay", file); !strings.Contains(text, "budget 0.01%") || !strings.Contains(text, "sampled out") {
		t.Error("text does not tell of the budget")
	}
}

// checkNothingLeftOut: within its budget a trace is one without it.
func checkNothingLeftOut(t *testing.T, w *scenarios.World) {
	tr := start(t, append([]string{"trace", "-o", "json", "--hooks", "device,drop,free", "--budget", "100%"}, append(netnsFlags(w), "tcp", "any", "10.0.0.1:5000")...)...)
	const connections = 20
	sum, err := w.Send(t.Context(), scenarios.Traffic{Connections: connections, Timeout: time.Minute}, nil)
	if err != nil || sum.Answered != connections {
		t.Fatalf("%+v: %v", sum, err)
	}
	awaitClosed(t, w)
	out := tr.stop(t)
	if n := len(parseStatuses(t, out)); n != 0 || strings.Contains(tr.stderr.String(), "budget") {
		t.Errorf("%d statuses; stderr:\n%s", n, tr.stderr.String())
	}
	if n := len(parseJourneys(t, out)); n < 8*connections {
		t.Errorf("%d journeys of %d connections", n, connections)
	}
}

func parseStatuses(t *testing.T, out []byte) (all []decoder.Status) {
	t.Helper()
	for line := range bytes.Lines(out) {
		if !bytes.HasPrefix(line, []byte(`{"type":"status"`)) {
			continue
		}
		var s decoder.Status
		if err := json.Unmarshal(line, &s); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		all = append(all, s)
	}
	return all
}

func TestParseBudget(t *testing.T) {
	for s, want := range map[string]float64{
		"": 0, "2%": 2, "0.5%": .5, "100%": 100,
		"2": -1, "%": -1, "0%": -1, "-1%": -1, "100.1%": -1, "nan%": -1, "inf%": -1, "2 %": -1, "2%%": -1,
	} {
		got, err := parseBudget(s)
		if err != nil {
			got = -1
			if !strings.Contains(err.Error(), "--budget "+s) {
				t.Errorf("%q: %v", s, err)
			}
		}
		if math.Abs(got-want) > 1e-12 {
			t.Errorf("parseBudget(%q) = %v, want %v", s, got, want)
		}
	}
}

func FuzzParseBudget(f *testing.F) {
	f.Add("2%")
	f.Fuzz(func(t *testing.T, s string) {
		if got, err := parseBudget(s); err == nil && s != "" && !(got > 0 && got <= 100) {
			t.Errorf("parseBudget(%q) = %v", s, got)
		}
	})
}
