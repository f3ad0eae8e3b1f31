// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Recordings: of a lab once, and of the decoder's tests.
const (
	healthy    = "testdata/recordings/healthy-v4.pcapng"
	healthy6   = "testdata/recordings/healthy-v6.pcapng"
	noListener = "testdata/recordings/no-listener.pcapng"
	natService = "../../decoder/testdata/recording/format1-nat-service.pcapng"
	vipMissing = "../../decoder/testdata/recording/format1-vip-missing.pcapng"
	tunnelled  = "../../decoder/testdata/recording/format1-vxlan.pcapng"
)

// replayed are the ids of what replay prints.
func replayed(t *testing.T, args ...string) (ids []string, stderr string) {
	t.Helper()
	out, stderr, code := run0(t, append([]string{"replay", "-o", "json"}, args...)...)
	if code != exitOK {
		t.Errorf("replay %s: exit %d, %s", strings.Join(args, " "), code, stderr)
	}
	for _, j := range parseJourneys(t, []byte(out)) {
		ids = append(ids, j.ID)
	}
	return ids, stderr
}

// TestReplaySelects by what any packet of a journey was, and by what became of it.
func TestReplaySelects(t *testing.T) {
	for _, tt := range []struct {
		args string // flags and a file, between bars
		want []string
	}{
		// A request from 200.100.0.1 to 10.9.0.1:80 that becomes one from
		// 172.16.1.3 to 172.16.1.6:8080, and its answer.
		{natService, []string{"n1-1", "n1-2"}},
		{"--filter|host 10.9.0.1|" + natService, []string{"n1-1", "n1-2"}},
		{"--filter|tcp any 10.9.0.1:80|" + natService, []string{"n1-1", "n1-2"}},
		{"--filter|tcp any 10.9.0.1:80|--follow-reply=false|" + natService, []string{"n1-1"}},
		{"--filter|tcp any 172.16.1.6:8080|--follow-reply=false|" + natService, []string{"n1-1"}},
		{"--filter|tcp  172.16.1.3  172.16.1.6|--follow-reply=false|" + natService, []string{"n1-1"}},
		{"--filter|src host 10.9.0.1|--follow-reply=false|" + natService, []string{"n1-2"}},
		{"--filter|tcp[tcpflags] & tcp-syn != 0 and len < 100|" + natService, []string{"n1-1", "n1-2"}},
		{"--filter|udp|" + natService, nil},
		{"--filter||" + natService, []string{"n1-1", "n1-2"}},
		{"--filter|ip6|" + healthy + "|" + healthy6, []string{"vm~2-1024", "vm~2-2048"}},
		{"--only|dropped|" + healthy + "|" + noListener, []string{"vm~2-1024"}},
		{"--only|dropped,delivered|" + natService + "|" + noListener, []string{"n1-1", "n1-2", "vm-1024"}},
		{"--only|dropped|--only|delivered|--filter|src port 5000|--follow-reply=false|" + healthy + "|" + noListener, []string{"vm-1024"}},
		{"--only|incomplete|" + healthy, nil},
	} {
		if ids, _ := replayed(t, strings.Split(tt.args, "|")...); !slices.Equal(ids, tt.want) {
			t.Errorf("replay %s shows %v, want %v", tt.args, ids, tt.want)
		}
	}
	drops, _, _ := run0(t, "replay", "--drops", "--filter", "host 10.0.0.1", noListener, natService)
	if n := strings.Count(drops, "#vm-1024"); n != 1 || strings.Count(drops, "nf_queue") != 1 {
		t.Errorf("drops:\n%s", drops)
	}
	inside, _ := replayed(t, "--filter", "udp port 4789", tunnelled)
	if len(inside) == 0 {
		t.Error("no journey is found by the tunnel around it")
	}
}

// TestReplayMerges: what several recordings tell is what each tells, in the
// order of time; and what cannot be told apart is said.
func TestReplayMerges(t *testing.T) {
	first, _, _ := run0(t, "replay", natService)
	second, _, _ := run0(t, "replay", noListener)
	out, stderr, code := run0(t, "replay", noListener, natService)
	if code != exitOK || out != first+second || stderr != "" {
		t.Errorf("exit %d, %q:\n%s\nwant\n%s", code, stderr, out, first+second)
	}
	ids, stderr := replayed(t, natService, natService)
	if !slices.Equal(ids, []string{"n1-1", "n1~2-1", "n1-2", "n1~2-2"}) {
		t.Errorf("twice the same: %v", ids)
	}
	if want := natService + " and " + natService + " are of the same node, n1, and of the same time"; strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, want) {
		t.Errorf("of the same node at the same time: %q", stderr)
	}
	flows, _, _ := run0(t, "replay", "--flows", natService, noListener)
	if !strings.Contains(flows, "  on n1\n") || !strings.Contains(flows, "  on vm\n") {
		t.Errorf("flows do not say whose they are:\n%s", flows)
	}
}

// TestReplayIsPaced: it prints what it always prints, and what is due by then
// when it is interrupted.
func TestReplayIsPaced(t *testing.T) {
	want, _, _ := run0(t, "replay", healthy, noListener)
	if out, stderr, code := run0(t, "replay", "--speed", "1000000x", healthy, noListener); code != exitOK || out != want {
		t.Errorf("exit %d, %s:\n%s", code, stderr, out)
	}
	due, _, _ := run0(t, "replay", healthy)
	// Two seconds at a thousandth of the speed: nobody waits for the rest.
	if out := interrupted(t, due, "replay", "--speed", "0.001x", healthy, noListener); out != due {
		t.Errorf("interrupted, it printed\n%s\nwant\n%s", out, due)
	}
	drop, _, _ := run0(t, "replay", "--drops", vipMissing)
	drop, _, _ = strings.Cut(drop, "1 drop in ")
	if out := interrupted(t, drop, "replay", "--drops", "--speed", "1x", vipMissing, noListener); !strings.HasPrefix(out, drop+"1 drop in 0.") {
		t.Errorf("interrupted two hours before the second recording, it printed\n%s", out)
	}
}

// interrupted is what waymark prints in all if it is interrupted as soon as it
// has printed due.
func interrupted(t *testing.T, due string, args ...string) string {
	t.Helper()
	cmd := exec.Command(waymarkBin, args...)
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	var out strings.Builder
	for lines := bufio.NewReader(pipe); ; {
		line, err := lines.ReadString('\n')
		out.WriteString(line)
		if err != nil {
			break
		}
		if out.String() == due {
			if err := cmd.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("interrupted: %v", err)
	}
	return out.String()
}

// TestReplayExpects: a difference is a problem, printed as one reads it.
func TestReplayExpects(t *testing.T) {
	text, _, _ := run0(t, "replay", noListener)
	file := filepath.Join(t.TempDir(), "expected")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, stderr, code := run0(t, "replay", "--expect", file, noListener); code != exitOK || out+stderr != "" {
		t.Errorf("the same: exit %d, %q, %q", code, out, stderr)
	}
	if err := os.WriteFile(file, []byte(strings.Replace(text, "wm-meridio-lb/nsm-1             enters", "wm-meridio-lb/nsm-2             enters", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	out, stderr, code := run0(t, "replay", "--expect", file, noListener)
	if code != exitProblem || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, "first in line 3") ||
		!strings.Contains(out, "-     18.1µs  wm-meridio-lb/nsm-2             enters\n+     18.1µs  wm-meridio-lb/nsm-1             enters\n") {
		t.Errorf("exit %d, %q\n%s", code, stderr, out)
	}
}
