// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"strings"
	"testing"
)

// TestReinject sends recorded packets again through a lab that works: those that
// went through go the same way, and what was lost is not any more.
func TestReinject(t *testing.T) {
	if testing.Short() {
		t.Skip("short: what is compared is not the kernel's affair, this runs on the host")
	}
	w := labUpFor(t)
	for _, tt := range []struct {
		scenario string
		code     int
		says     []string
	}{
		{"meridio/healthy-v4", exitOK, []string{
			"same     tcp 200.100.0.1:", " S len 60: delivered\n", "same     tcp 10.0.0.1:5000 → ", " S. len 60 (answer): back at the sender\n",
		}},
		{"meridio/healthy-v6", exitOK, []string{"same     tcp [200:100::1]:", " (answer): back at the sender\n"}},
		{"meridio/rp-filter", exitProblem, []string{
			"same     tcp 200.100.0.1:", "(answer): dropped before, back at the sender now\n",
			"  - wm-meridio-lb/load-balan-274a   dropped: IP_RPFILTER\n  + wm-meridio-lb/nsm-1             leaves\n",
		}},
		{"meridio/stale-neighbour", exitProblem, []string{": dropped before, delivered now\n", "(answer): not seen before, back at the sender now\n"}},
	} {
		t.Run(tt.scenario, func(t *testing.T) {
			out, stderr, code := run0(t, "replay", "--reinject", tt.scenario)
			if code != tt.code || code == exitOK && strings.Contains(out, "differs") {
				t.Errorf("exit %d, want %d: %s\n%s", code, tt.code, stderr, out)
			}
			for _, s := range tt.says {
				if !strings.Contains(out, s) {
					t.Errorf("it does not say %q:\n%s", s, out)
				}
			}
		})
	}
	t.Run("a fault that is new", func(t *testing.T) {
		if err := w.Fault(ctxBackground, "no-listener"); err != nil {
			t.Fatal(err)
		}
		out, _, code := run0(t, "replay", "--reinject", "meridio/healthy-v4")
		if code != exitProblem || !strings.Contains(out, ": delivered before, dropped now\n") || !strings.Contains(out, "advice: start the balancer") ||
			!strings.Contains(out, "(answer): back at the sender before, not seen now\n") {
			t.Errorf("exit %d:\n%s", code, out)
		}
	})
}

// TestReinjectIsRefused where there is no lab, or nothing to send.
func TestReinjectIsRefused(t *testing.T) {
	needRoot(t)
	for _, tt := range []struct{ args, says string }{
		{"cbr0/healthy-pod-v4", "`waymark lab up cbr0`"},
		{natService, "no packet of it can be sent again: only 1 answers, 1 whose sender was not traced"},
		{"meridio/healthy-v4|--filter|udp", "no packet of it can be sent again\n"},
		{healthy + "|" + noListener, "--reinject takes one recording"},
		{healthy + "|-o|json", "leave out --output"},
	} {
		out, stderr, code := run0(t, append([]string{"replay", "--reinject"}, strings.Split(tt.args, "|")...)...)
		if code != exitUsage || out != "" || !strings.Contains(stderr, tt.says) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%s: exit %d, %q, %q; want %q", tt.args, code, out, stderr, tt.says)
		}
	}
}
