// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"waymark/decoder"
	"waymark/scenarios"
)

func TestParseRotate(t *testing.T) {
	for s, want := range map[string]int64{
		"": 0, "64K": 64 << 10, "65536": 64 << 10, "100MB": 100 << 20, "100M": 100 << 20, "1G": 1 << 30, "2GB": 2 << 30,
	} {
		if got, err := parseRotate(s); err != nil || got != want {
			t.Errorf("%q: %v, %v; want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"0", "-1M", "63K", "M", "1T", "1.5G", "100 MB", "9999999999G", "B"} {
		if got, err := parseRotate(s); err == nil {
			t.Errorf("%q was read as %v", s, got)
		}
	}
}

func FuzzParseRotate(f *testing.F) {
	for _, s := range []string{"100MB", "64K", "9223372036854775807G", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := parseRotate(s); err == nil && s != "" && n < rotateMin {
			t.Errorf("%q was read as %v", s, n)
		}
	})
}

func TestProgress(t *testing.T) {
	var out bytes.Buffer
	some := recorded{packets: 1000, records: 3000, bytes: 1300 << 10, lost: 7}
	more := recorded{packets: 3000, records: 9000, bytes: 3 << 30, lost: 7, untracked: 2, files: 3}
	p := newProgress(&out, false)
	p.tell(some, 10*time.Second)
	p.tell(more, 20*time.Second)
	p.end(more, 20*time.Second, "interrupted", "x.pcapng")
	want := `waymark: 1000 packets (100/s), 3000 records, 1.3 MiB, lost 7
waymark: 3000 packets (200/s), 9000 records, 3.0 GiB in 3 files, lost 7, not followed 2 packets
waymark: interrupted: recorded 3000 packets (150/s), 9000 records, 3.0 GiB in 3 files, lost 7, not followed 2 packets in 20s to x.pcapng
`
	if out.String() != want || p.every != 10*time.Second {
		t.Errorf("every %s\n%s\nwant\n%s", p.every, out.String(), want)
	}
	out.Reset()
	p = newProgress(&out, true)
	p.tell(more, time.Second)
	p.tell(some, 2*time.Second)
	p.end(some, 2*time.Second, "", "x.pcapng")
	lines := strings.Split(out.String(), "\r")
	if len(lines) != 5 || len(lines[1]) != len(lines[2]) || strings.Trim(lines[3], " ") != "" || !strings.HasPrefix(lines[4], "waymark: recorded 1000 packets (500/s)") || p.every != time.Second {
		t.Errorf("on a terminal %q, every %s", lines, p.every)
	}
}

// items are what a recording has: contexts, and raw records as []byte.
type items []any

func (s *items) Record(raw []byte) error          { *s = append(*s, bytes.Clone(raw)); return nil }
func (s *items) Context(c *decoder.Context) error { *s = append(*s, c); return nil }

func (s items) feed(sink decoder.Sink) error {
	for _, item := range s {
		var err error
		switch item := item.(type) {
		case []byte:
			err = sink.Record(item)
		case *decoder.Context:
			err = sink.Context(item)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// itemsOf reads a recording.
func itemsOf(t *testing.T, file string) items {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var s items
	if _, err := decoder.Replay(f, &s); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return s
}

// inRing records s in files of size bytes.
func inRing(t *testing.T, s items, path string, keep int) []string {
	t.Helper()
	rec, err := openRecording(path, recordingOptions{payload: decoder.PayloadFull, rotate: 8000, keep: keep})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(rec.begin(), s.feed(rec), rec.close()); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(strings.TrimSuffix(path, ".pcapng") + "-*")
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestRingOfFiles: parts of one recording replay as it did, in whatever order they
// are given, and each alone; a ring has no more files than it may.
func TestRingOfFiles(t *testing.T) {
	if testing.Short() {
		t.Skip("short: no kernel has part in this, it runs on the host")
	}
	s := itemsOf(t, healthy)
	dir := t.TempDir()
	parts := inRing(t, s, filepath.Join(dir, "all.pcapng"), 0)
	if len(parts) < 3 || filepath.Base(parts[0]) != "all-00001.pcapng" {
		t.Fatalf("files %v", parts)
	}
	want, _, _ := run0(t, "replay", healthy)
	slices.Reverse(parts)
	if got, stderr, code := run0(t, append([]string{"replay"}, parts...)...); code != 0 || got != want || stderr != "" {
		t.Errorf("the parts tell (exit %d, %s)\n%s\nthe whole told\n%s", code, stderr, got, want)
	}
	for _, part := range parts {
		if _, stderr, code := run0(t, "replay", part); code != 0 || stderr != "" {
			t.Errorf("%s alone: exit %d, %s", part, code, stderr)
		}
	}
	missing := append(slices.Clone(parts[:1]), parts[2:]...)
	if got, stderr, code := run0(t, append([]string{"replay"}, missing...)...); code != 0 || got == "" || !strings.Contains(stderr, "1 files of the recording are missing") {
		t.Errorf("with a part missing: exit %d, %s", code, stderr)
	}
	last := parts[0]
	content, err := os.ReadFile(last)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(last, content[:len(content)-7], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, stderr, code := run0(t, append([]string{"replay"}, parts...)...); code != 0 || !strings.Contains(stderr, last+" is cut off at byte") {
		t.Errorf("the last part cut off: exit %d, %s", code, stderr)
	}

	most := 0
	ring := filepath.Join(dir, "ring.pcapng")
	for range 2 { // the second one goes on behind the first
		files := inRing(t, s, ring, 3)
		most = max(most, len(files))
	}
	files := inRing(t, s, ring, 3)
	if n := len(parts); most != 3 || len(files) != 3 || filepath.Base(files[2]) != fmt.Sprintf("ring-%05d.pcapng", 3*n) {
		t.Errorf("%d files at most, in the end %v of %d", most, files, 3*n)
	}
	if out, stderr, code := run0(t, append([]string{"replay"}, files...)...); code != 0 || out == "" || stderr != "" {
		t.Errorf("the ring's: exit %d, %s", code, stderr)
	}
}

// What mergecap took away is told.
func TestReplayWithoutSession(t *testing.T) {
	out, stderr, code := run0(t, "replay", "../../decoder/testdata/foreign/mergecap-with-recording.pcapng")
	if code != 0 || !strings.Contains(out, "tcp 200.100.0.1:40000 → 10.0.0.1:5000") || !strings.Contains(stderr, "has lost who recorded it and when") {
		t.Errorf("exit %d, %s\n%s", code, stderr, out)
	}
}

// A ring that cannot begin leaves what was there.
func TestAbandonedRing(t *testing.T) {
	dir := t.TempDir()
	old := filepath.Join(dir, "x-00007.pcapng")
	if err := os.WriteFile(old, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	rec, err := openRecording(filepath.Join(dir, "x.pcapng"), recordingOptions{rotate: 4000, keep: 1})
	if err != nil {
		t.Fatal(err)
	}
	rec.abandon()
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 || left[0].Name() != "x-00007.pcapng" {
		t.Errorf("%v, %v", left, err)
	}
}

// smallDisk is a directory on a file system of that many bytes.
func smallDisk(t *testing.T, size int) string {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// TestFullDisk: what is whole is kept, and what to do is said.
func TestFullDisk(t *testing.T) {
	if testing.Short() {
		t.Skip("short: no kernel has part in this, it runs on the host")
	}
	s := itemsOf(t, healthy)
	for _, rotate := range []int64{0, 100_000} {
		dir := smallDisk(t, 256<<10)
		path := filepath.Join(dir, "x.pcapng")
		rec, err := openRecording(path, recordingOptions{rotate: rotate})
		if err != nil {
			t.Fatal(err)
		}
		if err := rec.begin(); err != nil {
			t.Fatal(err)
		}
		for err = nil; err == nil; {
			err = s[:len(s)-1].feed(rec)
		}
		if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "make room") || rec.close() == nil {
			t.Fatal(err)
		}
		files, _ := filepath.Glob(filepath.Join(dir, "*"))
		if rotate == 0 && len(files) != 1 || rotate > 0 && len(files) < 2 {
			t.Errorf("files %v", files)
		}
		out, stderr, code := run0(t, append([]string{"replay"}, files...)...)
		if code != 0 || out == "" || stderr != "" {
			t.Errorf("replay of what fits: exit %d, %d bytes, %s", code, len(out), stderr)
		}
	}
}

// TestRecordEnds: at a full disk, by SIGTERM, and in a ring, as a person sees it.
func TestRecordEnds(t *testing.T) {
	if testing.Short() {
		t.Skip("short: no kernel has part in this, it runs on the host")
	}
	w := labUpFor(t)
	dir := smallDisk(t, 256<<10)
	full, ring := filepath.Join(dir, "full.pcapng"), filepath.Join(t.TempDir(), "ring.pcapng")
	onSmallDisk := start(t, append([]string{"record", "-w", full, "tcp"}, netnsFlags(w)...)...)
	inFiles := start(t, append([]string{"record", "-w", ring, "--rotate", "64K", "--keep", "2", "tcp"}, netnsFlags(w)...)...)
	for ended := false; !ended; {
		if _, err := w.Send(ctxBackground, scenarios.Traffic{Connections: 20}, nil); err != nil {
			t.Fatal(err)
		}
		select {
		case <-onSmallDisk.eof:
			ended = true
		default:
		}
	}
	err := onSmallDisk.cmd.Wait()
	if code := onSmallDisk.cmd.ProcessState.ExitCode(); err == nil || code != exitUsage || !strings.Contains(onSmallDisk.stderr.String(), "waymark: the disk is full: "+full) {
		t.Errorf("full disk: %v, %s", err, onSmallDisk.stderr.String())
	}
	if out, stderr, code := run0(t, "replay", "-o", "json", full); code != 0 || len(parseJourneys(t, []byte(out))) == 0 || stderr != "" {
		t.Errorf("replay of what fits: exit %d, %s", code, stderr)
	}
	inFiles.signal(t, syscall.SIGTERM)
	inFiles.wait(t)
	files, _ := filepath.Glob(strings.TrimSuffix(ring, ".pcapng") + "-*.pcapng")
	if said := inFiles.stderr.String(); len(files) != 2 || !strings.Contains(said, "waymark: interrupted: recorded ") || !strings.Contains(said, filepath.Base(files[1])+"\n") {
		t.Errorf("files %v, stderr %s", files, said)
	}
	out, stderr, code := run0(t, append([]string{"replay", "-o", "json"}, files...)...)
	if code != 0 || len(parseJourneys(t, []byte(out))) == 0 {
		t.Errorf("replay of the ring: exit %d, %s", code, stderr)
	}
}

// What a balancer's hash has told.
var hashTold = regexp.MustCompile(`, hash \d+ → lookup\[\d+\]`)

// checkAnonymized replaces the addresses of a recording and wants the same journeys
// with other addresses.
func checkAnonymized(t *testing.T, file string) {
	t.Helper()
	anon, err := decoder.NewAnonymizer([]byte("an anonymizer's key in the tests"))
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "anonymized.pcapng")
	out, err := os.Create(other)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	rec := decoder.NewRecorder(out, decoder.RecorderOptions{})
	redactor, err := decoder.NewRedactor(rec, decoder.PayloadHeaders, anon)
	if err != nil {
		t.Fatal(err)
	}
	s := itemsOf(t, file)
	if err := errors.Join(s.feed(redactor), rec.Close()); err != nil {
		t.Fatal(err)
	}
	want := anon.Text(hashTold.ReplaceAllString(printed(t, s.feed), ""))
	if got := printed(t, itemsOf(t, other).feed); got != want {
		t.Errorf("with other addresses:\n%s", firstDifference(want, got))
	}
}

// printed is what a stream tells as text.
func printed(t *testing.T, give func(decoder.Sink) error) string {
	t.Helper()
	var out strings.Builder
	text := decoder.NewTextWriter(&out, decoder.TextOptions{})
	s := newStitcher(decoder.Options{Emit: func(j *decoder.Journey) { _ = text.Journey(j) }})
	if err := give(s); err != nil {
		t.Fatal(err)
	}
	s.Flush()
	return out.String()
}

// checkChecksums wants no bad checksum, which there are in what virtual devices hand
// on unfinished.
func checkChecksums(t *testing.T, file string) {
	t.Helper()
	if _, err := exec.LookPath("tshark"); err != nil {
		t.Log("tshark is not here")
		return
	}
	args, bad := []string{"-r", file}, []string{"_ws.malformed"}
	for _, proto := range []string{"ip", "tcp", "udp"} {
		args = append(args, "-o", proto+".check_checksum:TRUE")
	}
	for _, proto := range []string{"ip", "tcp", "udp", "icmp", "icmpv6", "igmp"} {
		bad = append(bad, proto+".checksum.status == 0")
	}
	out, err := exec.Command("tshark", append(args, "-Y", strings.Join(bad, " || "))...).Output()
	if err != nil || len(out) > 0 {
		t.Errorf("bad checksums in %s (%v):\n%s", file, err, out)
	}
}

// TestRecordRedacts: what record writes has no application data unless asked to,
// and with --anonymize none of the lab's addresses; Wireshark finds nothing wrong.
func TestRecordRedacts(t *testing.T) {
	if testing.Short() {
		t.Skip("short: no kernel has part in this, it runs on the host")
	}
	w := labUpFor(t)
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name+".pcapng") }
	recorders := map[string]*running{}
	for name, flags := range map[string][]string{
		"headers": nil, "full": {"--payload", "full", "-s", "300"}, "off": {"--payload", "off"}, "anonymized": {"--anonymize"},
	} {
		recorders[name] = start(t, append(append([]string{"record", "-w", file(name)}, flags...), netnsFlags(w)...)...)
	}
	for _, traffic := range []scenarios.Traffic{{Connections: 5}, {Connections: 5, IPv6: true}, {Connections: 5, UDP: true}} {
		if _, err := w.Send(ctxBackground, traffic, nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, r := range recorders {
		r.stop(t)
	}
	content := map[string][]byte{}
	for name := range recorders {
		b, err := os.ReadFile(file(name))
		if err != nil {
			t.Fatal(err)
		}
		content[name] = b
		checkWithWireshark(t, file(name))
	}
	// The lab's targets answer with their names.
	data := []byte("target-")
	if !bytes.Contains(content["full"], data) {
		t.Fatal("the traffic has no such data")
	}
	packetBytes := func(name string) (all []byte) {
		for _, item := range itemsOf(t, file(name)) {
			if raw, ok := item.([]byte); ok {
				all = append(all, raw...)
			}
		}
		return all
	}
	for _, name := range []string{"headers", "off", "anonymized"} {
		if bytes.Contains(packetBytes(name), data) {
			t.Errorf("%s: application data is recorded", name)
		}
	}
	for _, s := range []string{"200.100.0.1", "10.0.0.1", "172.16.1.6", "169.254.100.150", "200:100::1", "1000::1:a00:1"} {
		addr := netip.MustParseAddr(s)
		if addr.Is4() && addr.AsSlice()[0] != 10 && bytes.Contains(content["anonymized"], addr.AsSlice()) || // 10.0.0.1 is a likely number
			addr.Is6() && bytes.Contains(content["anonymized"], addr.AsSlice()) || bytes.Contains(content["anonymized"], []byte(s)) {
			t.Errorf("%s is in the anonymized recording", s)
		}
	}
	checkChecksums(t, file("anonymized"))
	checkAnonymized(t, file("full"))
	var ways [2][]string
	for i, name := range []string{"headers", "anonymized"} {
		out, stderr, code := run0(t, "replay", "-o", "json", file(name))
		if code != 0 {
			t.Fatal(stderr)
		}
		for _, j := range parseJourneys(t, []byte(out)) {
			if j.Packet.Flags == "S" || j.Packet.Flags == "S." {
				ways[i] = append(ways[i], fmt.Sprint(j.Packet.SPort, " ", j.Packet.DPort, " ", j.Packet.Flags, " ", j.way()))
			}
		}
		slices.Sort(ways[i])
	}
	if len(ways[0]) == 0 || !slices.Equal(ways[0], ways[1]) {
		t.Errorf("with other addresses packets went\n%s\nwithout\n%s", strings.Join(ways[1], "\n"), strings.Join(ways[0], "\n"))
	}
}
