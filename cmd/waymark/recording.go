// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"waymark/decoder"
)

// recording is a recording being written to a file.
type recording struct {
	*decoder.Recorder
	file  *os.File
	bytes atomic.Int64
	once  sync.Once
	err   error
}

// openRecording opens the file but leaves what is in it until begin: a trace
// that cannot start must not cost an older recording.
func openRecording(path string) (*recording, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("create the recording: %w", err)
	}
	r := &recording{file: f}
	r.Recorder = decoder.NewRecorder(r, decoder.RecorderOptions{})
	return r, nil
}

// begin empties the file. Pipes and devices are empty as they are.
func (r *recording) begin() error {
	info, err := r.file.Stat()
	if err == nil && info.Mode().IsRegular() {
		err = r.file.Truncate(0)
	}
	if err != nil {
		return fmt.Errorf("begin the recording: %w", err)
	}
	return nil
}

// abandon closes the file without writing to it.
func (r *recording) abandon() { r.once.Do(func() { r.file.Close() }) }

// Write counts what goes to the file.
func (r *recording) Write(b []byte) (int, error) {
	n, err := r.file.Write(b)
	r.bytes.Add(int64(n))
	return n, err
}

func (r *recording) size() int64 { return r.bytes.Load() }

// Context also flushes at each tick of the stream's clock, so that a killed
// recorder loses no more than that.
func (r *recording) Context(c *decoder.Context) error {
	if err := r.Recorder.Context(c); err != nil {
		return err
	}
	if c.Clock != nil {
		return r.Flush()
	}
	return nil
}

func (r *recording) close() error {
	r.once.Do(func() {
		r.err = r.Recorder.Close()
		if err := r.file.Close(); r.err == nil {
			r.err = err
		}
		if r.err != nil {
			r.err = fmt.Errorf("write the recording: %w", r.err)
		}
	})
	return r.err
}
