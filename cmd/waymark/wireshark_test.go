// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"waymark/decoder"
)

// Recordings that are stored.
const (
	storedHealthy4   = "../../scenarios/meridio/healthy-v4.pcapng"
	storedHealthy6   = "../../scenarios/meridio/healthy-v6.pcapng"
	storedNoListener = "../../scenarios/meridio/no-listener.pcapng"
)

// tsharkFields runs tshark with waymark's script on a file.
func tsharkFields(t *testing.T, file string, args ...string) string {
	t.Helper()
	script := filepath.Join(t.TempDir(), "waymark.lua")
	if err := os.WriteFile(script, []byte(decoder.WiresharkLua), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("tshark", append([]string{"-X", "lua_script:" + script, "-r", file, "-T", "fields"}, args...)...)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	err := cmd.Run()
	said := strings.Replace(stderr.String(), `Running as user "root" and group "root". This could be dangerous.`, "", 1)
	if strings.TrimSpace(said) != "" || err != nil {
		t.Fatalf("tshark %s: %v: %s", strings.Join(args, " "), err, said)
	}
	return out.String()
}

// annotatedOf is the annotated copy of a stored recording.
func annotatedOf(t *testing.T, recording string) string {
	t.Helper()
	copied := filepath.Join(t.TempDir(), filepath.Base(recording))
	if _, stderr, code := run0(t, "export", "--annotate", copied, recording); code != exitOK || stderr != "" {
		t.Fatalf("%s: exit %d, %s", recording, code, stderr)
	}
	return copied
}

// TestWiresharkFields: the columns that docs/output.md shows.
func TestWiresharkFields(t *testing.T) {
	needTshark(t)
	columns := []string{"-E", "separator=|"}
	for _, c := range []string{"journey", "number", "hop", "mark", "target", "rule", "table", "nexthop", "outcome", "reason"} {
		columns = append(columns, "-e", "waymark."+c)
	}
	for _, tt := range []struct{ file, filter, want string }{
		{annotatedOf(t, storedNoListener), "waymark.journey", `vm-1024|1|egress wm-meridio-gw/ext0|0x00000000|||||dropped|NOT_SPECIFIED
vm-1024|2|ingress wm-meridio-lb/nsm-1|0x00000000|||||dropped|NOT_SPECIFIED
vm-1024|3|dropped at nf_queue+0x21f: NOT_SPECIFIED, wm-meridio-lb/nsm-1||||||dropped|NOT_SPECIFIED
`},
		{annotatedOf(t, storedHealthy4), "waymark.target == 47", `vm-1025|5|egress wm-meridio-lb/load-balan-274a|0x000013b8|47|99|5048|172.16.1.6|delivered|
`},
		// As it was recorded, journeys are not known, but marks and reasons are.
		{storedNoListener, "waymark.reason", "||dropped at nf_queue+0x21f: NOT_SPECIFIED, wm-meridio-lb/nsm-1|||||||NOT_SPECIFIED\n"},
		{storedHealthy4, "waymark.mark == 5048 && frame.number < 10", "||egress wm-meridio-lb/load-balan-274a|0x000013b8||||||\n"},
	} {
		if got := tsharkFields(t, tt.file, append(columns, "-Y", tt.filter)...); got != tt.want {
			t.Errorf("%s, %s: tshark shows\n%s\nwant\n%s", filepath.Base(tt.file), tt.filter, got, tt.want)
		}
	}
}

// TestWiresharkFilters: which packets of the first connection a filter finds.
func TestWiresharkFilters(t *testing.T) {
	needTshark(t)
	file := annotatedOf(t, storedHealthy6)
	dropped := annotatedOf(t, storedNoListener)
	for _, tt := range []struct {
		file, filter string
		packets      int
	}{
		{file, `waymark.journey && tcp.flags == 2`, 6},
		{file, `waymark.trail == frame.packet_id && waymark.journey`, 14},
		{file, `waymark.mark == 0x13b8 && waymark.journey`, 1},
		{file, `waymark.mark > 5000 && waymark.journey`, 1},
		{file, `waymark.number == 1`, 2},
		{file, `waymark.rule == 32765`, 1},
		{file, `waymark.flow contains "stream-a"`, 1},
		{file, `waymark.hop contains "nsm-1" && waymark.journey`, 2},
		{file, `waymark.outcome == "delivered"`, 14},
		{file, `waymark.outcome == "dropped"`, 0},
		{dropped, `waymark.outcome == "dropped"`, 3},
		{dropped, `waymark.because contains "nobody listens"`, 1},
		{dropped, `waymark.advice`, 1},
		{dropped, `waymark.at matches "^nf_queue"`, 3},
	} {
		if got := strings.Count(tsharkFields(t, tt.file, "-e", "frame.number", "-Y", tt.filter), "\n"); got != tt.packets {
			t.Errorf("%s finds %d packets, want %d", tt.filter, got, tt.packets)
		}
	}
}

// TestAnnotatedReplays: as what it was made of, and again annotated is the same.
func TestAnnotatedReplays(t *testing.T) {
	for _, recording := range []string{storedHealthy4, storedNoListener} {
		copied := annotatedOf(t, recording)
		want, _, _ := run0(t, "replay", "-o", "json", recording)
		if got, stderr, code := run0(t, "replay", "-o", "json", copied); got != want || stderr != "" || code != exitOK {
			t.Errorf("%s: replays with exit %d, %s\n%s", recording, code, stderr, got)
		}
		once, err := os.ReadFile(copied)
		if err != nil {
			t.Fatal(err)
		}
		if twice, err := os.ReadFile(annotatedOf(t, copied)); err != nil || !bytes.Equal(once, twice) {
			t.Errorf("%s: annotated again it differs: %v", recording, err)
		}
	}
}

// TestExportFlows: one file for each flow, which tshark reads; a filter chooses.
func TestExportFlows(t *testing.T) {
	for _, tt := range []struct {
		format, filter, says string
	}{
		{"pcapng", "", "14 packets in 1 files"},
		{"pcap", "tcp any 10.0.0.1:5000", "14 packets in 1 files"},
		{"pcap", "udp", "0 packets in 0 files"},
	} {
		dir := t.TempDir()
		stdout, stderr, code := run0(t, "export", "--by", "flow", "--format", tt.format, "--filter", tt.filter, "--dir", dir, storedHealthy4)
		if code != exitOK || stderr != "" || !strings.HasPrefix(stdout, tt.says) {
			t.Errorf("exit %d, %s%s", code, stdout, stderr)
		}
		files, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil {
			t.Fatal(err)
		}
		if tt.filter == "udp" {
			continue
		}
		if len(files) != 1 || filepath.Base(files[0]) != "tcp-200.100.0.1-58870-10.0.0.1-5000."+tt.format {
			t.Fatalf("files %q", files)
		}
		if testing.Short() {
			continue
		}
		needTshark(t)
		if got := tsharkFields(t, files[0], "-e", "tcp.stream", "-Y", "tcp.port == 58870"); strings.Count(got, "0\n") != 14 {
			t.Errorf("tshark shows %q", got)
		}
	}
}
