// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"encoding/binary"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"waymark/bpf"
	"waymark/decoder"
)

// What TestRecordAtSpeed sends and records.
const (
	speedRate    = 500_000 // packets per second
	speedTime    = 20 * time.Second
	speedSnapLen = "128"
	speedSpace   = 8 << 30 // bytes that it may need
)

// TestRecordAtSpeed records every packet of a steady flood through a link to memory,
// and accounts for each: all packets that were sent are in the recording or counted
// as lost. `make bench` runs it.
//
// The flood enters lb by its device there and is taken out behind waymark's hook, so
// that of the machine's processors one can send, and the other is the recorder's.
func TestRecordAtSpeed(t *testing.T) {
	if os.Getenv("WAYMARK_BENCH") == "" {
		t.Skip("a measurement: make bench runs it")
	}
	w := labUpFor(t)
	dir := inMemory(t, speedSpace)
	p := newForwarding(t, w, floodWay{
		from: nodeDevice{"gw", "ext0"}, next: nodeDevice{"lb", "nsm-1"}, counted: []nodeDevice{{"lb", "nsm-1"}},
		src: meridioWay.src, port: meridioWay.port,
	})
	r := start(t, "record", "-w", filepath.Join(dir, "speed.pcapng"), "--rotate", "1G", "-s", speedSnapLen, "--netns", w.Namespace("lb"))
	before := p.count()
	began := time.Now()
	sent := uint64(p.flood(ctxBackground, t, netip.MustParseAddr("172.16.1.6"), speedRate, speedTime))
	took := time.Since(began)
	arrived := p.count() - before
	r.stop(t)
	for line := range strings.Lines(r.stderr.String()) {
		t.Log(strings.TrimSpace(line))
	}
	c := countRecorded(t, dir)
	rate := float64(sent) / took.Seconds()
	t.Logf("sent %d packets in %.1f s (%.0f/s), %d arrived", sent, took.Seconds(), rate, arrived)
	t.Logf("recorded %d of them, %d records in all, %.1f GB in %d files; %d packets' first records were lost and %d not followed, %d records lost in all",
		c.packets, c.records, float64(c.bytes)/1e9, c.files, c.lostFirst, c.untracked, c.lost)
	user, system := r.cmd.ProcessState.UserTime(), r.cmd.ProcessState.SystemTime()
	each := float64(max(c.records, 1))
	t.Logf("the recorder took %.2f of a core, attaching included: %.0f ns a record of its own and %.0f of the kernel",
		(user+system).Seconds()/took.Seconds(), float64(user)/each, float64(system)/each)
	if rate < 0.98*speedRate {
		t.Logf("this machine does not send %d packets/s beside a recorder", speedRate)
	}
	if arrived != sent || c.packets+c.lostFirst+c.untracked != sent {
		t.Errorf("sent %d, arrived %d, accounted for %d", sent, arrived, c.packets+c.lostFirst+c.untracked)
	}
	if c.records != c.ended.Records || c.lost != c.ended.Lost {
		t.Errorf("the recording ends with %+v, it has %d records and tells of %d lost", c.ended, c.records, c.lost)
	}
}

// inMemory is a directory in memory with that much room.
func inMemory(t *testing.T, space uint64) string {
	t.Helper()
	const shm = "/dev/shm"
	var fs unix.Statfs_t
	if err := unix.Statfs(shm, &fs); err != nil || fs.Type != unix.TMPFS_MAGIC || fs.Bavail*uint64(fs.Bsize) < space {
		t.Skipf("SKIPPED: %s has no %d GB in memory", shm, space>>30)
	}
	dir, err := os.MkdirTemp(shm, "waymark-bench-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// recordedCount is what a recording has.
type recordedCount struct {
	records, packets           uint64 // packets of the flood
	lost, lostFirst, untracked uint64
	ended                      decoder.End
	bytes                      int64
	files                      int
	hooks                      [bpf.HookMax]uint64
}

func (c *recordedCount) Record(raw []byte) error {
	c.records++
	c.hooks[binary.LittleEndian.Uint16(raw[recordHookAt:])]++
	if binary.LittleEndian.Uint16(raw[recordHookAt:]) == uint16(bpf.HookTCIngress) && raw[recordProtoAt] == unix.IPPROTO_UDP {
		c.packets++
	}
	return nil
}

const (
	recordHookAt  = unsafe.Offsetof(bpf.Record{}.Hook)
	recordProtoAt = unsafe.Offsetof(bpf.Record{}.Proto)
)

func (c *recordedCount) Context(x *decoder.Context) error {
	switch {
	case x.Loss != nil && x.Loss.Kind == "ring":
		c.lost += x.Loss.Count
		if bpf.Hook(x.Loss.Hook) == bpf.HookTCIngress {
			c.lostFirst += x.Loss.Count
		}
	case x.Loss != nil && x.Loss.Kind == "untracked" && bpf.Hook(x.Loss.Hook) == bpf.HookTCIngress:
		c.untracked += x.Loss.Count
	case x.End != nil:
		c.ended = *x.End
	}
	return nil
}

// countRecorded counts what is in the files of a recording, and removes them.
func countRecorded(t *testing.T, dir string) (c recordedCount) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		result, err := decoder.Replay(f, &c)
		f.Close()
		if err != nil || result.Truncated {
			t.Fatalf("%s: %+v, %v", file, result, err)
		}
		c.bytes += result.Offset
		os.Remove(file)
	}
	c.files = len(files)
	return c
}
