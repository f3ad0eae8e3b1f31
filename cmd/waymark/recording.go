// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"waymark/bpf"
	"waymark/decoder"
)

// recordingOptions say what a recording is to have. The zero value is one file
// of headers.
type recordingOptions struct {
	payload   decoder.Payload
	anonymize bool
	rotate    int64 // bytes of a file; 0: one file
	keep      int   // of so many files; 0: all
}

// recording is a recording being written to a file, or to several.
type recording struct {
	decoder.Sink // what redacts, then writes
	parts        *decoder.Parts
	files        *recordingFiles
	once         sync.Once
	err          error

	// What was recorded so far, for who looks from outside.
	packets, records atomic.Uint64
	bytes            atomic.Int64
}

// openRecording opens the file but leaves what is in it until begin: a trace
// that cannot start must not cost an older recording.
func openRecording(path string, o recordingOptions) (*recording, error) {
	files, err := openRecordingFiles(path, o)
	if err != nil {
		return nil, fmt.Errorf("create the recording: %w", err)
	}
	r := &recording{files: files}
	r.parts = decoder.NewParts(decoder.PartsOptions{
		RecorderOptions: decoder.RecorderOptions{NoBytes: o.payload == decoder.PayloadOff},
		Size:            o.rotate,
		Next:            func(int) (io.WriteCloser, error) { return r.files.next() },
	})
	var anon *decoder.Anonymizer
	if o.anonymize {
		var key [decoder.AnonymizerKey]byte
		_, _ = rand.Read(key[:]) // it does not fail
		if anon, err = decoder.NewAnonymizer(key[:]); err != nil {
			return nil, err
		}
	}
	r.Sink, err = decoder.NewRedactor(r.parts, o.payload, anon)
	return r, err
}

// begin empties the file.
func (r *recording) begin() error {
	if err := r.files.begin(); err != nil {
		return fmt.Errorf("begin the recording: %w", err)
	}
	return nil
}

// abandon closes the file without writing to it.
func (r *recording) abandon() { r.once.Do(r.files.abandon) }

// Record also counts: a packet begins with the record that says so.
func (r *recording) Record(raw []byte) error {
	if err := r.Sink.Record(raw); err != nil {
		return r.failed(err)
	}
	r.records.Add(1)
	if len(raw) >= bpf.RecordSize && binary.LittleEndian.Uint16(raw[recordFlagsAt:])&bpf.FlagStart != 0 {
		r.packets.Add(1)
	}
	return nil
}

const recordFlagsAt = unsafe.Offsetof(bpf.Record{}.Flags)

// Context also flushes at each tick of the stream's clock, so that a killed
// recorder loses no more than that.
func (r *recording) Context(c *decoder.Context) error {
	if err := r.Sink.Context(c); err != nil {
		return r.failed(err)
	}
	r.bytes.Store(r.parts.Stats().Bytes)
	if c.Clock != nil {
		if err := r.parts.Flush(); err != nil {
			return r.failed(err)
		}
	}
	return nil
}

func (r *recording) close() error {
	r.once.Do(func() {
		err := r.parts.Close()
		r.bytes.Store(r.parts.Stats().Bytes)
		if err != nil {
			r.err = r.failed(err)
		}
	})
	return r.err
}

// failed says what became of the recording and, of a full disk, what to do.
func (r *recording) failed(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("the disk is full: %s ends with the last whole packet before that and can be replayed; make room, or record with --rotate SIZE --keep N, which needs N times SIZE: %w",
			r.files.current(), err)
	}
	return fmt.Errorf("write the recording: %w", err)
}
