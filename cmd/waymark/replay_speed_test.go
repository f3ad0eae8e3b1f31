// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"unsafe"

	"waymark/bpf"
	"waymark/decoder"
)

// What a long recording may take to replay.
const (
	replayedRecords = 5_000_000
	replayRate      = 500_000 // records per second of CPU time, as text
	replayMemory    = 256     // MiB, whatever the length
	replaySpace     = 4 << 30 // bytes that the recording may need
)

// TestReplayAtSpeed replays a recording of five million records: one of a connection
// through Meridio, over and over. `make bench` runs it.
func TestReplayAtSpeed(t *testing.T) {
	if os.Getenv("WAYMARK_BENCH") == "" {
		t.Skip("a measurement: make bench runs it")
	}
	file := filepath.Join(inMemory(t, replaySpace), "long.pcapng")
	records := writeLong(t, file)
	for _, output := range []string{"text", "json"} {
		cmd := exec.Command(waymarkBin, "replay", "-o", output, file)
		cmd.Stderr = os.Stderr
		null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stdout = null
		err = cmd.Run()
		null.Close()
		if err != nil {
			t.Fatal(err)
		}
		took := (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
		memory := cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss >> 10
		t.Logf("%s: %d records in %.1f s of CPU time, %.0f a second, %d MiB", output, records, took, float64(records)/took, memory)
		if output == "text" && float64(records)/took < replayRate || memory > replayMemory {
			t.Errorf("want %d a second of CPU time, and at most %d MiB", replayRate, replayMemory)
		}
	}
}

// writeLong writes the library's recording of a connection again and again, each time
// later and with trails of its own, and returns how many records that are.
func writeLong(t *testing.T, file string) (records int) {
	t.Helper()
	in, err := os.Open("../../scenarios/meridio/healthy-v4/healthy-v4.pcapng")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	var once recordedOnce
	if _, err := decoder.Replay(in, &once); err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	r := decoder.NewRecorder(out, decoder.RecorderOptions{})
	for round := uint64(0); records < replayedRecords; round++ {
		for _, item := range once.items {
			switch item := item.(type) {
			case []byte:
				once.later(item, round)
				err = r.Record(item)
				records++
			case *decoder.Context:
				if round > 0 && item.Clock == nil || item.End != nil {
					continue
				}
				c := *item
				c.Time += round * once.span()
				if item.Clock != nil {
					c.Clock = &decoder.Clock{Told: item.Clock.Told + round*once.span()}
				}
				err = r.Context(&c)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	return records
}

// recordedOnce holds a stream.
type recordedOnce struct {
	items       []any // []byte or *decoder.Context
	first, last uint64
}

func (o *recordedOnce) Record(raw []byte) error {
	now := binary.NativeEndian.Uint64(raw[unsafe.Offsetof(bpf.Record{}.TimeNs):])
	if o.first == 0 {
		o.first = now
	}
	o.last = max(o.last, now)
	o.items = append(o.items, slices.Clone(raw))
	return nil
}

func (o *recordedOnce) Context(c *decoder.Context) error {
	o.items = append(o.items, c)
	return nil
}

// span is how long after each other the rounds begin.
func (o *recordedOnce) span() uint64 { return o.last - o.first + 1_000_000 }

// later makes raw the record of the given round, from that of the round before.
func (o *recordedOnce) later(raw []byte, round uint64) {
	if round == 0 {
		return
	}
	add := func(at uintptr, n uint64) {
		if v := binary.NativeEndian.Uint64(raw[at:]); v != 0 {
			binary.NativeEndian.PutUint64(raw[at:], v+n)
		}
	}
	const trails = 1 << 20 // more than a round has, so that none comes twice
	add(unsafe.Offsetof(bpf.Record{}.TimeNs), o.span())
	add(unsafe.Offsetof(bpf.Record{}.Trail), trails)
	add(unsafe.Offsetof(bpf.Record{}.Parent), trails)
}
