// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"waymark/decoder"
	"waymark/decoder/pcapng"
)

// Recordings that are stored.
const (
	storedHealthy4   = "testdata/recordings/healthy-v4.pcapng"
	storedHealthy6   = "testdata/recordings/healthy-v6.pcapng"
	storedNoListener = "testdata/recordings/no-listener.pcapng"
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

// TestWiresharkFilters: which packets a filter finds in two annotated recordings
// that mergecap has put together.
func TestWiresharkFilters(t *testing.T) {
	needTshark(t)
	file := filepath.Join(t.TempDir(), "merged.pcapng")
	if out, err := exec.Command("mergecap", "-w", file, annotatedOf(t, storedHealthy6), annotatedOf(t, storedNoListener)).CombinedOutput(); err != nil {
		t.Fatalf("mergecap: %v\n%s", err, out)
	}
	for filter, packets := range map[string]int{
		`waymark.journey && tcp.flags == 2 && ipv6`:        6,
		`waymark.trail == frame.packet_id && waymark.hop`:  -1, // all
		`waymark.mark == 0x13b8 && waymark.journey`:        1,
		`waymark.number == 1`:                              3,
		`waymark.rule == 32765`:                            1,
		`waymark.flow contains "stream-a" && waymark.said`: 1,
		`waymark.outcome == "delivered"`:                   14,
		`waymark.outcome == "dropped"`:                     3,
		`waymark.because contains "nobody listens"`:        1,
		`waymark.advice && waymark.at matches "^nf_queue"`: 1,
	} {
		if packets < 0 {
			packets = strings.Count(tsharkFields(t, file, "-e", "frame.number", "-Y", "frame.packet_id"), "\n")
		}
		if got := strings.Count(tsharkFields(t, file, "-e", "frame.number", "-Y", filter), "\n"); got != packets {
			t.Errorf("%s finds %d packets, want %d", filter, got, packets)
		}
	}
}

// TestWiresharkOddComments: the script says nothing of what it does not know, and
// has no error of its own.
func TestWiresharkOddComments(t *testing.T) {
	needTshark(t)
	file := filepath.Join(t.TempDir(), "odd.pcapng")
	out, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	w := pcapng.NewWriter(out, 0)
	err = w.Section(&pcapng.Section{Application: "waymark"})
	_, ifErr := w.Interface(&pcapng.Interface{LinkType: pcapng.LinkEthernet, Name: "lb/%d(%s)", TSResol: pcapng.NanoResolution})
	if err := errors.Join(err, ifErr); err != nil {
		t.Fatal(err)
	}
	for _, comments := range [][]string{
		{},
		{"somebody's own"},
		{"ingress lb/%d(%s)"},
		{"ingress lb/%d(%s), mark 0xfffffffff (1)"},
		{"egress lb/%d(%s), mark 0x10 (16)", "journey ", "journey x", "journey x, hop 99999999999 of 1: ", "because ", "advice: ", "note: ", ""},
		{"dropped at : , lb/%d(%s)", "balancer: flow a, target 99999999999", "route: ", "route: rule 99999999999 → table → via ", "\xff\xfe%s%n"},
	} {
		p := pcapng.Packet{Data: make([]byte, 60), OrigLen: 60}
		for _, c := range comments {
			p.Comments = append(p.Comments, []byte(c))
		}
		if err := w.Packet(&p); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	got := tsharkFields(t, file, "-E", "separator=|", "-e", "_ws.lua.error", "-e", "waymark.hop", "-e", "waymark.mark")
	want := "||\n||\n|ingress lb/%d(%s)|0x00000000\n|ingress lb/%d(%s)|\n|egress lb/%d(%s)|0x00000010\n|dropped at : , lb/%d(%s)|\n"
	if got != want {
		t.Errorf("tshark shows\n%s\nwant\n%s", got, want)
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
