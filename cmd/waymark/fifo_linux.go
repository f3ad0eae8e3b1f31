// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"waymark/decoder"
	"waymark/tracer"
)

// fifo is a recording for a reader that may go at any time: that ends the trace
// and is no error.
type fifo struct {
	decoder.Sink // what redacts, then records
	rec          interface {
		Flush() error
		Close() error
	}
	out  *os.File
	gone bool
}

// newFifo records to out; with journeys each packet waits for the end of its journey.
func newFifo(out *os.File, journeys bool, payload decoder.Payload) (*fifo, error) {
	f := &fifo{out: out}
	o := decoder.RecorderOptions{NoBytes: payload == decoder.PayloadOff}
	var next decoder.Sink
	if journeys {
		a := decoder.NewAnnotator(out, o, (&replayOptions{}).decoder())
		f.rec, next = a, a
	} else {
		r := decoder.NewRecorder(out, o)
		f.rec, next = r, r
	}
	var err error
	f.Sink, err = decoder.NewRedactor(next, payload, nil)
	return f, err
}

// Record implements decoder.Sink.
func (f *fifo) Record(raw []byte) error { return f.judge(f.Sink.Record(raw)) }

// Context implements decoder.Sink. At each tick of the stream's clock it shows
// the reader what there is, and looks whether it is still there: where nothing
// happens, nothing is written that could fail.
func (f *fifo) Context(c *decoder.Context) error {
	if f.gone {
		return nil // the trace's end is told to nobody
	}
	if err := f.judge(f.Sink.Context(c)); err != nil || c.Clock == nil {
		return err
	}
	if err := f.judge(f.rec.Flush()); err != nil {
		return err
	}
	if f.hasNoReader() {
		return f.judge(syscall.EPIPE)
	}
	return nil
}

func (f *fifo) hasNoReader() bool {
	raw, err := f.out.SyscallConn()
	if err != nil {
		return false
	}
	none := false
	err = raw.Control(func(fd uintptr) {
		poll := []unix.PollFd{{Fd: int32(fd)}}
		n, err := unix.Poll(poll, 0)
		none = err == nil && n > 0 && poll[0].Revents&unix.POLLERR != 0
	})
	return err == nil && none
}

func (f *fifo) judge(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.EPIPE), errors.Is(err, os.ErrDeadlineExceeded):
		f.gone = true
		return tracer.ErrDone
	}
	return fmt.Errorf("write to the fifo: %w", err)
}

func (f *fifo) close() error {
	if f.gone {
		return nil
	}
	if err := f.judge(f.rec.Close()); !errors.Is(err, tracer.ErrDone) {
		return err
	}
	return nil
}
